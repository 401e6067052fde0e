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
INTERRUPTED = 128 + signal.SIGINT  # an exit status, as shells report a signal
SHOW_CURSOR = b"\x1b[?25h"


class StopRequest:
    """`with StopRequest() as stop`: a signal sets `stop.number` instead of ending the process.

    A second Ctrl-C ends the process at once. A signal that was ignored before stays ignored, as
    SIGHUP is by nohup. In another thread than the main one, which receives no signals, the block
    runs without handlers.
    """

    number: int | None = None

    def __enter__(self) -> "StopRequest":
        # A progress bar replaces sys.stderr by a stream with locks, on which a handler could wait
        # for ever.
        self.stderr = sys.stderr
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                # None: a handler that is not Python's, which could not be restored
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.before[number] = signal.signal(number, self.handle)
        return self

    @property
    def exit_status(self) -> int:
        """The exit status after the signal: 128 + its number."""
        return 128 + (self.number or 0)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. Nothing is raised: the step under way may be writing a file."""
        again = self.number is not None
        if not again:
            self.number = number
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
