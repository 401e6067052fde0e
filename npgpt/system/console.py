"""Progress bars and colours, for streams that are terminals only.

Libraries also obey FORCE_COLOR and the like, or look at one stream and write to the other.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO, TYPE_CHECKING, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")


def is_live(stream: IO[str] | None) -> bool:
    """Return True if the stream is a terminal that obeys escape sequences."""
    with suppress(Exception):  # a closed stream, or one without isatty
        return stream is not None and stream.isatty() and not is_dumb()
    return False


def is_dumb() -> bool:
    """Return True if the terminal obeys no escape sequences."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def has_colors(stream: IO[str] | None) -> bool:
    """Return True if the stream is a terminal whose user has not set NO_COLOR."""
    return is_live(stream) and not os.environ.get("NO_COLOR")


def make_bar(stream: TextIO, *columns: "ProgressColumn", transient: bool = False) -> "Progress":
    """Return a progress bar, which is disabled unless the stream is a terminal.

    `columns`: by default a description, the bar, the percentage and the time left.
    """
    from rich.console import Console
    from rich.progress import Progress

    class Terminal(Console):
        @property
        def is_terminal(self) -> bool:
            return is_live(self.file) and super().is_terminal

    live = is_live(stream)
    console = Terminal(
        file=stream, force_interactive=live, force_jupyter=False, highlight=False, markup=False
    )
    return Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        transient=transient,
        # Lines for a terminal are printed above the bar. Lines for a file stay in the file.
        redirect_stdout=is_live(sys.stdout),
        redirect_stderr=is_live(sys.stderr),
    )


def track_progress(
    items: Iterable[T], total: int, *, quiet: bool = False, description: str = ""
) -> Iterable[T]:
    """Iterate over `items`; with a progress bar if standard error is a terminal."""
    if quiet or not is_live(sys.stderr):
        return items
    return track(make_bar(sys.stderr, transient=True), items, total, description)


def track(bar: "Progress", items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Iterate over `items` with this bar."""
    with bar:
        yield from bar.track(items, total, description=description)
