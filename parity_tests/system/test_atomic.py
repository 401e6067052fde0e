"""Files and directories that are written completely or not at all."""

import errno
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from npgpt.errors import InputError, RunError
from npgpt.system import atomic, files
from npgpt.system.atomic import append, atomic_directory, atomic_write, make_directory
from parity_tests.support.runs import POSIX_ONLY


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path="file", content=b"new"):
    with atomic_write(path) as file:
        file.write(content)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@POSIX_ONLY
@pytest.mark.parametrize("umask, expected", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_the_umask(umask, expected):
    before = os.umask(umask)
    try:
        write()
        with atomic_directory("new") as new, atomic.new_file(new / "file"):
            pass
    finally:
        os.umask(before)
    assert (mode("file"), mode("new/file")) == (expected, expected)
    assert mode("new") == 0o777 & ~umask


@POSIX_ONLY
@pytest.mark.parametrize("kept", [0o600, 0o640, 0o444, 0o666, 0o755])
def test_a_file_that_is_rewritten_keeps_its_mode(kept):
    Path("file").write_bytes(b"old")
    os.chmod("file", kept)
    with atomic_write("file") as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == kept  # from its first byte on
        file.write(b"new")
    assert mode("file") == kept
    assert Path("file").read_bytes() == b"new"


@POSIX_ONLY
def test_a_directory_that_was_empty_keeps_its_mode():
    os.mkdir("private", 0o700)
    with atomic_directory("private") as new:
        (new / "file").write_bytes(b"")
    assert mode("private") == 0o700
    assert os.listdir("private") == ["file"]


def test_a_temporary_name_that_is_taken_is_not_followed(monkeypatch):
    """No process can guess it. If one does, the file behind its link is not written to."""
    Path("other").write_bytes(b"theirs")
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda count: "0" * 2 * count)
    part = Path(f".file.{'0' * 32}.part")
    part.symlink_to("other")
    with pytest.raises(RunError, match=r"^file could not be written: File exists; nothing was"):
        write()
    assert Path("other").read_bytes() == b"theirs"
    assert not os.path.exists("file")


def test_temporary_names_differ_and_are_recognized():
    names = {atomic.temporary_path(Path("a/checkpoint.h5")).name for _ in range(100)}
    assert len(names) == 100
    assert {atomic.TEMPORARY.fullmatch(name)[1] for name in names} == {"checkpoint.h5"}


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a directory"])
@POSIX_ONLY
def test_what_is_no_file_is_not_replaced(kind):
    make = {"a pipe": os.mkfifo, "a directory": os.mkdir}
    make.get(kind, lambda path: os.symlink(os.devnull, path))("there")
    before = os.lstat("there")
    for action in (write, lambda path: append(Path(path), "text")):
        with pytest.raises(
            RunError, match=rf"^there could not be written: it is ({kind}|a symbolic link), not a"
        ):
            action("there")
    assert os.lstat("there") == before
    assert os.listdir() == ["there"]


def test_a_link_is_replaced_and_not_followed():
    Path("other").write_bytes(b"theirs")
    Path("file").symlink_to("other")
    write()
    assert not os.path.islink("file")
    assert (Path("file").read_bytes(), Path("other").read_bytes()) == (b"new", b"theirs")
    Path("log").symlink_to("other")
    with pytest.raises(RunError, match=r"^log could not be written: it is a symbolic link"):
        append(Path("log"), "text")
    assert Path("other").read_bytes() == b"theirs"


@pytest.fixture
def synced(monkeypatch):
    """The paths that are synced, in order; `fsync` is not run."""
    found = []

    def fsync(handle):
        found.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))

    monkeypatch.setattr(os, "fsync", fsync)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the path of a descriptor is in /proc")
def test_what_is_synced_and_when(synced, tmp_path):
    write()
    part, parent = synced
    assert atomic.TEMPORARY.fullmatch(part)[1] == "file"
    assert parent == tmp_path.name
    synced.clear()
    assert make_directory(Path("a/b/c"))
    assert synced == [tmp_path.name, "a", "b"]
    synced.clear()
    assert not make_directory(Path("a/b"))
    assert synced == []
    with atomic_directory("a/new") as new, atomic.new_file(new / "file") as file:
        file.write(b"x")
    assert [synced[0], synced[-1]] == ["file", "a"]
    assert atomic.TEMPORARY.fullmatch(synced[1])[1] == "new"


@POSIX_ONLY
def test_a_working_directory_that_was_deleted(tmp_path, monkeypatch, npgpt_):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError):
        make_directory(Path("runs/tiny-1"))
    said = npgpt_("info", code=2).err
    reason = "the working directory cannot be used (No such file or directory)"
    assert said == f"npgpt: {reason}: change to another one\n"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_directory_that_cannot_be_synced(monkeypatch, code):
    """Some file systems cannot; and a failure comes after the file is in its place."""
    fsync, isdir = os.fsync, stat.S_ISDIR

    def refuse(handle):
        if isdir(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(handle)

    Path("file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", refuse)
    if code == errno.EIO:
        says = (
            "^file was written, but its directory could not be synced: Input/output error; it may"
        )
        with pytest.raises(RunError, match=says):
            write()
    else:
        write()
    assert Path("file").read_bytes() == b"new"


def test_a_failure_that_is_followed_by_others(monkeypatch):
    """The first reason is told, and a temporary file that remains is named."""

    def fail(code):
        def failing(*args, **kwargs):
            raise OSError(code, os.strerror(code))

        return failing

    Path("file").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail(errno.ENOSPC))
    monkeypatch.setattr(os, "unlink", fail(errno.EIO))
    with pytest.raises(RunError) as raised:
        write()
    (part,) = (name for name in os.listdir() if name != "file")
    assert str(raised.value) == (
        "file could not be written: No space left on device; the previous file is unchanged, and "
        f"{part} could not be deleted"
    )


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, InputError, RunError])
def test_other_errors_pass_unchanged(error):
    for block in (atomic_write, atomic_directory):
        raised = error("a reason")
        with pytest.raises(error) as found, block("file"):
            raise raised
        assert found.value is raised
    assert os.listdir() == []


def test_a_directory_that_exists_is_not_replaced():
    os.mkdir("there")
    Path("there/file").write_bytes(b"theirs")
    with pytest.raises(RunError, match=r"^there could not be written: .*; nothing was written$"):
        with atomic_directory("there") as new:
            (new / "file").write_bytes(b"new")
    assert os.listdir() == ["there"]
    assert Path("there/file").read_bytes() == b"theirs"


def test_an_append_that_fails_leaves_the_file_as_it_was(monkeypatch):
    append(Path("file"), "a line\n")
    wrote = os.write

    def half(handle, data):
        if len(data) < 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return wrote(handle, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(RunError, match=r"^file could not be written: No space left on device$"):
            append(Path("file"), "another line\n")
    assert Path("file").read_bytes() == b"a line\n"
    append(Path("file"), "\udcff\n")
    assert Path("file").read_bytes() == b"a line\n\\udcff\n"


# The space on the disk, locks, and what kind of error it is


@pytest.mark.parametrize("total, free", [(0, 0), (1000, 0), (1000, 100), (1000, 99), (0, None)])
def test_a_disk_that_reports_no_space_is_not_full(monkeypatch, tmp_path, total, free):
    """free None: it reports nothing at all."""
    usage = shutil.disk_usage(tmp_path)

    def report(path):
        if free is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return usage._replace(total=total, free=free)

    monkeypatch.setattr(shutil, "disk_usage", report)
    if free == 99:
        with pytest.raises(OSError, match="the disk has 99 bytes left, 100 are needed"):
            files.require_space(tmp_path, 100)
    else:
        files.require_space(tmp_path, 100)


@POSIX_ONLY
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("other", path)])
def test_a_lock_that_is_no_file(make):
    Path("other").write_bytes(b"theirs")
    make(".lock")
    with pytest.raises(OSError, match="not a file"):
        files.file_lock(Path(".lock"), "busy").__enter__()
    assert Path("other").read_bytes() == b"theirs"
    assert os.path.lexists(".lock")


@pytest.mark.parametrize(
    "code, kind",
    [
        (errno.ENOENT, InputError), (errno.EACCES, InputError), (errno.ELOOP, InputError),
        (errno.EIO, RunError), (errno.ENOSPC, RunError), (errno.EROFS, RunError),
        (errno.ESTALE, RunError), (errno.EMFILE, RunError), (errno.ENOMEM, OSError),
    ],
)  # fmt: skip
def test_whose_mistake_an_error_is(code, kind):
    error = OSError(code, os.strerror(code))
    found = files.os_error("x cannot be read", error)
    assert type(found) is type(error) if kind is OSError else type(found) is kind
    assert str(found) == (str(error) if kind is OSError else f"x cannot be read: {error.strerror}")
