"""The progress of the search for causes: a line after two seconds, with the time that is left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

FIRST, NEXT, NEXT_LINE = 2.0, 0.5, 10.0  # seconds; NEXT: of a line that is overwritten

Tell = Callable[[int, int, float], None]  # mistakes tried, of how many, seconds for more

TELL: ContextVar[Tell | None] = ContextVar("TELL", default=None)


def tell(done: int, total: int, more: float) -> None:
    """Tell that `done` mistakes of `total` were tried, and `more` seconds may follow."""
    if (function := TELL.get()) is not None:
        function(done, total, more)


class Line:
    """A line on a stream, which a terminal overwrites."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self.stream, self.clock = stream, clock
        self.start = self.begin = clock()  # of everything, and of these mistakes
        self.due, self.done, self.width = self.start + FIRST, 0, 0

    def __call__(self, done: int, total: int, more: float) -> None:
        """Write the line if it is due."""
        now = self.clock()
        if done <= self.done:  # others begin
            self.begin = now
        self.done = done
        if now < self.due:
            return
        left = more + (now - self.begin) * (total - done) / max(done, 1)
        text = f"tried {done} of {total} known mistakes, at most {left:.0f} s left"
        if self.stream.isatty():
            self.stream.write(f"\r{text.ljust(self.width)}")
        else:
            self.stream.write(f"{text}\n")
        self.stream.flush()
        self.width = len(text)
        self.due = now + (NEXT if self.stream.isatty() else NEXT_LINE)

    def clear(self) -> None:
        """Remove the line from a terminal."""
        if self.width and self.stream.isatty():
            self.stream.write(f"\r{' ' * self.width}\r")
            self.stream.flush()


@contextmanager
def shown(stream: TextIO | None = None) -> Iterator[None]:
    """Show the progress of searches on standard error, or on another stream."""
    line = Line(sys.stderr if stream is None else stream)
    token = TELL.set(line)
    try:
        yield
    finally:
        TELL.reset(token)
        line.clear()
