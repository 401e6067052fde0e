"""Default environment variables for OpenMP, OpenBLAS and Numba. Existing values are kept.

Numba and the BLAS behind NumPy each own a thread pool, and idle threads of both spin for a while.
A spinning pool takes cores from the other one, so idle threads are put to sleep early.

NUMBA_OPT=2: LLVM's level 3 makes no kernel faster and compiles up to 1.5 times as long.
NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING=1: for highlighting, Numba imports colorama if it is
installed, which writes an escape sequence to every terminal when the process ends.

Each variable is read once: OpenMP's when the first parallel loop runs, OpenBLAS's when NumPy is
imported, Numba's when Numba is imported.
"""

import os
import sys

from npgpt.errors import InputError
from npgpt.system import memory

OPENMP = {"GOMP_SPINCOUNT": "1000"}  # 25 microseconds of an AMD Zen 4
OPENBLAS = {"OPENBLAS_THREAD_TIMEOUT": "4"}  # 2**4 clock cycles, the minimum
IDLE = OPENMP | OPENBLAS  # what puts idle threads to sleep
NUMBA = {"NUMBA_OPT": "2", "NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING": "1"}
LAYERS = "default", "safe", "forksafe", "threadsafe", "tbb", "omp", "workqueue"


def set_defaults() -> None:
    """Set every variable that is not set yet.

    The command line calls this before importing NumPy, so all defaults apply. In a Python program
    it runs when the first `GPT` or `Generator` is created; by then OpenBLAS has read its own.
    """
    for name, value in (IDLE | NUMBA).items():
        os.environ.setdefault(name, value)


def check_numba() -> None:
    """Raise InputError for a value that Numba would reject with a traceback.

    Raises MemoryShortage if too little memory is left to import Numba.
    """
    if "numba" not in sys.modules:
        numpy = 0 if "numpy" in sys.modules else memory.TO_IMPORT_NUMPY
        memory.require(memory.TO_IMPORT_NUMBA + numpy, "import Numba")
    for name, check, expected in (
        ("NUMBA_NUM_THREADS", lambda text: int(text) > 0, "a number of threads, at least 1"),
        ("NUMBA_DISABLE_JIT", lambda text: int(text) >= 0, "0 or 1"),
        ("NUMBA_THREADING_LAYER", lambda text: text.lower() in LAYERS, " or ".join(LAYERS)),
        (
            "NUMBA_THREADING_LAYER_PRIORITY",
            lambda text: sorted(text.split()) == ["omp", "tbb", "workqueue"],
            "omp, tbb and workqueue in any order, with spaces between",
        ),
    ):
        text = os.environ.get(name)
        try:
            valid = text is None or check(text)
        except ValueError:
            valid = False
        if not valid:
            raise InputError(f"{name} is {text!r}, but must be {expected}")
