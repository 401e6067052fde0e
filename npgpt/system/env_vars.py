"""Default environment variables for OpenMP, OpenBLAS and Numba. Existing values are kept.

Numba and the BLAS behind NumPy each own a thread pool, and idle threads of both spin for a while.
A spinning pool takes cores from the other one, so idle threads are put to sleep early.

NUMBA_OPT=2: LLVM's level 3 makes no kernel faster and compiles up to 1.5 times as long.

Each variable is read once: OpenMP's when the first parallel loop runs, OpenBLAS's when NumPy is
imported, Numba's when Numba is imported.
"""

import os

OPENMP = {"GOMP_SPINCOUNT": "1000"}  # about a microsecond
OPENBLAS = {"OPENBLAS_THREAD_TIMEOUT": "4"}  # 2**4 clock cycles, the minimum
IDLE = OPENMP | OPENBLAS  # what puts idle threads to sleep
NUMBA = {"NUMBA_OPT": "2"}


def set_defaults() -> None:
    """Set every variable that is not set yet.

    The command line calls this before importing NumPy, so all defaults apply. In a Python program
    it runs when the first `GPT` or `Generator` is created; by then OpenBLAS has read its own.
    """
    for name, value in (IDLE | NUMBA).items():
        os.environ.setdefault(name, value)
