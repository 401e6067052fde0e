"""A disk on which the n-th write, sync, rename, ... raises an OSError.

The operations are those of Python: `os.write`, `os.fsync`, `open` and so on are replaced. The HDF5
library writes through a Python file object, so that its writes are among them.
"""

import builtins
import contextlib
import errno
import io
import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

OPERATIONS = {  # the functions that are replaced, by the kind of operation
    "write": ["write"], "sync": ["fsync"], "rename": ["replace", "rename"], "open": ["open"],
    "mkdir": ["mkdir"], "delete": ["unlink", "remove", "rmdir"], "truncate": ["ftruncate"],
}  # fmt: skip
ERRORS = {
    "write": (errno.ENOSPC, errno.EIO), "append": (errno.ENOSPC, errno.EIO),
    "sync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EIO, errno.EACCES), "open": (errno.EACCES, errno.EIO, errno.ENOMEM),
    "mmap": (errno.ENOMEM, errno.EACCES), "mkdir": (errno.ENOSPC, errno.EIO),
    "delete": (errno.EIO,), "truncate": (errno.EIO,), "read": (errno.EIO,),
}  # fmt: skip


@dataclass
class Faults:
    """Let the `number`-th operation of a kind fail, in the files below `root`; count all of them.

    `forever`: all later ones of this kind fail too; after EIO all of any kind, as on a dead disk.
    """

    root: Path
    kind: str = ""
    number: int = 0
    code: int = 0
    forever: bool = False
    counts: Counter = field(default_factory=Counter)
    before: dict[str, bytes] | None = None  # the files when the first operation failed
    busy: bool = False

    def check(self, kind: str, path: Any) -> None:
        """Count an operation on a path or descriptor. Raise OSError if it is to fail."""
        name = path_of(path)
        if self.busy or not name.startswith(f"{self.root}{os.sep}"):
            return
        if kind == "write" and ".part" not in name:  # to a file that others may read
            kind = "append"
        self.counts[kind] += 1
        dead = self.forever and self.before is not None
        dead &= self.code == errno.EIO or kind == self.kind
        if not dead and (kind, self.counts[kind]) != (self.kind, self.number):
            return
        if self.before is None:
            self.busy = True
            self.before, self.busy = contents(self.root), False
        raise OSError(self.code, os.strerror(self.code), None if isinstance(path, int) else path)

    @contextlib.contextmanager
    def installed(self) -> Iterator["Faults"]:
        """Replace Python's functions for the length of the block."""
        with contextlib.ExitStack() as stack:
            for kind, names in OPERATIONS.items():
                for name in names:
                    stack.enter_context(mock.patch.object(os, name, self.failing(kind, name)))
            stack.enter_context(mock.patch.object(mmap, "mmap", self.map_file))
            for module in (io, builtins):
                stack.enter_context(mock.patch.object(module, "open", self.open_file))
            yield self

    def failing(self, kind: str, name: str) -> Callable[..., Any]:
        """Return the function of `os` with this name that may fail."""
        function = getattr(os, name)

        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                self.check(kind, path)
            except OSError:
                if kind == "write":  # a disk that fills up takes a part first
                    function(path, memoryview(args[0]).cast("B")[: len(args[0]) // 2])
                raise
            return function(path, *args, **kwargs)

        return call

    def map_file(self, handle: int, *args: Any, **kwargs: Any) -> Any:
        """`mmap.mmap` that may fail."""
        self.check("mmap", handle)
        return MMAP(handle, *args, **kwargs)

    def open_file(self, file: Any, mode: str = "r", buffering: int = -1, *text: Any,
                  closefd: bool = True, opener: Any = None, **options: Any) -> Any:  # fmt: skip
        """`open` whose result may fail to write and to read."""
        if self.busy or not path_of(file).startswith(f"{self.root}{os.sep}"):
            return OPEN(file, mode, buffering, *text, closefd=closefd, opener=opener, **options)
        if opener is None and not isinstance(file, int):
            self.check("open", file)
        raw = FailingFile(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        raw.faults = self
        kinds = {"r": io.BufferedReader, "+": io.BufferedRandom}
        kind = next((kind for key, kind in kinds.items() if key in mode), io.BufferedWriter)
        buffered = kind(raw, BUFFER)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *text, **options)


class FailingFile(io.FileIO):
    """A file whose reads and writes may fail."""

    faults: Faults

    def write(self, data: Any) -> int:
        return os.write(self.fileno(), data)

    def readinto(self, buffer: Any) -> int:
        self.faults.check("read", self.fileno())
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self.faults.check("read", self.fileno())
        return super().readall()


OPEN, MMAP = open, mmap.mmap
BUFFER = 2048  # bytes, so that small files are written in several parts too


def path_of(file: Any) -> str:
    """Return the absolute path of a path or a descriptor."""
    if isinstance(file, int):
        try:
            return os.readlink(f"/proc/self/fd/{file}")
        except OSError:
            return ""
    return os.path.abspath(os.fsdecode(file))


def contents(root: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a directory, by its path from there."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}
