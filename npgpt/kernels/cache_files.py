"""Compiled kernels on the disk: one file for each, which begins with a digest of the rest.

Numba runs the machine code that it finds in a file. After a power failure that may be a part of a
kernel, or zeros, because Numba does not wait for the disk. Here a kernel whose digest is wrong is
compiled again.

It uses names that are private to Numba. Where another version lacks one, cache.py keeps Numba's
files, which have no digest.
"""

import hashlib
import os
import pickle
import re
import sys
from contextlib import suppress
from pathlib import Path

from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from npgpt.system import memory
from npgpt.system.atomic import remove, temporary_path

DIGEST = 32  # bytes


class KernelCache(FunctionCache):
    """Numba's cache of one kernel, with files of our own.

    `state` is a name for the sources and versions that the machine code depends on.
    """

    def __init__(self, function, state: str):
        super().__init__(function)
        for name in ("_cache_file", "_load_overload", "_guard_against_spurious_io_errors"):
            if not hasattr(self, name):
                raise AttributeError(name)  # or it would be ignored
        self._cache_file = KernelFiles(function, Path(self.cache_path), state)

    def load_overload(self, sig, target_context):
        """Load a compiled kernel; None if it must be compiled."""
        memory.require(memory.TO_LOAD, "load a kernel")
        # Numba's own method also imports all that compiling needs, which a compilation does by
        # itself. Machine code needs only the functions that allocate.
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            found = self._load_overload(sig, target_context)
        if found is None:
            memory.require(memory.TO_COMPILE, "compile a kernel")
        return found

    def save_overload(self, sig, data):
        """Save a compiled kernel, unless the disk is full or was made read-only."""
        with suppress(OSError):
            super().save_overload(sig, data)


class KernelFiles:
    """The files of a kernel, in place of Numba's index file and data files.

    `key` describes the types of a call, the CPU and the bytecode. Its hash is a part of the file's
    name. The key itself is stored too, because two types may have the same name, and so is the
    kernel's name: two kernels may have the same types and bytecode, and a file may be renamed.
    """

    def __init__(self, function, directory: Path, state: str):
        self.directory, self.state = directory, state.encode()
        self.name = re.sub(r"[^\w.]", "", f"{function.__module__}.{function.__qualname__}")

    def path(self, key) -> Path:
        """Return the file of a key."""
        text = f"{sys.implementation.cache_tag} {key!r}"
        return self.directory / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.nbc"

    def load(self, key):
        """Return the data that was saved with this key; None if there is none or it is damaged."""
        try:
            content = self.path(key).read_bytes()
        except OSError:
            return None
        body = memoryview(content)[DIGEST:]
        if self.digest(body) != content[:DIGEST]:
            return None
        # Safe although pickle executes code: `cache.directory` returns no directory that another
        # user can write to, and it has machine code anyway. A damaged file has another digest.
        found, data = pickle.loads(body)
        return data if found == (self.name, key) else None

    def save(self, key, data) -> None:
        """Save the data. Raises OSError if that fails."""
        body = dumps(((self.name, key), data))
        write(self.path(key), self.digest(body) + body)

    def flush(self) -> None:
        """Delete all files of the kernel."""
        for path in self.directory.glob(f"{self.name}-*.nbc"):
            path.unlink(missing_ok=True)

    def digest(self, body) -> bytes:
        """Return the digest of a body: another one in each state."""
        return hashlib.blake2b(body, digest_size=DIGEST, key=self.state).digest()


def write(path: Path, content: bytes) -> None:
    """Write a file at once: several processes may write the same one. Raises OSError."""
    temporary = temporary_path(path)
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise
