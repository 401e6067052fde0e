"""Files of compiled kernels: one that is damaged, or that another user may have written, is not
loaded."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from numba.core.caching import Cache
from numba.core.codegen import JITCodeLibrary
from numba.core.runtime import _nrt_python, rtsys

from npgpt.errors import KernelCacheWarning
from npgpt.kernels import cache
from npgpt.kernels.cache_files import DIGEST, KernelCache, KernelFiles, LoadedCode
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


# `whole` raises what `half` raises, and both allocate. The second process loads `half`, and then
# compiles `whole`, into which the IR of `half` is linked.
KERNELS = """
import numpy as np
from npgpt.kernels.jit import njit

@njit
def half(x):
    if x.size % 2:
        raise ValueError("odd")
    return x[: x.size // 2] + np.zeros(x.size // 2)

@njit
def whole(x):
    return half(x)[0] + half(x).size
"""
PROGRAM = """
import sys
import numpy as np
import kernels
from npgpt.kernels.cache_files import LoadedCode
from numba.core.runtime import rtsys

def library(kernel):
    (compiled,) = kernel.overloads.values()
    return compiled.library

x = np.arange(1, 7.0)
print(kernels.half(x).tolist())
try:
    kernels.half(x[:3])
except ValueError as error:
    print(error)
found = library(kernels.half)
if isinstance(found, LoadedCode):
    print("loaded", "numba.np.arrayobj" in sys.modules, rtsys._init, found._shared_module)
    print(kernels.whole(x), found._shared_module is not None, type(library(kernels.whole)).__name__)
"""


@pytest.mark.slow
def test_what_only_compiling_needs_waits_until_a_kernel_is_compiled(tmp_path):
    (tmp_path / "kernels.py").write_text(KERNELS)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment, capture_output=True, text=True, timeout=600,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [run.stderr for run in found] == ["", ""]
    said = ["[1.0, 2.0, 3.0]", "odd"]
    assert found[0].stdout.splitlines() == said
    later = ["loaded False False None", "4.0 True JITCodeLibrary"]
    assert found[1].stdout.splitlines() == said + later


@pytest.mark.parametrize(
    ("owner", "name"), [(LoadedCode, "_set_compiled_object"), (_nrt_python, "c_helpers")]
)
def test_another_numba_loads_kernels_in_its_own_way(owner, name, files, monkeypatch):
    monkeypatch.setattr(cache, "directory", lambda: files.directory)
    kernel = numba.njit(lambda x: np.full(2, x + 1))
    cache.enable(kernel)
    assert kernel(1).tolist() == [2, 2]
    (types,) = kernel.signatures
    load, kept = LoadedCode.load, getattr(owner, name)

    def load_without(*given):
        with monkeypatch.context() as patch:
            patch.setattr(JITCodeLibrary, name, None)
            return load(*given)

    if owner is LoadedCode:
        monkeypatch.setattr(LoadedCode, "load", load_without)
    else:
        monkeypatch.delattr(owner, name)
        monkeypatch.setattr(rtsys, "_init", True)
    loaded = kernel._cache.load_overload(types, kernel.targetctx)
    assert type(loaded.library) is (JITCodeLibrary if owner is LoadedCode else LoadedCode)
    assert loaded.entry_point(1).tolist() == [2, 2]
    assert "unserialize_library" not in vars(kernel.targetctx.codegen())
    assert kept


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
