"""Writing a file so that it is whole at every moment."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from npgpt.errors import RunError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; what was written then takes the place of `path`.

    It is synced before it is renamed, and the folder after, so that a kill or a power cut leaves
    either the old file or the new one. If the writing fails, the old one stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk, where the platform can tell."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def room(folder: Path, needed: int) -> None:
    """Raises OSError unless the disk has room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        text = f"{megabytes(needed)} are still to come and the disk has {megabytes(free)} left"
        raise OSError(errno.ENOSPC, text)


def megabytes(count: int) -> str:
    """For people."""
    return f"{count / 1e6:,.1f} MB"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock, a file at `path`, that this process loses when it ends, however it ends.

    Raises RunError if another process has it. Where the file system knows no locks there is none:
    the files are checked all the same.
    """
    while True:
        file = open(path, "ab")
        try:
            hold(file.fileno(), path)
            # whoever had it before us may have removed it between our opening and our locking
            if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        except BaseException:
            file.close()
            raise
        file.close()
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)  # Windows leaves it there, empty: it is open
        file.close()


def hold(handle: int, path: Path) -> None:
    """Locks an open file without waiting."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise RunError(
                f"another process is fetching into {path.parent}: run this again when it is done"
            ) from None
