"""The directory of compiled kernels: one for every state of the sources, never stale."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import npgpt
from npgpt.kernels import cache

# An inner kernel in a file of its own, and a kernel in another file that uses it.
INNER = "from npgpt.kernels.jit import inner\n\n@inner\ndef value(x):\n    return {}\n"
USER = """
from npgpt.kernels.inner_file import value
from npgpt.kernels.jit import njit

@njit
def use(x):
    return value(x)
"""
OTHER = "import numba\n\n@numba.njit(cache=True)\ndef other(x):\n    return x\n"
PROGRAM = """
from npgpt.kernels import cache, user
import other_file

assert other_file.other(1) == 1
print(user.use(1.0), sum(user.use.stats.cache_hits.values()), cache.directory())
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of the package with two files more, and a function that runs PROGRAM with it."""
    package = tmp_path / "npgpt"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(npgpt.__file__).parent, package, ignore=ignored)
    (package / "kernels" / "user.py").write_text(USER)
    (tmp_path / "other_file.py").write_text(OTHER)  # a program's own, which imports npgpt

    def run(value, **changed):
        (package / "kernels" / "inner_file.py").write_text(INNER.format(value))
        ours = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
        environment = ours | {"PYTHONPATH": str(tmp_path), "NUMBA_OPT": "1"} | changed
        found = subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment,
            capture_output=True, text=True,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        result, hits, directory = found.stdout.split()
        return float(result), int(hits), Path(directory)

    return run


@pytest.mark.slow
def test_an_edited_inner_kernel_compiles_its_users_again(copy):
    value, hits, first = copy("x + 1")
    assert (value, hits) == (2.0, 0)
    value, hits, second = copy("x + 2")
    assert (value, hits) == (3.0, 0)
    assert first.parent == second.parent
    assert first != second
    assert copy("x + 1")[:2] == (2.0, 1)  # the old state is still there


@pytest.mark.slow
def test_a_kernel_whose_file_is_damaged_is_compiled_again(copy):
    _, _, directory = copy("x + 1")
    (file,) = directory.rglob("npgpt.kernels.user.use-*.nbc")
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    assert copy("x + 1")[:2] == (2.0, 0)
    assert copy("x + 1")[:2] == (2.0, 1)


@pytest.mark.slow
def test_functions_of_a_program_are_kept_where_they_always_were(copy, tmp_path):
    given = tmp_path / "given"
    _, _, directory = copy("x", NUMBA_CACHE_DIR=str(given))
    assert directory.parent == given
    (ours,), (other,) = (
        given.rglob("npgpt.kernels.user.use-*.nbc"),
        given.rglob("other_file.other-*.nbi"),
    )
    assert ours.is_relative_to(directory)
    assert not other.is_relative_to(directory)


def test_the_key_depends_on_all_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "PACKAGE", tmp_path)
    seen = {cache.key()}
    names = [
        "kernels/a.py",
        "fused/b.py",
        "fused/b/c.py",
        "mixed/c.py",
        "ops/random.py",
        "arrays.py",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        for text in ("", "x"):
            (tmp_path / name).write_text(text)
            seen.add(cache.key())
    monkeypatch.setattr(numba, "__version__", "0.0")
    seen.add(cache.key())
    assert len(seen) == 2 * len(names) + 2


def test_directories_that_were_not_used_lately_go(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "parents", lambda: iter([tmp_path]))
    for i in range(cache.KEPT + 3):
        old = tmp_path / f"npgpt-{i:016x}"
        (old / "kernels").mkdir(parents=True)
        os.utime(old, (i, i) if i else None)  # the first one has just been used
    (tmp_path / "other").mkdir()
    cache.directory.cache_clear()
    try:
        directory = cache.directory()
        assert directory is not None
    finally:
        cache.directory.cache_clear()
    left = sorted(path.name for path in tmp_path.iterdir())
    kept = [0, *range(4, cache.KEPT + 3)]
    assert left == sorted([directory.name, "other", *(f"npgpt-{i:016x}" for i in kept)])


@pytest.mark.slow
def test_processes_may_create_it_at_once(tmp_path):
    program = "from npgpt.kernels import cache; print(cache.directory())"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "new" / "place")}
    processes = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    said = {process.communicate(timeout=100)[0] for process in processes}
    assert said == {f"{cache_name(tmp_path)}\n".encode()}
    assert [process.returncode for process in processes] == [0, 0, 0]


def cache_name(tmp_path):
    (found,) = (tmp_path / "new" / "place").iterdir()
    return found
