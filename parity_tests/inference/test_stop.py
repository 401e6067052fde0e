"""A text ends before the first stop string, in any pieces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npgpt
from npgpt.errors import InputError
from npgpt.inference.stop import StoppableText, check_stops

BYTE = npgpt.tokenizer("byte")


def fed(text, stops):
    """Return the pieces that the bytes of a text settle, and whether the text stopped."""
    writer, pieces = StoppableText(BYTE, [], stops), []
    for token in BYTE.encode(text):
        pieces.append(writer.feed(token))
        if writer.has_stopped:
            break
    return [*pieces, writer.end()], writer.has_stopped


@settings(deadline=None)
@given(st.text("aböc", max_size=30), st.lists(st.text("aböc", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string(text, stops):
    pieces, stopped = fed(text, stops)
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stops)]
    assert stopped == bool(ends)
    if not ends:
        assert "".join(pieces) == text
        return
    found = "".join(pieces)  # when the first is complete, the earliest one counts
    assert text.startswith(found)
    assert not any(stop in found for stop in stops)
    assert min(text[: ends[0]].find(s) for s in stops if s in text[: ends[0]]) == len(found)


def test_text_waits_only_while_it_may_begin_a_stop_string():
    assert fed("abcabd", ["abd"]) == (["", "", "abc", "", "", "", ""], True)
    assert fed("abcab", ["abd"]) == (["", "", "abc", "", "", "ab"], False)
    assert fed("xyz", []) == (["x", "y", "z", ""], False)


def test_a_stop_string_that_a_cut_character_completes():
    """The end of a text settles a character that has lost bytes."""
    writer = StoppableText(BYTE, [], ["\ufffd"])
    assert [writer.feed(97), writer.feed(0xE2), writer.end()] == ["a", "", ""]
    assert writer.has_stopped


@pytest.mark.parametrize("stops", ["ab", [""], ["a", 3]])
def test_stop_strings_that_are_none(stops):
    with pytest.raises(InputError, match="must be strings that are not empty"):
        check_stops(stops)
