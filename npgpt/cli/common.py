"""What several commands do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

Weights = Literal["float32", "bfloat16", "int8"]

COMPILING = "Compiling kernels for this CPU, which takes up to a minute;"


def latest_or(path: Path | None) -> Path:
    """The path, or the newest run's under ./runs."""
    if path is not None:
        return path
    from npgpt.training import run_dir

    return run_dir.latest()


def load(path: Path | None, weights: Weights | None):
    """The model at `path`, or the newest under ./runs, its matrices kept as `weights`."""
    from npgpt import gpt

    return gpt.load(latest_or(path), weights=weights)


def track_progress(items, total: int, *, quiet: bool = False, description: str = ""):
    """`items`, with a bar and the time left on a terminal."""
    if quiet:
        return items
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        return items
    return track(items, total=total, console=console, description=description, transient=True)


@contextmanager
def announce_compilation(ops: str = "fused") -> Iterator[None]:
    """Whatever of that backend has to be compiled in here is announced, in one line on stderr.

    There is none where everything is in Numba's cache. `ops`: "fused", or "numpy" without Numba.
    """
    if ops != "fused":
        yield
        return
    try:
        from numba.core import event  # not documented: without it nothing is announced
    except ImportError:
        yield
        return

    class Announcement(event.Listener):
        said = False

        def on_start(self, event):
            if not self.said:
                from npgpt.kernels import cache

                self.said, folder = True, cache.directory()
                kept = f"they are kept in {folder}" if folder else "they cannot be kept: npgpt info"
                print(COMPILING, kept, file=sys.stderr, flush=True)

        def on_end(self, event):
            pass

    with event.install_listener("numba:compile", Announcement()):
        yield
