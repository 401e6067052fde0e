"""Read regular files, replace files atomically, lock them, and check the space on the disk."""

import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from npgpt.errors import RunError

TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.part")  # the name that atomic_write gives for \1


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading, without waiting. Raise OSError for anything else.

    A pipe would wait for its other end, and a device may never end. The check is repeated after
    opening, because the path may name another file by then.
    """
    require_regular(os.stat(path))
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    try:
        require_regular(os.fstat(handle))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def require_regular(status: os.stat_result) -> None:
    """Raise OSError unless this is the status of a regular file."""
    kinds = {
        stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
    }  # fmt: skip
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"it is {kinds.get(kind, 'of an unknown kind')}, not a file")


def read_regular(path: str | Path, max_size: int) -> bytes:
    """Return the bytes of a regular file. Raise OSError for more than `max_size` of them."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_size:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes; at most {max_size:,} are read")
        return file.read(size)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end of the block it replaces `path`.

    The file is synced before the rename and its directory after it, so that a killed process or a
    power failure leaves either the old file or the new one. If the block raises, the old one stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(16)}.part")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or directory is on the disk, if the platform supports it."""
    if path.is_dir() and sys.platform == "win32":
        return  # Windows cannot open directories
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_space(directory: Path, needed: int) -> None:
    """Raise OSError if the disk has less than `needed` bytes left."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        text = f"{format_mb(needed)} are needed and the disk has {format_mb(free)} left"
        raise OSError(errno.ENOSPC, text)


def format_mb(count: int) -> str:
    """Return a number of bytes as text in MB."""
    return f"{count / 1e6:,.1f} MB"


@contextmanager
def file_lock(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file at `path`. The system releases it when this process ends in any way.

    Raises RunError(busy) if it is held already. On a file system without locks nothing is locked.
    """
    while True:
        file = open(path, "ab")
        try:
            lock(file.fileno(), busy)
            # Its last holder may have removed it between our opening and our locking.
            if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        except BaseException:
            file.close()
            raise
        file.close()
    try:
        yield
    finally:
        if sys.platform == "win32":
            file.close()  # Windows removes no open file, be it opened by another process
        with suppress(OSError):
            os.unlink(path)
        file.close()


def lock(handle: int, busy: str) -> None:
    """Lock an open file without waiting. Raise RunError(busy) if the lock is held already."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise RunError(busy) from None
