"""A parallel loop that is compiled once for all bodies: every task once, wherever it comes from."""

import subprocess
import sys

import numpy as np
import pytest

from npgpt.kernels.jit import inner, njit
from npgpt.kernels.parallel import in_parallel


@inner
def square(task, x, scale, flag, out):
    out[task] += scale * x[task] * x[task] if flag else 0


@njit
def squares(tasks, x, scale, flag, out):
    in_parallel(tasks, square, (x, scale, flag, out))


@inner
def refuse(task, wrong, out):
    if task == wrong:
        raise ValueError("not this one")
    out[task] = 1


@njit
def refusals(tasks, wrong, out):
    in_parallel(tasks, refuse, (wrong, out))


@pytest.mark.parametrize("tasks", [0, 1, 2, 7, 1000])
def test_every_task_is_done_once(tasks):
    x, out = np.arange(1000.0), np.zeros(1000)
    squares(tasks, x, 2.0, True, out)
    expected = np.where(x < tasks, 2 * x * x, 0)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(("tasks", "wrong"), [(8, 3), (1, 0)])
def test_a_task_that_raises_is_reported_and_the_others_are_done(tasks, wrong):
    out = np.zeros(tasks)
    with pytest.raises(RuntimeError, match="a task of a parallel loop has failed"):
        refusals(tasks, wrong, out)
    np.testing.assert_array_equal(out, np.arange(tasks) != wrong)


# The only kernel of its process, in a module that is kept: the second time, from Numba's cache.
MODULE = """
import sys
import numpy as np
from npgpt.fused import layernorm

x = np.arange(32, dtype=np.float32).reshape(2, 16)
p = layernorm.Params(np.ones(16, np.float32), np.zeros(16, np.float32))
print(float(np.abs(layernorm.forward(x, p)[0]).sum()), len(layernorm._forward.stats.cache_hits))
"""


@pytest.mark.slow
def test_a_kernel_from_the_cache_finds_its_threads(tmp_path, monkeypatch):
    """Once it found none: the first process has _launch from the cache, compiles the kernel, and
    Numba kept it without a word about threads."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    other = "import numpy as np; from npgpt.fused import embedding as e; " + (
        "e.forward(np.zeros((1, 2), int), e.Params(*np.ones((2, 2, 4), np.float32)))"
    )
    said = []
    for program in other, MODULE, MODULE:
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert run.returncode == 0, (run.returncode, run.stderr)
        said.append(run.stdout.split())
    assert said[1][0] == said[2][0]
    assert [int(hits) for _, hits in said[1:]] == [0, 1]
