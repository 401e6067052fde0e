"""Stop a run on a signal, after the step under way."""

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

from npgpt.system.console import is_dumb

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
PASSED_ON = ("SIGUSR1",)  # by mpirun to all ranks, which it would kill on the others
SHOW_CURSOR = b"\x1b[?25h"


def status_of(number: int) -> int:
    """Return the exit status after a signal, as shells report it."""
    return 128 + number


INTERRUPTED = status_of(signal.SIGINT)


class StopRequest:
    """`with StopRequest() as stop`: a signal sets `stop.number` instead of ending the process.

    A second Ctrl-C ends the process at once. A signal that was ignored before stays ignored, as
    SIGHUP is by nohup. In another thread than the main one, which receives no signals, the block
    runs without handlers.

    `many`: the process is one of many ranks. They agree on a signal before anything is printed, and
    SIGUSR1 asks them to stop, too.
    """

    number: int | None = None

    def __init__(self, many: bool = False):
        self.many = many

    def __enter__(self) -> "StopRequest":
        # A progress bar replaces sys.stderr by a stream with locks, on which a handler could wait
        # for ever.
        self.stderr = sys.stderr
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            names = NAMES + (PASSED_ON if self.many else ())
            for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
                # None: a handler that is not Python's, which could not be restored
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.before[number] = signal.signal(number, self.handle)
        return self

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. Nothing is raised: the step under way may be writing a file."""
        again = self.number is not None
        if not again:
            self.number = number
            if self.many:
                return
            with suppress(Exception):
                print("\nFinishing this step, then saving ...", file=self.stderr, flush=True)
        elif number == signal.SIGINT:  # others come together, from a terminal that is closed
            with suppress(Exception):
                if os.isatty(1) and not is_dumb():
                    os.write(1, SHOW_CURSOR)  # which the progress bar has hidden
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
