"""Open regular files only, lock a file, and check the space on the disk."""

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from npgpt.errors import InputError, RunError

# Errors of the path that the user gave. All others, such as EIO, are failures of the machine.
MISTAKES = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM,
    errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG, errno.ENXIO,
}  # fmt: skip
# What a file system answers that cannot lock.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
MODES = {
    "rb": os.O_RDONLY,
    "wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}


def os_error(text: str, error: OSError, kind: type[InputError] = InputError) -> Exception:
    """Return the error to raise for an OSError: `kind` for a mistake in a path, else RunError.

    The message is `text` and the reason. If memory is short, the OSError itself is returned.
    """
    if error.errno == errno.ENOMEM:
        return error
    found = kind if error.errno in MISTAKES else RunError
    return found(f"{text}: {error.strerror or error}")


def open_regular(path: str | Path, mode: str = "rb") -> BinaryIO:
    """Open a regular file as "rb", "wb" or "ab". Raises OSError as `open_handle`."""
    file: Any = open(path, mode, opener=lambda path, _: open_handle(path, MODES[mode]))
    return file


def open_handle(path: str | Path, flags: int) -> int:
    """Open a regular file without waiting. Raise OSError for anything else.

    A pipe would wait for its other end, and a device may never end. The check is repeated after
    opening, because the path may name another file by then. Writing does not follow a link.
    """
    if flags & os.O_WRONLY:
        flags |= getattr(os, "O_NOFOLLOW", 0)
        with suppress(FileNotFoundError):
            require_regular(os.lstat(path))
    else:
        require_regular(os.stat(path))
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags, 0o666)
    try:
        require_regular(os.fstat(handle))
    except BaseException:
        os.close(handle)
        raise
    return handle


def require_regular(status: os.stat_result) -> None:
    """Raise OSError unless this is the status of a regular file."""
    kinds = {
        stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a symbolic link",
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


def read_input(path: str | Path, max_size: int) -> bytes:
    """Return the bytes of a file of the user. Raise InputError if it cannot be read, or is larger.

    Raises RunError if the machine fails, as `os_error`.
    """
    try:
        return read_regular(path, max_size)
    except OSError as error:
        raise os_error(f"{path} cannot be read", error) from None


def require_space(directory: Path, needed: int) -> None:
    """Raise OSError if the disk has less than `needed` bytes left.

    Some file systems, on a network or in user space, report 0 bytes: how many are left is unknown,
    and writing will tell.
    """
    try:
        free = shutil.disk_usage(directory).free
    except OSError:
        return
    if 0 < free < needed:
        text = f"the disk has {free:,} bytes left, {needed:,} are needed"
        raise OSError(errno.ENOSPC, text)


@contextmanager
def file_lock(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file at `path`. The system releases it when this process ends in any way.

    Raises RunError(busy) if it is held already, OSError if there is something else than a file. On
    a file system without locks nothing is locked.
    """
    while True:
        file = open_regular(path, "ab")
        try:
            lock(file.fileno(), busy)
            # Its last holder may have removed it between our opening and our locking.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
                    break
        except BaseException:
            file.close()
            raise
        file.close()
    try:
        yield
    finally:
        if sys.platform == "win32":
            file.close()  # Windows removes no open file, not even one that another process opened
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
        if error.errno not in NO_LOCKS:
            raise
