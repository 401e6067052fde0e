"""Lines of a run whose output is not a terminal."""

import io

import pytest

from npgpt.data.tokenizer import tokenizer
from npgpt.training.events import Evaluation, Step
from npgpt.training.progress_bar import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def follow(seconds, *, total, done=0, stream=None):
    """Return what is shown, and when: the time of each new text, for steps of these lengths."""
    now, stream, times = [1000.0], stream or io.StringIO(), []
    with ProgressBar(total, tokenizer("byte"), done=done, file=stream, clock=lambda: now[0]) as bar:
        for number, length in enumerate(seconds, done):
            now[0] += length
            before = stream.tell()
            bar.show(Step(number, 2, 16, 3.25, 6e-4, 0.5, length, 12345.6, False))
            if stream.tell() > before:
                times.append(now[0] - 1000)
    return stream.getvalue(), times


def test_a_line_has_all_that_the_bar_shows():
    said, times = follow([6] * 11, total=211, done=100)
    assert times == [60]
    assert said == (
        "Ep 2 (Step 000109): loss 3.250, lr 6.00e-04, 12,346 tokens/s, 10.1 minutes left\n"
    )


@pytest.mark.parametrize("length", [0.25, 7, 25, 59, 61, 1000])
def test_there_is_a_line_at_least_once_a_minute(length):
    count = int(max(300 // length, 4))
    said, times = follow([length] * count, total=10_000)
    gaps = [end - start for start, end in zip([0, *times], times, strict=False)]
    assert max(gaps) <= max(60, length)
    assert count * length - times[-1] <= 60
    assert min(gaps) > 30 or length > 30  # and not many more
    assert not set("\x1b\r\u2501") & set(said)


def test_a_short_run_and_the_last_step_have_none():
    assert follow([5] * 10, total=10) == ("", [])
    assert follow([50, 50, 50], total=3)[1] == [50, 100]


def test_other_lines_do_not_replace_it():
    now, stream = [0.0], io.StringIO()
    with ProgressBar(99, tokenizer("byte"), file=stream, clock=lambda: now[0]) as bar:
        for number in range(10):
            now[0] += 20
            bar.show(Evaluation(number, 1, 16, 3.0, 3.5, 1e-3, 32.0))
            bar.show(Step(number, 1, 16, 3.25, 6e-4, None, 20.0, 32.0, False))
    assert stream.getvalue().count("left\n") == 3


def test_a_terminal_has_its_bar_instead(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    said, _ = follow([100] * 5, total=10, stream=Terminal())
    assert "left" not in said
    assert "\u2501" in said
