"""Standard output and error that may be closed, full, broken or missing.

A command that prints results fails when they cannot be written. A training run continues, and a log
keeps the text that could not be shown. A stream may be None, as without a console.
"""

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

lock = threading.Lock()  # sys.stdout and sys.stderr belong to the whole process


class OutputError(Exception):
    """Raised when a stream cannot be written to; the first time only, then its text is dropped.

    Parameters
    ----------
    error : Exception
        The error of the stream.
    """

    def __init__(self, error: Exception):
        super().__init__(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        broken = errno.EINVAL if sys.platform == "win32" else errno.EPIPE
        self.is_broken_pipe = getattr(error, "errno", None) == broken


class Log:
    """Text that could not be shown. It is kept in memory until there is a file for it."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.write: Callable[[str], object] = self.waiting.append

    def write_to(self, write: Callable[[str], object]) -> None:
        """Pass the text on to `write`: what is waiting now, all else later."""
        self.write = write
        for text in self.waiting:
            write(text)
        self.waiting.clear()


class Output:
    """A text stream that fails in one way.

    Parameters
    ----------
    stream : TextIO or None
        The stream to write to, such as sys.stdout.
    name : str
        Its name in the log.
    log : Log, optional
        If given, nothing is ever raised, and what cannot be shown is written to the log. Without
        it, the first failure raises OutputError. Text after a failure is not shown.
    """

    def __init__(self, stream: TextIO | None, name: str, log: Log | None = None):
        self.stream, self.name, self.log = stream, name, log
        self.failed = self.written = False
        self.is_over = False  # True after the command that it was made for
        self.is_terminal = True  # False: not one, although the stream says so
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text."""
        self.written = True
        self.attempt(lambda stream: write(stream, text), text)
        return len(text)

    def flush(self) -> None:
        """Write the text that the stream has buffered."""
        if self.written:  # a closed stream to which nothing is written is no failure
            self.attempt(lambda stream: stream.flush(), "")

    def isatty(self) -> bool:
        """Return True if the stream is a terminal that has not failed."""
        with suppress(Exception):
            stream = self.stream if self.is_terminal and not self.failed else None
            return stream is not None and stream.isatty()
        return False

    def attempt(self, action: Callable[[TextIO], object], text: str) -> None:
        """Do something with the stream; `text` is lost if that fails."""
        if not self.failed:
            try:
                if self.stream is None:
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                action(self.stream)
                if self.log is not None and text:
                    self.stream.flush()  # while it is known which text is lost
                return
            except Exception as error:  # a notebook's stream may raise anything
                # A signal handler printed while its thread was printing: only its text is lost.
                reentrant = isinstance(error, RuntimeError) and "reentrant call" in str(error)
                if self.log is None or not reentrant:
                    self.fail(error)
        # What moves a cursor or sets colours is for a terminal only.
        if self.log is not None and text and "\x1b" not in text:
            self.log.write(text)

    def fail(self, error: Exception) -> None:
        """Give the stream up, and raise OutputError unless there is a log."""
        self.failed, reason = True, OutputError(error)
        if self.stream in (sys.__stdout__, sys.__stderr__) and self.stream is not None:
            # Python flushes them at its end, and would report the same failure again.
            with suppress(Exception):
                descriptor = self.stream.fileno()
                null = os.open(os.devnull, os.O_WRONLY)
                if null != descriptor:  # unless it was closed, and is the first that is free
                    os.dup2(null, descriptor)
                    os.close(null)
        if self.log is None:
            raise reason from None
        why = f"{self.name} could not be written: {reason}"
        self.log.write(f"[{why}. What follows was not shown.]\n")


def write(stream: TextIO, text: str) -> None:
    """Write a text; characters that the encoding of the stream lacks are replaced."""
    try:
        stream.write(text)
    except UnicodeEncodeError as error:  # which calls a code page of Windows just "charmap"
        encoding = getattr(stream, "encoding", None) or error.encoding
        stream.write(text.encode(encoding, "replace").decode(encoding))


@contextmanager
def checked_output() -> Iterator[Output]:
    """Wrap standard output and error for the length of a command. Yield standard output.

    The command fails if its output cannot be written, but not if its messages cannot.
    """
    with lock:
        output: Any = Output(sys.stdout, "standard output")
        messages: Any = Output(sys.stderr, "standard error", Log())
        sys.stdout, sys.stderr = output, messages
    try:
        yield output
    finally:
        with lock:
            output.is_over = messages.is_over = True
            sys.stdout, sys.stderr = unwrap(sys.stdout), unwrap(sys.stderr)


def unwrap(stream: Any) -> Any:
    """Return the stream below the wrappers of commands that are over.

    Commands in several threads end in any order: one that has started later may still be under way.
    """
    while isinstance(stream, Output) and stream.is_over:
        stream = stream.stream
    return stream


def keep_unshown() -> Log:
    """Let no stream fail from here on in a command. Return the log of what cannot be shown."""
    log = Log()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Output):
            stream.log = log
    return log


def reserve_descriptors() -> None:
    """Open the descriptors 0, 1 and 2 if they are closed.

    A file of the run would take their place, and receive what a library prints there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
