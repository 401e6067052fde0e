"""Several test processes share compiled kernels: one compiles a kernel, the others load it.

Numba itself has every process compile all kernels that the cache does not have yet.
"""

import functools
from contextlib import contextmanager
from pathlib import Path

from numba.core.dispatcher import Dispatcher

try:
    import fcntl
except ImportError:  # Windows: each process compiles by itself
    fcntl = None


def install() -> None:
    """Let `Dispatcher.compile`, which asks the cache first, hold a lock of its kernel's own.

    Kernels are compiled with their callees, under the lock of each, and no kernel calls itself: so
    no process waits for one that waits for it.
    """
    if fcntl is not None and not hasattr(Dispatcher.compile, "__wrapped__"):
        Dispatcher.compile = alone(Dispatcher.compile)


def alone(compile):
    @functools.wraps(compile)
    def locked(kernel, signature):
        folder = kernel.stats.cache_path
        if folder is None or not Path(folder).is_dir():  # an inner kernel, or a read-only system
            return compile(kernel, signature)
        function = kernel.py_func
        with lock(Path(folder) / f".{function.__module__}.{function.__qualname__}.lock"):
            return compile(kernel, signature)

    return locked


@contextmanager
def lock(path: Path):
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        yield
