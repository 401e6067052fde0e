"""The one place where Numba's options are chosen.

fastmath is a list of permissions: sums may be reassociated (SIMD needs that) and a*b+c contracted.
NaN and inf keep their meaning, because the causal mask is -inf and a NaN must reach the test that
looks for it.

Numba compiles our kernels faster with the help of names that are private to it
(fast_compiler.py, parallel_loop.py). Where another version of Numba does not answer as expected,
`is_fast` returns False, and plain `njit` and `prange` take their place: the results are the same,
and compiling takes longer.
"""

from contextlib import suppress
from functools import cache, partial

import numba

from npgpt.errors import InputError, RunError
from npgpt.kernels import cache as kernel_cache
from npgpt.system.atomic import atomic_write

if numba.config.DISABLE_JIT:
    raise InputError(
        "NUMBA_DISABLE_JIT is set, so the Numba backend cannot compile its kernels: unset it, or "
        "choose the NumPy backend, --ops numpy (in Python: ops=npgpt.ops)"
    )

FREEDOM = {"reassoc", "contract", "arcp", "nsz"}
BLOCKS = 16  # partial sums per reduction: fixed, so results do not depend on the core count

__all__ = ["BLOCKS", "exact_inner", "exact_njit", "inner", "is_fast", "njit"]


def njit(function=None, *, fastmath=FREEDOM, parallel=False):
    """Compile a kernel that Python calls. `parallel` is for the one loop of parallel_loop.py."""
    if function is None:
        return partial(njit, fastmath=fastmath, parallel=parallel)
    options = {"fastmath": fastmath, "parallel": parallel, **COMMON}
    if is_fast():
        from npgpt.kernels import fast_compiler

        kernel = fast_compiler.njit(function, options)
    else:
        kernel = numba.njit(**options)(function)
    kernel_cache.enable(kernel)
    return kernel


def inner(function=None, *, fastmath=FREEDOM):
    """Like `njit`, for functions called only from other kernels.

    No standalone machine code and no Python wrapper are generated; the function is compiled as part
    of its callers.
    """
    if function is None:
        return partial(inner, fastmath=fastmath)
    options = {"fastmath": fastmath, **COMMON}
    if is_fast():
        from npgpt.kernels import fast_compiler

        return fast_compiler.inner(function, options)
    return numba.njit(**options)(function)


# For kernels whose bits are promised (the random stream): no freedom at all.
exact_njit, exact_inner = partial(njit, fastmath=False), partial(inner, fastmath=False)

COMMON = {"nogil": True, "error_model": "numpy"}


@cache
def is_fast() -> bool:
    """Return True if this Numba compiles with fast_compiler.py and parallel_loop.py.

    It is tried once, and the answer is kept beside the compiled kernels.
    """
    directory = kernel_cache.directory()
    known = directory and directory / "compiler"
    try:
        answer = known.read_text() if known else ""
    except (OSError, ValueError):
        answer = ""
    if answer not in ("fast", "plain"):
        from npgpt.kernels import probe

        answer = "fast" if probe.succeeds() else "plain"
        if known:
            write(known, answer)
    return answer == "fast"


def write(path, text: str) -> None:
    """Write a small file at once, if possible: several processes may write the same one."""
    with suppress(RunError), atomic_write(path) as file:
        file.write(text.encode())
