"""Values of environment variables that Numba or LLVM would answer with a traceback, or an abort."""

import numba
import pytest
from llvmlite import binding

from npgpt.cli.main import show_warning
from npgpt.errors import InputError
from npgpt.kernels import cpu, launch

WRONG = {
    "NUMBA_NUM_THREADS": (["0", "-1", "abc", ""], "must be a number of threads, at least 1"),
    "NUMBA_DISABLE_JIT": (["yes", "-1", ""], "must be 0 or 1"),
    "NUMBA_THREADING_LAYER": (["nonsense", ""], "must be default or safe or"),
    "NUMBA_THREADING_LAYER_PRIORITY": (["omp", "omp omp tbb"], "must be omp, tbb and workqueue"),
}
VALUES = [(name, value, says) for name, (values, says) in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "value", "says"), VALUES)
def test_a_wrong_value_is_named(name, value, says, refused, monkeypatch):
    monkeypatch.setenv(name, value)
    refused("train --data text.txt --out run", says=f"npgpt: {name} is {value!r}, but {says}")
    refused("generate --prompt The", says=f"npgpt: {name} is {value!r}, but {says}")


@pytest.mark.parametrize("value", ["OMP", "workqueue"])
def test_layers_of_numba_are_no_mistake(value, monkeypatch, npgpt_):
    monkeypatch.setenv("NUMBA_THREADING_LAYER", value)
    monkeypatch.setenv("NUMBA_THREADING_LAYER_PRIORITY", "workqueue tbb omp")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")
    npgpt_("train --data text.txt --out run --steps 1 --n-layer 1 --n-embd 16 --n-head 2")


def test_a_layer_that_is_not_installed(monkeypatch):
    def missing():
        raise ValueError("No threading layer could be loaded.\nHINT:\nIntel TBB is required")

    monkeypatch.setattr(numba, "get_num_threads", missing)
    with pytest.raises(InputError, match="but this Numba has no such threading layer") as caught:
        launch.num_threads()
    assert "\n" not in str(caught.value)


def test_a_value_that_numba_cannot_read_is_one_line(capsys):
    """Numba warns with a traceback, and takes the default."""
    said = "Environment variable 'NUMBA_OPT' is defined but its associated value 'abc' could not be"
    show_warning(
        None, RuntimeWarning(f"{said} parsed.\nTraceback:"), RuntimeWarning, "config.py", 1
    )
    assert capsys.readouterr().err == f"npgpt: {said} parsed.\n"


HOST = binding.get_host_cpu_features()
LACKING = next(name for name in sorted(HOST) if not HOST[name])
GOOD = next(name for name in sorted(HOST) if HOST[name])


@pytest.mark.parametrize(
    ("name", "features", "says"),
    [
        (None, None, None),
        ("generic", "", None),
        (None, f"+{GOOD},-{LACKING}", None),
        ("nonsense", None, "NUMBA_CPU_NAME is 'nonsense', which this LLVM does not know"),
        (None, "+nonsense", r"NUMBA_CPU_FEATURES is '\+nonsense', which this LLVM does not"),
        (None, "nonsense", "every feature must begin with"),  # LLVM aborts
        (None, f"+{GOOD}, -{LACKING}", "every feature must begin with"),
        (None, f"+{LACKING}", f"this CPU has no {LACKING}"),  # an illegal instruction
    ],
)
def test_the_cpu(name, features, says, capfd):
    if says is None:
        cpu.check_chosen(name, features)
    else:
        with pytest.raises(InputError, match=says):
            cpu.check_chosen(name, features)
    assert capfd.readouterr().err == ""
