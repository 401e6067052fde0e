"""Write a file or a directory completely or not at all."""

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
from npgpt.system.files import open_handle, require_regular

TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.part")  # a name of `temporary_path`, for \1
# What fsync answers for a directory on a file system that cannot sync one.
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Yield a new, empty file; at the end of the block it replaces `path` and keeps its mode.

    The file is synced before the rename and its directory after it, so that a killed process or a
    power failure leaves either the old file or the new one. If the block raises, the old one stays.
    A symbolic link at `path` is replaced, not followed. Raises RunError, which says what is on the
    disk, for an OSError of the block or of writing.
    """
    path = Path(path)
    temporary = temporary_path(path)
    replaced = False
    try:
        mode = mode_to_keep(path)
        try:
            with new_file(temporary, mode) as file:
                yield file
            os.replace(temporary, path)
        except BaseException:
            remove(temporary)
            raise
        replaced = True
        sync(path.parent)
    except OSError as error:
        raise RunError(describe_failure(path, error, temporary, replaced)) from None


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a new directory beside `path`; at the end of the block it is renamed to `path`.

    `path` must not exist, or be an empty directory, which is replaced. The files must be synced, as
    by `new_file`. If the block raises, nothing is left. Raises RunError as `atomic_write`.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))  # a rename does not follow links
    temporary = temporary_path(target)
    replaced = False
    try:
        make_directory(target.parent)
        os.mkdir(temporary)
        try:
            if target.exists():
                shutil.copymode(target, temporary)
            yield temporary
            sync(temporary)
            if sys.platform == "win32" and target.exists():
                os.rmdir(target)
            os.rename(temporary, target)  # fails for a directory that is not empty
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        replaced = True
        sync(target.parent)
    except OSError as error:
        raise RunError(describe_failure(path, error, temporary, replaced)) from None


@contextmanager
def new_file(path: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """Yield a new file that is open for reading and writing; sync and close it after the block.

    The path must not exist, not even as a link. `mode` holds from the start; by default, the umask
    decides. If the block raises, the incomplete file is left to the caller. Raises OSError.
    """

    def create(name: str, flags: int) -> int:
        flags |= getattr(os, "O_NOFOLLOW", 0)
        return os.open(name, flags, 0o666 if mode is None else mode)

    file = open(path, "x+b", opener=create)
    try:
        if mode is not None and hasattr(os, "fchmod"):
            with suppress(OSError):  # a file system without modes
                os.fchmod(file.fileno(), mode)
        yield file
        sync_file(file)
    except BaseException:
        with suppress(OSError):  # what is buffered may not be writable either
            file.close()
        raise
    file.close()


def replace(source: Path, path: Path) -> None:
    """Rename a synced file to `path`, in the same directory. Raises RunError, as `atomic_write`."""
    replaced = False
    try:
        os.replace(source, path)
        replaced = True
        sync(path.parent)
    except OSError as error:
        raise RunError(describe_failure(path, error, None, replaced)) from None


def link_or_copy(source: Path, path: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links.

    A file at `path` is replaced. Raises RunError.
    """
    remove(path)
    try:
        os.link(source, path)
    except OSError:
        with atomic_write(path) as file, open(source, "rb") as original:
            shutil.copyfileobj(original, file, 1 << 20)


def append(path: Path, text: str) -> None:
    """Append a text to a file, created if missing; if that fails, leave the file as it was.

    Characters that UTF-8 cannot represent are escaped. Raises RunError.
    """
    left = text.encode("utf-8", "backslashreplace")
    try:
        handle = open_handle(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            size = os.fstat(handle).st_size
            try:
                while left:
                    left = left[os.write(handle, left) :]
            except OSError:
                with suppress(OSError):
                    os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}") from None


def make_directory(path: Path) -> bool:
    """Create a directory and its missing parents, and sync the parent of each.

    Return False if the directory exists. Raises OSError.
    """
    try:
        try:
            os.mkdir(path)
        except FileNotFoundError:
            if path.parent == path:
                raise
            make_directory(path.parent)
            os.mkdir(path)  # once: in a working directory that is deleted, it fails each time
    except FileExistsError:
        if not path.is_dir():
            raise
        return False
    sync(path.parent)
    return True


def sync(path: Path) -> None:
    """Wait until the entries of a directory are on the disk, if the platform supports it."""
    if sys.platform == "win32":
        return  # Windows cannot open directories
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return  # a directory that may be written to, but not read
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def sync_file(file: BinaryIO) -> None:
    """Wait until what was written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def temporary_path(path: Path) -> Path:
    """Return a path beside `path` that no other process can guess. `TEMPORARY` matches its name.

    Raises RunError for a path without a name, such as ".".
    """
    if not path.name:
        raise RunError(
            f"{path} could not be written: it is a directory, not a file; nothing was written"
        )
    return path.with_name(f".{path.name}.{secrets.token_hex(16)}.part")


def remove(path: Path) -> None:
    """Delete a file if it exists and can be deleted."""
    with suppress(OSError):
        os.unlink(path)


def mode_to_keep(path: Path) -> int | None:
    """Return the permissions of the file at `path`, None if it does not exist.

    Raises OSError unless it is a regular file: a rename would replace a device by a file.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    require_regular(status)
    return stat.S_IMODE(status.st_mode) & 0o777


def describe_failure(path: Path, error: OSError, temporary: Path | None, replaced: bool) -> str:
    """Return the message for a failed write: the reason, and what is on the disk now."""
    reason = error.strerror or error
    if replaced:
        return (
            f"{path} was written, but its directory could not be synced: {reason}; "
            "it may be lost in a power failure"
        )
    existed = os.path.lexists(path) and not os.path.isdir(path)
    state = "the previous file is unchanged" if existed else "nothing was written"
    if temporary is not None and os.path.lexists(temporary):
        state += f", and {temporary.name} could not be deleted"
    return f"{path} could not be written: {reason}; {state}"
