"""What others read from the environment, and npgpt sets there where nobody else has.

Two pools of threads share the cores: Numba's, and that of the BLAS under NumPy. Each keeps its
threads spinning after a piece of work, in the hope of more; the other pool's next piece then gets
half a machine. The Numba backend multiplies matrices itself, which leaves BLAS little to do, and here
idle threads are sent to sleep.

And Numba asks LLVM for all that it can do (level 3), which makes none of these kernels faster than
level 2 and takes up to half as long again to compile.

All are read once: OpenMP's when the first parallel loop runs, OpenBLAS's when NumPy is imported,
Numba's when Numba is.
"""

import os

OPENMP = {"GOMP_SPINCOUNT": "1000"}  # spins before an idle thread sleeps; about a microsecond
OPENBLAS = {"OPENBLAS_THREAD_TIMEOUT": "4"}  # 2**4 clock cycles, the least it takes
IDLE = OPENMP | OPENBLAS
NUMBA = {"NUMBA_OPT": "2"}


def set_defaults() -> None:
    """Sets what has not been set.

    `npgpt` calls it before NumPy is imported and gets all; a Python program gets all but OpenBLAS's
    when it makes its first `Generator` or `GPT`, or loads one.
    """
    for name, value in (IDLE | NUMBA).items():
        os.environ.setdefault(name, value)
