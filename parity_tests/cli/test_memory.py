"""Too little memory, as any library reports it, is one line and exit status 1."""

import errno
import resource
import shutil
from pathlib import Path

import pytest
from numba.core.errors import LoweringError

from npgpt.errors import InputError, RunError, WeightFileError
from npgpt.kernels import launch
from npgpt.system import memory
from parity_tests.support.memory_limits import COMMANDS, MIB, filled
from parity_tests.support.memory_limits import run as limited
from parity_tests.support.runs import TINY, final


class Panic(BaseException):
    """A BaseException that is no Exception, such as pyo3_runtime.PanicException."""


def raised(error, context=None, cause=None):
    error.__context__, error.__cause__ = context, cause
    return error


NO_MEMORY = OSError(errno.ENOMEM, "Cannot allocate memory")
SHORTAGES = {
    "NumPy": MemoryError("Unable to allocate 8 TiB for an array"),
    "Python": MemoryError(),
    "mmap": NO_MEMORY,
    "a library": ImportError("libllvmlite.so: failed to map segment from shared object"),
    "a thread": RuntimeError("can't start new thread"),
    "Numba": raised(LoweringError("Failed in nopython mode"), context=MemoryError("in LLVM")),
    "llvmlite": raised(OSError("Could not find/load shared object file"), context=NO_MEMORY),
    "a reader": raised(WeightFileError("model.h5 is damaged"), context=MemoryError("of a reader")),
    "a mapped file": raised(WeightFileError("model.h5 cannot be read"), context=NO_MEMORY),
    "Rust": Panic("memory allocation of 8 bytes failed"),
}
OTHERS = {
    "a mistake": (InputError("steps is 0"), 2, "npgpt: steps is 0\n"),
    "in Numba": (raised(LoweringError("Failed"), cause=InputError("no tbb")), 2, "npgpt: no tbb\n"),
    "a run": (raised(LoweringError("Failed"), context=RunError("forked")), 1, "npgpt: forked\n"),
}


@pytest.fixture
def failing(monkeypatch, npgpt_):
    """A command in which an error is raised."""

    def command(error, code):
        def fails(*_, **__):
            raise error

        monkeypatch.setattr("npgpt.performance.system_info.gather", fails)
        return npgpt_("info", code=code)

    return command


@pytest.mark.parametrize("error", SHORTAGES.values(), ids=SHORTAGES)
def test_a_shortage_is_one_line(error, failing):
    said = failing(error, 1)
    assert said.err.startswith("npgpt: not enough memory: ")
    assert said.err.count("\n") == 1
    assert len(said.err) > len("npgpt: not enough memory: \n")


@pytest.mark.parametrize(("error", "code", "says"), OTHERS.values(), ids=OTHERS)
def test_other_errors_are_no_shortage(error, code, says, failing):
    assert failing(error, code).err == says


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("other"), Panic("other")])
def test_what_is_not_known_is_raised(error, failing):
    with pytest.raises(type(error)):
        failing(error, 1)


def test_memory_that_runs_out_in_a_run_keeps_the_last_checkpoint(npgpt_, monkeypatch):
    from npgpt.training.trainer import Trainer

    update = Trainer.update

    def greedy(self, *batch):
        if self.progress.step == 13:
            raise MemoryError("Unable to allocate 8 TiB")
        return update(self, *batch)

    monkeypatch.setattr(Trainer, "update", greedy)
    said = npgpt_("train --data text.txt --epochs 2 --out run", *TINY, code=1)
    assert said.err == (
        "npgpt: not enough memory: Unable to allocate 8 TiB. "
        "The last good checkpoint is run/checkpoint.h5\n"
    )
    assert final("run")[1]["step"] == 11
    assert Path("run/loss.png").exists()


def test_threads_that_cannot_be_started(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(launch.threading.Thread, "start", start)
    monkeypatch.setattr(launch.numba.config, "NUMBA_NUM_THREADS", 7)
    with pytest.raises(RunError, match="limit of processes, for 7 threads: set NUMBA_NUM_THREADS"):
        launch.probe_threads.__wrapped__()


@pytest.mark.parametrize(
    ("limit", "found"), [(resource.RLIM_INFINITY, None), (1 << 50, (1 << 50) - 1)]
)
def test_what_is_left(limit, found, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    left = memory.left()
    assert left is found or 0 < left < found
    memory.require(1 << 30, "start")


def test_what_is_needed_and_not_left_is_said(monkeypatch):
    monkeypatch.setattr(memory, "left", lambda: 5 << 20)
    memory.require(5 << 20, "load a kernel")
    says = "6 MiB are needed to load a kernel, and 5 MiB are left of the limit of this process"
    with pytest.raises(MemoryError, match=says):
        memory.require(6 << 20, "load a kernel")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit"), [("train", 200), ("generate", 330), ("inspect", 60)])
def test_under_a_limit_of_its_address_space(name, limit, trained):
    """python -m parity_tests.support.memory_limits has 50 limits."""
    shutil.copytree(trained[0], "run")
    outcome = limited(["-m", "npgpt", *filled(COMMANDS[name], "new")], limit * MIB, Path.cwd())
    assert outcome.kind == "one line", outcome
