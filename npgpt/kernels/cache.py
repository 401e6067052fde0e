"""The directory in which Numba keeps compiled kernels: one for every state of their source code.

Numba compiles a kernel again when the file of that kernel has changed, but not when a file of its
inner kernels has. Here the directory's name is a hash of all sources that kernels are compiled
from. Machine code of an earlier state is never loaded.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import llvmlite
import numba

from npgpt.errors import KernelCacheWarning
from npgpt.kernels.cpu import FEATURES
from npgpt.system.shell import quote

PACKAGE = Path(__file__).parents[1]
# all kernels, and the files from which they take constants
SOURCES = "kernels/*.py", "fused/**/*.py", "mixed/*.py", "arrays.py", "ops/random.py"
KEPT = 4  # directories of other states: several versions of Numba may share one place
UNUSED = 600  # seconds after which a directory may be deleted: another process may be using it

lock = threading.Lock()


@cache
def directory() -> Path | None:
    """Return the directory of compiled kernels, created if missing; None if nothing is writable."""
    try:
        name = f"npgpt-{key()}"
    except OSError:
        return None  # no source files, as in a zip archive
    for parent in parents():
        path = parent / name
        try:
            created = not path.exists()
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
            reason = who_else_writes(path) or who_else_writes(parent, sticky=True)
            if not reason:
                tempfile.TemporaryFile(dir=path).close()  # is it writable?
                os.utime(path)  # when it was last used
                if created:
                    remove_unused(parent, path)
                return path
        except OSError as error:
            chosen = parent == Path(numba.config.CACHE_DIR or os.devnull)
            reason = f"{error.strerror or error}: set NUMBA_CACHE_DIR to another" if chosen else ""
        if reason:
            said = f"kernels are not cached in {parent}: {reason}"
            warnings.warn(said, KernelCacheWarning, stacklevel=2)
    return None


def who_else_writes(path: Path, *, sticky: bool = False) -> str:
    """Return a clause that says which other user may write to a directory, "" if none may.

    The machine code in it would run with this user's rights. `sticky`: others may write to it if
    they cannot replace directories of this user there, as in /tmp.
    """
    if not hasattr(os, "geteuid"):
        return ""
    status = path.stat()
    owners = {os.geteuid(), 0}
    with contextlib.suppress(OSError):  # in a zip archive
        owners.add(os.stat(__file__).st_uid)  # who decides what runs here in any case
    if status.st_uid not in owners:
        return f"{path} belongs to another user, number {status.st_uid}"
    shared = status.st_mode & stat.S_IWOTH
    shared |= status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid()
    if shared and not (sticky and status.st_mode & stat.S_ISVTX):
        return f"others may write to it. Use chmod go-w {quote(path)}, and empty it"
    return ""


def key() -> str:
    """Return a hash of everything that machine code depends on, apart from argument types."""
    digest = hashlib.sha256()
    for part in (numba.__version__, llvmlite.__version__, numba.config.OPT, sorted(FEATURES)):
        digest.update(f"{part}\n".encode())
    for pattern in SOURCES:
        for path in sorted(PACKAGE.glob(pattern)):
            text = path.read_bytes()
            digest.update(f"{path.relative_to(PACKAGE).as_posix()} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]


def parents() -> Iterator[Path]:
    """Yield where the directory may lie, in the order in which Numba looks, too."""
    if numba.config.CACHE_DIR:
        yield Path(numba.config.CACHE_DIR)
    yield Path(__file__).with_name("__pycache__")
    import platformdirs  # here, because only an installation that is read-only needs it

    path = Path(platformdirs.user_cache_dir("npgpt"))
    if path.is_absolute():  # or it is ~/.cache, for a user without a home
        yield path


def remove_unused(parent: Path, path: Path) -> None:
    """Delete the directories of other states, except the `KEPT` that were used last."""
    others = []
    for other in parent.glob("npgpt-*"):
        with contextlib.suppress(OSError):  # another process deletes as well
            if other != path and other.is_dir() and not other.is_symlink():
                others.append((other.stat().st_mtime, other))
    for used, other in sorted(others, reverse=True)[KEPT:]:
        if time.time() - used > UNUSED:
            shutil.rmtree(other, ignore_errors=True)


def enable(kernel) -> None:
    """Let Numba keep the machine code of this kernel in our directory.

    Numba reads the location when it enables caching, and has one for all functions of a process: it
    is changed for that moment only, so that other functions keep theirs.
    """
    path = directory()
    if path is None:
        return  # compiled again in every process
    options = {"CACHE_DIR": str(path), "CACHE_LOCATOR_CLASSES": ""}
    with lock:
        before = {k: getattr(numba.config, k) for k in options if hasattr(numba.config, k)}
        try:
            for name in before:
                setattr(numba.config, name, options[name])
            with contextlib.suppress(RuntimeError):  # not writable any more
                use_files(kernel, path.name)
        finally:
            for name, value in before.items():
                setattr(numba.config, name, value)


def use_files(kernel, state: str) -> None:
    """Let Numba keep machine code in files with a digest, or in its own if a name is missing."""
    try:
        from npgpt.kernels.cache_files import KernelCache

        kernel._cache  # noqa: B018 (or it would be set and ignored)
        kernel._cache = KernelCache(kernel.py_func, state)
    except (ImportError, AttributeError):
        kernel.enable_caching()
