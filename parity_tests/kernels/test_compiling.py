"""Compilation by Numba: announced, cached if any directory is writable, and never repeated."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import npgpt
from npgpt.cli.common import COMPILING
from npgpt.kernels import gemm, gemv
from npgpt.model import transformer
from npgpt.model.backend import OPS
from npgpt.performance import precompile
from npgpt.quantized_matrix import KINDS

TRAIN = (
    "train --data text.txt --out {run} --steps 2 --n-layer 1 --n-embd 16 --n-head 2 "
    "--context-length 16 --batch-size 4 --stride 16 --sample-tokens 3 --warmup-steps 1"
)
GENERATE = "generate --model {run} --prompt The --max-new-tokens 13 --num-samples 8"
TEXT = "The lamp is lit at dusk, and the keeper writes the hour in the book. " * 12


def test_tests_compile_as_npgpt_does():
    """At the level of npgpt/system/env_vars.py, which must be set before Numba is imported."""
    assert int(numba.config.OPT) == int(os.environ["NUMBA_OPT"])


# Trains and generates in one process, then again; prints every kernel's argument types, made plain,
# a digest of the parameters that each of the two ended with, and the modules of which this process
# had to compile something: the rest is compiled by a second one, as there are two cores.
PROGRAM = """
import hashlib, importlib, json, os, pkgutil, sys
from numba import njit, types
from numba.core import event
import npgpt
from npgpt import fused, kernels
from npgpt.cli import main as cli
from npgpt.model import params
from npgpt.performance import precompile
from npgpt.system import machine

machine.cores = lambda: 2
compiled, late = set(), set()  # late: since the kernels were compiled ahead of time
ahead = precompile.compile_kernels

def compile_kernels(*given, **options):
    ahead(*given, **options)
    late.clear()

precompile.compile_kernels = compile_kernels

class Compiled(event.Listener):
    def on_start(self, event):
        module = event.data["dispatcher"].py_func.__module__.rpartition(".")[2]
        compiled.add(module)
        late.add(module)
    def on_end(self, event):
        pass

event.register("numba:compile", Compiled())

def plain(kind):
    kind = types.unliteral(kind)
    if isinstance(kind, types.Array):
        return f"{kind.ndim}d {kind.dtype}"
    return "number" if isinstance(kind, types.Number) else str(kind)

digests = []
for run in "again", "once more":
    folder = f"{run}-{os.getpid()}".replace(" ", "-")
    for line in sys.argv[1:]:
        assert cli.main(line.format(run=folder).split()) == 0
        assert not (line.startswith("generate") and late), late
    bits = b"".join(array.tobytes() for _, array in params.named(npgpt.load(folder).params))
    digests.append(hashlib.sha256(bits).hexdigest())
    print("that was", run, file=sys.stderr)
found = {}
modules = [m for p in (fused, kernels) for m in pkgutil.iter_modules(p.__path__, p.__name__ + ".")]
for module in modules:
    for name, kernel in vars(importlib.import_module(module.name)).items():
        if isinstance(kernel, type(njit(lambda: 0))) and kernel.py_func.__module__ == module.name:
            found[f"{module.name}.{name}"] = [
                ", ".join(map(plain, kinds)) for kinds in kernel.overloads
            ]
print(json.dumps([found, digests, sorted(compiled)]))
"""


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """A copy of the package in which no __pycache__ can be created, even by root.

    -> the environment of a program that finds this copy, and an empty home.
    """
    site = tmp_path / "site"
    source = Path(npgpt.__file__).parent
    shutil.copytree(source, site / "npgpt", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [path.parent for path in site.rglob("__init__.py")]:
        (folder / "__pycache__").write_text("in the way")
    (tmp_path / "home").mkdir()
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    # little optimisation compiles faster, and what is compiled is the same
    changed = {"PYTHONPATH": str(site), "HOME": str(tmp_path / "home"), "NUMBA_OPT": "1"}
    ours = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    return ours | changed


def python(program, *arguments, environment):
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1], run.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="its cache folder is not under HOME")
def test_kernels_are_compiled_once_and_kept_in_a_writable_directory(read_only):
    found, said = python(PROGRAM, TRAIN, GENERATE, environment=read_only)
    assert [line.split(";")[0] + ";" for line in said] == [
        COMPILING, COMPILING, "that was again;", "that was once more;"
    ]  # fmt: skip
    kept = {Path(line.partition("they are cached in ")[2]) for line in said[:2]}
    (folder,) = kept
    assert folder.is_relative_to(read_only["HOME"])
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert len(files) > 20  # one for each list of types

    kernels, digests, compiled = json.loads(found)
    assert len(kernels) > 30
    twice = {name: kinds for name, kinds in kernels.items() if len(set(kinds)) < len(kinds)}
    assert twice == {}
    # what the second process compiled is what the first one needed, down to the argument types
    shared = {name for share in precompile.SHARES.values() for name in share}
    shared = shared - {"random"} | {"parallel_rng"}  # sampling is compiled at its first use
    assert not shared & set(compiled)
    assert {"attention", "linear_cross_entropy"} <= set(compiled)

    found, said = python(PROGRAM, TRAIN, GENERATE, environment=read_only)
    assert said == ["that was again", "that was once more"]
    _, again, compiled = json.loads(found)
    assert len({*digests, *again}) == 1  # not a bit depends on who compiled
    assert compiled == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == files


def test_what_only_kernels_call_tells_python_so():
    known, ones = list(gemv.multiply_rows.signatures), np.ones((2, 2), np.complex64)
    with pytest.raises(TypeError, match=r"only kernels call npgpt\.kernels\.gemv\.multiply_rows;"):
        gemv.multiply_rows(ones, ones, 0, 2, ones)
    assert known == list(gemv.multiply_rows.signatures)  # nothing was compiled for it


def test_nothing_is_compiled_twice_ahead_of_time(monkeypatch, tmp_path):
    done, calls = tmp_path / "train-float32", []
    monkeypatch.setattr(precompile.machine, "cores", lambda: 2)
    monkeypatch.setattr(precompile, "marker", lambda work, kind: tmp_path / f"{work}-{kind}")
    monkeypatch.setattr(precompile, "warm_up", lambda *arguments, **_: calls.append(arguments[:2]))
    for code, compiled in ("raise SystemExit(1)", 1), ("pass", 2), ("pass", 2):
        command = [sys.executable, "-c", code]
        monkeypatch.setattr(precompile, "second_process", lambda *_, command=command: command)
        precompile.compile_kernels("train", "float32")
        assert calls == [("train", "float32")] * compiled
        assert done.exists() == (compiled == 2)  # kept only once both have succeeded


def test_training_compiles_products_of_few_rows_for_adapters_and_classes_only(monkeypatch):
    called = set()

    def watch(name, kernel):
        def run(*given):
            called.add(name)
            kernel(*given)

        monkeypatch.setattr(gemm, name, run)

    for name in "_matmul", "_batch", "_transposed":
        watch(name, getattr(gemm, name))
    monkeypatch.setattr(precompile, "VOCABULARY", 64)
    for work, expected in (
        ("train", {"_matmul"}),
        ("fine-tune", {"_matmul", "_batch", "_transposed"}),
    ):
        called.clear()
        precompile.warm_up(work, "float32", OPS)
        assert called == expected


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_kernels_are_compiled_for_the_dtype_of_keys_and_values(kind, monkeypatch, tmp_path):
    # in both shares, and once for each dtype
    made, command = [], []
    monkeypatch.setattr(precompile.machine, "cores", lambda: 2)
    monkeypatch.setattr(precompile, "marker", lambda work, kind: tmp_path / f"{work}-{kind}")
    monkeypatch.setattr(precompile, "VOCABULARY", 32)
    monkeypatch.setattr(
        transformer, "next_logits", lambda *_, past, **options: made.append(past[0].k.dtype.name)
    )
    python = [sys.executable, "-c", ""]
    monkeypatch.setattr(
        precompile, "second_process", lambda *given: command.extend(given) or python
    )
    for cache_dtype, stored in ("float32", "float32"), ("bfloat16", "uint16"):
        made.clear()
        command.clear()
        precompile.compile_kernels("batches", kind, cache_dtype=cache_dtype)
        assert made == [stored] * 4
        assert kind == "int8" or (command[-1] == "bfloat16") == (stored == "uint16")
        precompile.compile_kernels("batches", kind, cache_dtype=cache_dtype)
        assert len(made) == 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_quantized_weights_are_compiled_ahead_of_time(monkeypatch, tmp_path, kind):
    """In one process: the NumPy ops, which the other one's share would leave, take none."""
    monkeypatch.setattr(precompile.machine, "cores", lambda: 2)
    monkeypatch.setattr(precompile, "marker", lambda work, kind: tmp_path / f"{work}-{kind}")
    precompile.compile_kernels("generate", kind)
    assert [path.name for path in tmp_path.iterdir()] == [f"generate-{kind}"]


@pytest.mark.slow
def test_without_a_directory_everything_works_and_info_says_so(read_only, tmp_path):
    (tmp_path / "home").rmdir()
    (tmp_path / "home").write_text("in the way")
    program = (
        "import npgpt; from npgpt.performance import system_info as info; "
        "print(npgpt.Generator(123).uniform(1)[0], info.numba_cache())"
    )
    said, complaints = python(program, environment=read_only)
    assert said == "0.29611194 nowhere"
    assert complaints == []
