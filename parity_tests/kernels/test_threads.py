"""Parallel loops from several Python threads, in forked processes, and without Numba's compiler."""

import os
import subprocess
import sys

import pytest


def python(program, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env=os.environ | environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


# A kernel whose tasks see each other: with two callers at once, workqueue would abort.
TWO_CALLERS = """
import sys, threading
import numba
import numpy as np
from npgpt import fused

x = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
p = fused.layernorm.Params(np.ones(128, np.float32), np.zeros(128, np.float32))
expected = fused.layernorm.forward(x, p)[0]
wrong, done = [], []

def work():
    for _ in range(500):
        found = fused.layernorm.forward(x, p)[0]
        if not np.array_equal(found, expected):
            wrong.append(found)
    done.append(True)

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(numba.threading_layer(), len(done), len(wrong))
"""


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_threads_work_or_wait(layer):
    run = python(TWO_CALLERS, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    if "No threading layer could be loaded" in run.stderr:
        pytest.skip(f"this Numba has no threading layer {layer}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [layer, "3", "0"]


# Uses the threads, forks, and uses them in the child: a loop of one task needs none.
FORK = """
import os, sys
import numpy as np
from npgpt import fused
from npgpt.errors import RunError

def forward(rows):
    p = fused.layernorm.Params(np.ones(8, np.float32), np.zeros(8, np.float32))
    return fused.layernorm.forward(np.eye(rows, 8, dtype=np.float32), p)[0]

if sys.argv[1] == "before":
    forward(4)
child = os.fork()
if child == 0:
    said = f"{forward(1).shape} "
    try:
        said += str(forward(4).shape)
    except RunError as error:
        said += str(error)
    os.write(1, said.encode())
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert forward(4).shape == (4, 8)  # the parent is as before
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize(
    ("layer", "when", "says"),
    [("omp", "before", "get_context('spawn')"), ("omp", "never", "(4, 8)"),
     ("workqueue", "before", "(4, 8)")],
)  # fmt: skip
def test_a_fork_after_use_raises_or_works(layer, when, says):
    if sys.platform != "linux" and (layer, when) == ("omp", "before"):
        pytest.skip("only GNU's OpenMP loses its threads")
    run = python(FORK, when, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    if "No threading layer could be loaded" in run.stderr:
        pytest.skip(f"this Numba has no threading layer {layer}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("(1, 8) ")
    assert says in run.stdout


PLAIN = "from npgpt.kernels import cache; (cache.directory() / 'compiler').write_text('plain')"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only GNU's OpenMP loses its threads")
def test_without_the_fast_compiler_the_guards_are_the_same(tmp_path):
    """prange around each body: Numba must neither move the lock nor start a loop outside of it."""
    settings = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_OPT": "1", "NUMBA_NUM_THREADS": "2"}
    assert python(PLAIN, **settings).returncode == 0
    run = python(TWO_CALLERS, NUMBA_THREADING_LAYER="workqueue", **settings)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["workqueue", "3", "0"]
    run = python(FORK, "before", NUMBA_THREADING_LAYER="omp", **settings)
    assert run.returncode == 0, run.stderr
    assert "get_context('spawn')" in run.stdout


NUMPY_ONLY = """
import sys
import numpy as np
import npgpt
import npgpt.ops
from npgpt.errors import InputError

config = npgpt.Config(vocab_size=17, context_length=8, n_layer=1, n_head=2, n_embd=8)
model = npgpt.GPT(config, seed=npgpt.Generator(1, ops=npgpt.ops), ops=npgpt.ops)
loss, cache = model.loss([[1, 2, 3]], [[2, 3, 4]])
model.backward(cache)
rng = npgpt.Generator(2, ops=npgpt.ops)
print(len(list(npgpt.generate(model, np.array([[1, 2]]), 5, rng=rng))))
for use in (lambda: npgpt.GPT(config), lambda: npgpt.Generator(1)):
    try:
        use()
    except InputError as error:
        print(error)
"""


def test_without_the_compiler_numpy_works_and_the_kernels_say_what_to_do():
    run = python(NUMPY_ONLY, NUMBA_DISABLE_JIT="1")
    assert run.returncode == 0, run.stderr
    count, *said = run.stdout.splitlines()
    assert count == "5"
    assert len(said) == 2
    for line in said:
        assert "NUMBA_DISABLE_JIT is set" in line
        assert "--ops numpy" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ops", "code"), [(["--ops", "numpy"], 0), ([], 2)], ids=["numpy", "fused"]
)
def test_train_without_the_compiler(tmp_path, ops, code):
    (tmp_path / "text.txt").write_text("The lamp is lit at dusk. " * 20)
    command = (
        "train --data text.txt --out run --steps 1 --n-layer 1 --n-embd 8 --n-head 2 "
        "--context-length 8 --batch-size 2 --stride 8 --sample-tokens 2 --warmup-steps 0"
    )
    run = subprocess.run(
        [sys.executable, "-m", "npgpt", *command.split(), *ops], cwd=tmp_path,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == code, run.stderr
    if code:
        (line,) = run.stderr.splitlines()
        assert line.startswith("npgpt: NUMBA_DISABLE_JIT is set")
