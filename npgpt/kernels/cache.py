"""The directory in which Numba keeps compiled kernels: one for every state of their source code.

Numba compiles a kernel again when the file of that kernel has changed, but not when a file of its
inner kernels has. Here the directory's name is a hash of all sources that kernels are compiled
from. Machine code of an earlier state is never loaded.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import llvmlite
import numba

from npgpt.kernels.cpu import FEATURES

PACKAGE = Path(__file__).parents[1]
# all kernels, and the files from which they take constants
SOURCES = "kernels/*.py", "fused/*.py", "mixed/*.py", "arrays.py", "ops/random.py"
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
        with contextlib.suppress(OSError):
            created = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()  # is it writable?
            os.utime(path)  # when it was last used
            if created:
                remove_unused(parent, path)
            return path
    return None


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

    yield Path(platformdirs.user_cache_dir("npgpt"))


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
                kernel.enable_caching()
        finally:
            for name, value in before.items():
                setattr(numba.config, name, value)
