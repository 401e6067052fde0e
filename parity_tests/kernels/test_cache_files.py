"""Files of compiled kernels: one that is damaged, or that another user may have written, is not
loaded."""

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from numba.core.caching import Cache

from npgpt.errors import KernelCacheWarning
from npgpt.kernels import cache
from npgpt.kernels.cache_files import DIGEST, KernelCache, KernelFiles
from parity_tests.support.runs import POSIX_ONLY

STATE = "npgpt-0123456789abcdef"
KEY = (numba.float32[::1], numba.intp), ("x86_64", "znver4", "+avx2"), ("bytecode", "closure")


@pytest.fixture
def files(tmp_path):
    return KernelFiles(KernelFiles, tmp_path, STATE)


def test_what_is_saved_is_loaded(files):
    assert files.load(KEY) is None
    data = {"code": bytes(1000), "types": KEY[0]}
    files.save(KEY, data)
    assert files.load(KEY) == data
    files.save(KEY, "other")
    assert files.load(KEY) == "other"
    assert list(files.directory.iterdir()) == [files.path(KEY)]
    files.flush()
    assert files.load(KEY) is None


def test_a_damaged_file_is_as_none(files):
    files.save(KEY, bytes(1000))
    path, rng = files.path(KEY), np.random.default_rng(0)
    whole = path.read_bytes()
    size = len(whole)
    for length in (0, 1, DIGEST - 1, DIGEST, DIGEST + 1, size // 2, size - 1):
        path.write_bytes(whole[:length])
        assert files.load(KEY) is None, length
        path.write_bytes(whole[:length] + bytes(size - length))  # pages that were not written
        assert files.load(KEY) is None, length
    for bit in rng.integers(8 * size, size=200):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert files.load(KEY) is None, bit
    path.write_bytes(whole + b"\0")
    assert files.load(KEY) is None
    path.unlink()
    path.mkdir()
    assert files.load(KEY) is None
    path.rmdir()
    path.write_bytes(whole)
    assert files.load(KEY) == bytes(1000)


def test_a_file_that_cannot_be_replaced_leaves_no_temporary_file(files):
    files.path(KEY).mkdir()
    with pytest.raises(OSError):
        files.save(KEY, 1)
    assert list(files.directory.iterdir()) == [files.path(KEY)]


def test_files_of_other_sources_or_types_are_as_none(files):
    files.save(KEY, 1)
    assert KernelFiles(KernelFiles, files.directory, "npgpt-other").load(KEY) is None

    class Other(tuple):
        def __repr__(self):
            return repr(KEY)

    other = Other([1])
    assert files.path(other) == files.path(KEY)
    assert files.load(other) is None


def test_the_file_of_another_kernel_is_as_none(files):
    other = KernelFiles(KernelCache, files.directory, STATE)
    other.save(KEY, 1)
    other.path(KEY).rename(files.path(KEY))
    assert files.load(KEY) is None


def test_a_kernel_that_cannot_be_saved_is_compiled_all_the_same(files, monkeypatch):
    monkeypatch.setattr(cache, "directory", lambda: files.directory)
    kernel = numba.njit(lambda x: x + 1)
    cache.enable(kernel)
    assert isinstance(kernel._cache, KernelCache)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("npgpt.kernels.cache_files.write", full)
    assert kernel(1) == 2


def test_a_kernel_is_loaded_without_all_that_compiling_needs(files, monkeypatch):
    monkeypatch.setattr(cache, "directory", lambda: files.directory)
    kernel = numba.njit(lambda x: x + 1)
    cache.enable(kernel)
    assert kernel(1) == 2
    (types,) = kernel.signatures
    needed = []
    monkeypatch.setattr(kernel.targetctx, "refresh", lambda: needed.append("everything"))
    loaded = kernel._cache.load_overload(types, kernel.targetctx)
    assert loaded.signature.args == types
    assert not needed


def without(name):
    init = Cache.__init__

    def other(self, function):
        init(self, function)
        delattr(self, name)

    return other


@pytest.mark.parametrize(
    "missing", ["kernel._cache", "FunctionCache._cache_file", "FunctionCache._load_overload"]
)
def test_another_numba_keeps_its_own_files(missing, monkeypatch):
    used = []
    kernel = SimpleNamespace(py_func=lambda: 0, enable_caching=lambda: used.append("Numba's"))
    if missing != "kernel._cache":
        kernel._cache = "a cache"
    if missing.endswith("_cache_file"):
        monkeypatch.setattr(Cache, "__init__", without("_cache_file"))
    elif missing.endswith("_load_overload"):
        monkeypatch.delattr(Cache, "_load_overload")
    cache.use_files(kernel, STATE)
    assert used == ["Numba's"]


@POSIX_ONLY
@pytest.mark.parametrize(
    ("mode", "owner", "group", "sticky", "says"),
    [
        (0o700, "me", "mine", False, ""),
        (0o755, "me", "other", False, ""),
        (0o775, "me", "mine", False, ""),
        (0o755, "root", "other", False, ""),
        (0o775, "me", "other", False, "others may write to it. Use chmod go-w"),
        (0o757, "me", "mine", False, "others may write to it. Use chmod go-w"),
        (0o1777, "root", "other", False, "others may write to it. Use chmod go-w"),
        (0o1777, "root", "other", True, ""),  # /tmp
        (0o777, "root", "other", True, "others may write to it. Use chmod go-w"),
        (0o755, "other", "mine", False, "belongs to another user, number "),
        (0o700, "other", "mine", True, "belongs to another user, number "),
    ],
)
def test_who_else_writes(mode, owner, group, sticky, says):
    users = {
        "me": os.geteuid(),
        "root": 0,
        "other": 1 + max(os.geteuid(), os.stat(cache.__file__).st_uid),
    }
    groups = {"mine": os.getegid(), "other": os.getegid() + 1}
    status = SimpleNamespace(st_mode=stat.S_IFDIR | mode, st_uid=users[owner], st_gid=groups[group])
    path = SimpleNamespace(stat=lambda: status)
    said = cache.who_else_writes(path, sticky=sticky)
    assert says in said
    assert bool(says) == bool(said)


@pytest.fixture
def directory():
    """`cache.directory` without what it remembers."""
    cache.directory.cache_clear()
    yield cache.directory
    cache.directory.cache_clear()


@POSIX_ONLY
@pytest.mark.parametrize("shared", ["the directory", "its parent"])
def test_a_directory_that_others_may_write_to_is_named_and_not_used(
    shared, tmp_path, monkeypatch, directory
):
    bad, good = tmp_path / "bad", tmp_path / "good"
    monkeypatch.setattr(cache, "parents", lambda: iter([bad, good]))
    made = bad / f"npgpt-{cache.key()}"
    made.mkdir(parents=True)
    (made if shared == "the directory" else bad).chmod(0o777)
    with pytest.warns(KernelCacheWarning, match=f"not cached in {bad}: others may write to it"):
        assert directory() == good / made.name
    assert list(made.iterdir()) == []
    assert stat.S_IMODE((good / made.name).stat().st_mode) == 0o700
    (made if shared == "the directory" else bad).chmod(0o755)
    directory.cache_clear()
    assert directory() == made


def test_a_directory_that_the_user_chose_and_cannot_be_used_is_named(
    tmp_path, monkeypatch, directory
):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(file))
    with pytest.warns(KernelCacheWarning, match=f"{file}: .* set NUMBA_CACHE_DIR to another"):
        assert directory() is not None


def test_without_a_home_nothing_is_written_to_the_current_directory(
    tmp_path, monkeypatch, directory
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"~/.cache/{name}")
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "archive.zip" / "cache.py"))
    Path("archive.zip").touch()
    monkeypatch.setattr(cache.numba.config, "CACHE_DIR", "")
    assert directory() is None
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]
