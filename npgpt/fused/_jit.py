"""The one place Numba's options are chosen.

fastmath is a list of permissions, not a switch: sums may be reassociated (SIMD
needs that) and a*b+c contracted, but NaN and inf keep their meaning, because the
causal mask is -inf and a NaN must reach the test that looks for it.
"""

import contextlib
from functools import partial

import numba
from numba import prange, types

FREEDOM = {"reassoc", "contract", "arcp", "nsz"}
BLOCKS = 16  # partial sums per reduction: fixed, so results do not depend on the core count

__all__ = ["BLOCKS", "exact_njit", "njit", "prange"]


def njit(function=None, *, fastmath=FREEDOM, parallel=False):
    """numba.njit for kernels: `@njit` or `@njit(parallel=True)`."""
    if function is None:
        return partial(njit, fastmath=fastmath, parallel=parallel)
    options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath, "parallel": parallel}
    # without what lets C call them, which nobody does and takes time to compile
    kernel = numba.njit(**options, no_cfunc_wrapper=True)(function)
    with contextlib.suppress(RuntimeError):  # nowhere to write: compiled anew in every process
        kernel.enable_caching()
    kernel.get_call_template = partial(called_with, kernel.get_call_template)
    return kernel


# For kernels whose bits are promised (the random stream): no freedom at all.
exact_njit = partial(njit, fastmath=False)


def called_with(find, kinds, named_kinds):
    """What `find` finds for a call with arguments of these types, constants taken as numbers.

    By itself, Numba compiles a kernel anew for every constant that another one calls it with.
    """
    plain = {name: types.unliteral(kind) for name, kind in named_kinds.items()}
    return find(tuple(types.unliteral(kind) for kind in kinds), plain)
