"""The one place Numba's options are chosen.

fastmath is a list of permissions, not a switch: sums may be reassociated (SIMD
needs that) and a*b+c contracted, but NaN and inf keep their meaning, because the
causal mask is -inf and a NaN must reach the test that looks for it.
"""

from functools import partial

import numba
from numba import prange

njit = partial(
    numba.njit,
    cache=True,
    nogil=True,
    error_model="numpy",
    fastmath={"reassoc", "contract", "arcp", "nsz"},
)

# For kernels whose bits are promised (the random stream): no freedom at all.
exact_njit = partial(numba.njit, cache=True, nogil=True, error_model="numpy", fastmath=False)

BLOCKS = 16  # partial sums per reduction: fixed, so results do not depend on the core count

__all__ = ["BLOCKS", "exact_njit", "njit", "prange"]
