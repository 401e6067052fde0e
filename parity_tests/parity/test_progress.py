"""A search says how far it is, and chains of several mistakes have an end in time."""

import io

from npgpt.parity import causes, progress
from parity_tests.support.causes import ALL, SHORT, TOGETHER, Bench, port_of


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(stream, times, told):
    """Return the line after calls at these times, the first of which is that of its beginning."""
    clock = iter(times)
    line = progress.Line(stream, clock=lambda: next(clock))
    for call in told:
        line(*call)
    return line


def test_a_line_is_written_after_two_seconds_with_the_time_left():
    stream = io.StringIO()
    lines(stream, [0, 1.9, 4.0, 5.0], [(10, 100, 10.0), (50, 100, 10.0), (60, 100, 10.0)])
    assert stream.getvalue() == "tried 50 of 100 known mistakes, at most 14 s left\n"


def test_a_terminal_overwrites_the_line_and_removes_it():
    stream = Terminal()
    lines(stream, [0, 2.0, 4.0], [(10, 100, 0.0), (50, 100, 0.0)]).clear()
    text = stream.getvalue()
    assert text.count("\r") == 4
    assert text.endswith(" \r")


def test_time_left_is_of_the_mistakes_that_are_tried_now():
    stream = io.StringIO()
    lines(stream, [0, 30.0, 31.0, 41.0], [(10, 10, 0.0), (0, 100, 0.0), (50, 100, 0.0)])
    assert stream.getvalue().splitlines()[-1].endswith("at most 10 s left")


def test_a_search_tells_how_many_mistakes_it_tries():
    bench, told = Bench(), []
    token = progress.TELL.set(lambda *numbers: told.append(numbers))
    try:
        assert bench.causes(SHORT, port_of("gelu-exact")) == [{"gelu-exact"}]
    finally:
        progress.TELL.reset(token)
    assert [done for done, _, _ in told] == list(range(len(told)))
    assert {total for _, total, _ in told} == {len(told)}


def test_chains_of_mistakes_end_in_time(monkeypatch):
    """With more time, test_causes.py finds this pair."""
    monkeypatch.setattr(causes, "PATIENCE_SMALL", -1.0)
    assert Bench().causes(ALL, port_of(*TOGETHER[0])) == []


def test_mistakes_of_a_large_model_that_change_the_same_lines_are_left_out(monkeypatch):
    monkeypatch.setattr(causes, "KEPT", 0)
    bench = Bench()
    own = bench.compute(SHORT, port_of("gelu-exact"))
    chain = tuple(one for one in causes.MISTAKES if one.name in ("relu", "gelu-quick"))
    assert bench.lab(own).position(chain, own, 0) == -1
