"""With a Numba that does not have its private names any more, kernels compile in plain words."""

import json
import os
import subprocess
import sys

import pytest

from npgpt.kernels import jit, probe

# What fast_compiler.py and parallel_loop.py use: a class, its name, and what a later Numba might
# have renamed.
NAMES = [
    ("numba.core.codegen", "JITCodeLibrary", "_linking_libraries"),
    ("numba.core.codegen", "JITCodeLibrary", "_reload_init"),
    ("numba.core.codegen", "JITCodeLibrary", "_final_module"),
    ("numba.core.codegen", "JITCodeLibrary", "_get_module_for_linking"),
    ("numba.core.codegen", "JITCodeLibrary", "_finalize_dynamic_globals"),
    ("numba.core.compiler", "CompilerBase", "state"),
    ("numba.core.dispatcher", "Dispatcher", "targetctx"),
    ("numba.core.dispatcher", "Dispatcher", "get_call_template"),
    ("numba.core.dispatcher", "Dispatcher", "get_compile_result"),
    ("numba.core.base", "BaseContext", "insert_user_function"),
    ("numba.core.base", "BaseContext", "add_linking_libs"),
    ("numba.core.base", "BaseContext", "declare_function"),
    ("numba.core.base", "BaseContext", "get_function"),
    ("numba.core.base", "BaseContext", "get_value_type"),
    ("numba.core.cpu", "CPUContext", "call_conv"),
    ("numba.core.cpu", "CPUContext", "codegen"),
    ("numba.core.typing.context", "BaseContext", "resolve_value_type"),
    ("numba.core.types", "Dispatcher", "get_call_type"),
    ("numba.core.callconv", "CPUCallConv", "return_user_exc"),
    ("numba.core.callconv", "CPUCallConv", "call_function"),
]

BREAK = """
import importlib, inspect, sys
from contextlib import contextmanager

OURS = ("fast_compiler.py", "parallel_loop.py")

class Renamed:
    \"\"\"An attribute that is missing for our two files, and there for Numba itself.\"\"\"

    def __init__(self, name, kept):
        self.name, self.kept, self.asked = name, kept, False

    def check(self):
        if sys._getframe(2).f_code.co_filename.endswith(OURS):
            self.asked = True
            raise AttributeError(self.name)

    def __get__(self, instance, owner=None):
        self.check()
        if instance is None:
            return self.kept
        if self.name in vars(instance):
            return vars(instance)[self.name]
        return self.kept.__get__(instance, owner) if hasattr(self.kept, "__get__") else self.kept

    def __set__(self, instance, value):
        self.check()
        vars(instance)[self.name] = value

@contextmanager
def renamed(module, owner, name):
    owner = getattr(importlib.import_module(module), owner)
    own, kept = name in vars(owner), inspect.getattr_static(owner, name, None)
    attribute = Renamed(name, kept)
    setattr(owner, name, attribute)
    try:
        yield attribute
    finally:
        setattr(owner, name, kept) if own else delattr(owner, name)
"""

ALL = (
    BREAK
    + """
import json
from npgpt.kernels import probe

said = {}
for name in json.loads(sys.argv[1]):
    with renamed(*name) as attribute:
        said[".".join(name[1:])] = [probe.succeeds(), attribute.asked]
print(json.dumps([said, probe.succeeds()]))
"""
)


def python(program, *arguments, **environment):
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_this_numba_compiles_fast():
    """Or everything below would be tested twice, and the fast compiler not at all."""
    assert jit.is_fast()
    assert probe.answers()


@pytest.mark.slow
def test_every_private_name_is_used_and_may_be_missing(tmp_path):
    out = python(ALL, json.dumps(NAMES), NUMBA_CACHE_DIR=str(tmp_path), NUMBA_OPT="0")
    said, afterwards = json.loads(out)
    assert said == {".".join(name[1:]): [False, True] for name in NAMES}
    assert afterwards


# A kernel that takes a named tuple, one that fails, and an op, with one name missing.
PLAIN = (
    BREAK
    + """
from typing import NamedTuple
import numpy as np

with renamed("numba.core.codegen", "JITCodeLibrary", "_final_module"):
    from npgpt.kernels import jit
    assert not jit.is_fast()
from npgpt import fused, ops
from npgpt.errors import RunError
from npgpt.kernels.parallel import in_parallel
from npgpt.performance import system_info

import numba
numba.threading_layer()  # raises unless threads run: Numba 0.61 crashes if a cached loop finds none

class Pair(NamedTuple):
    x: np.ndarray
    y: np.ndarray

@jit.inner
def add(task, pair, scale, out):
    if out[task]:
        raise ValueError("not this one")
    out[task] = scale * (pair.x[task] + pair.y[task])

@jit.njit
def added(tasks, pair, scale, out):
    in_parallel(tasks, add, (pair, scale, out))

x, out = np.arange(7.0), np.zeros(7)
for tasks in (0, 1, 5) if sys.argv[1] == "0" else ():
    out[:] = 0
    added(tasks, Pair(x, 2 * x), 2.0, out)
    assert np.array_equal(out, np.where(x < tasks, 6 * x, 0)), out
for tasks in (1, 7) if sys.argv[1] == "0" else ():
    out[:] = x == tasks - 1
    try:
        added(tasks, Pair(x, x), 1.0, out)
        raise AssertionError("it did not raise")
    except RunError as error:
        assert "a task of a parallel loop has failed" in str(error)
    assert np.array_equal(out[: tasks - 1], 2 * x[: tasks - 1])

x = np.random.default_rng(0).standard_normal((9, 40)).astype(np.float32)
p = ops.layernorm.Params(x[0], x[1])
np.testing.assert_allclose(
    fused.layernorm.forward(x, p)[0], ops.layernorm.forward(x, p)[0], rtol=1e-5, atol=1e-6
)
(warning,) = system_info.compiler_warnings()
print(warning)
print(sum(fused.layernorm._forward.stats.cache_hits.values()))
"""
)


@pytest.mark.slow
def test_in_plain_words_the_results_are_the_same(tmp_path):
    for hits in "01":  # compiled, then from the cache
        out = python(PLAIN, hits, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_OPT="1")
        warning, hit = out.splitlines()
        assert "kernels compile several times as long; the results are the same" in warning
        assert hit == hits
