"""Two pools of threads on the same cores: BLAS's for products, OpenMP's for Numba's loops.

Each keeps its threads spinning after a piece of work, in the hope of more; the other pool's next
piece then gets half a machine. A training step of the 124M shape took 4.0 s that way and takes
2.1 s when idle threads sleep. Both settings are read once: OpenMP's when Numba's first parallel
loop runs, OpenBLAS's when NumPy is imported.
"""

import os

OPENMP = {"GOMP_SPINCOUNT": "1000"}  # spins before an idle thread sleeps; about a microsecond
OPENBLAS = {"OPENBLAS_THREAD_TIMEOUT": "4"}  # 2**4 clock cycles, the least it takes


def settle() -> None:
    """Lets idle threads sleep, where the environment has not been told otherwise.

    `npgpt` calls it before NumPy is imported and gets both; a Python program gets the first, which
    is nearly all of it, when it makes its first `GPT`.
    """
    for name, value in (OPENMP | OPENBLAS).items():
        os.environ.setdefault(name, value)
