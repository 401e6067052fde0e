"""Two pools of threads on the same cores: Numba's, and that of the BLAS under NumPy.

Each keeps its threads spinning after a piece of work, in the hope of more; the other pool's next
piece then gets half a machine. The fused shelf multiplies matrices itself, which leaves BLAS little
to do, and here idle threads are sent to sleep. Both settings are read once: OpenMP's when Numba's
first parallel loop runs, OpenBLAS's when NumPy is imported.
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
