"""Downloads with a full disk, with locks, and beside other processes."""

import re
import shutil
import signal
import subprocess
import sys

import pytest

from npgpt.download import resumable
from npgpt.errors import DownloadError, RunError
from npgpt.system import files
from parity_tests.support.downloads import CHECKPOINT, interrupted
from parity_tests.support.file_server import CONTENT, contents, listed, ranges


def test_a_disk_without_free_space(large, server, tmp_path, monkeypatch):
    rest = interrupted(large)
    usage = shutil.disk_usage(tmp_path)
    needed = len(CONTENT) - int(rest.removeprefix("bytes=").removesuffix("-"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(
        OSError, match=rf"the disk has {needed - 1:,} bytes left, {needed:,} are needed"
    ):
        large()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    assert large() == CONTENT
    assert ranges(server) == [("/a", rest)]


def test_a_directory_that_cannot_be_created(openai, tmp_path):
    (tmp_path / "file").write_text("")
    for to in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(
            DownloadError, match=r"gpt2-small could not be stored in .*another directory"
        ):
            openai(to=to)


def test_a_disk_that_fills_up(openai, tmp_path, monkeypatch):
    """First by its free space, then by a failed write."""
    usage = shutil.disk_usage(tmp_path)
    with (
        monkeypatch.context() as patch,
        pytest.raises(DownloadError, match=r"has 1,000 bytes left"),
    ):
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        openai()

    def opened(path, mode):
        return open("/dev/full" if "w" in mode else path, mode)

    with (
        monkeypatch.context() as patch,
        pytest.raises(DownloadError, match="No space left"),
    ):
        patch.setattr(resumable, "open_regular", opened)
        openai()
    assert contents(openai()) == CHECKPOINT


SECOND = """
import sys
from npgpt.download import gpt2 as download
url, to = sys.argv[1:]
download.OPENAI = (url + "/one", url + "/two")
download.MODELS["gpt2-small"] = download.ReleasedModel("", "124M", (None,) * 4)
shown = lambda *at: print(*at, flush=True)
download.download_model("gpt2-small", source="openai", to=to, progress=shown)
"""


def test_a_second_process_is_refused_and_a_killed_one_releases_its_lock(openai, server, tmp_path):
    to, at = tmp_path / "to", "/one/124M/model.ckpt.data-00000-of-00001"
    server.plan[at] = ["stall"]
    other = subprocess.Popen([sys.executable, "-c", SECOND, server.url, str(to)],
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
    with other:
        for line in other.stdout:
            if int(line.split()[1]) >= 100_000:
                break
        with pytest.raises(RunError, match=r"another process is downloading into .*/to: run"):
            openai(to=to)
        assert server.asked == []
        assert [path for path in listed(to) if not path.startswith(".")] == []
        other.send_signal(signal.SIGKILL)
    server.released.set()
    server.plan[at] = ["good"]
    assert contents(openai(to=to)) == CHECKPOINT
    first = int(re.fullmatch(r"bytes=(\d+)-", server.asked[0][1])[1])
    assert 90_000 < first <= 100_000  # the bytes in Python's buffer are lost


def test_a_file_system_without_locks(openai, monkeypatch):
    import fcntl

    def unknown(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    assert contents(openai()) == CHECKPOINT


def test_a_removed_lock_file_is_locked_again(tmp_path, monkeypatch):
    hold, path = files.lock, tmp_path / "lock"

    def late(handle, busy):
        """Remove the file between opening and locking, as another process does that finishes."""
        if seen.append(handle) is None and len(seen) == 1:
            path.unlink()
        hold(handle, busy)

    seen = []
    monkeypatch.setattr(files, "lock", late)
    with files.file_lock(path, "it is held"):
        assert path.exists()
        with pytest.raises(RunError, match="is mine"), files.file_lock(path, "it is mine"):
            pass
        assert path.exists()
    assert not path.exists()
    assert len(seen) == 3
