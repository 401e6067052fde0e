"""An identity matrix as an operand of products, without its numbers."""

from typing import Any

import numpy as np

from npgpt.arrays import Array


class Identity:
    """The identity matrix of a size, whose products with an array on the left are copies of it.

    The (V, V) numbers of a vocabulary of 50,257 would be 20 GB.
    """

    def __init__(self, size: int):
        self.shape = size, size

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def T(self) -> "Identity":
        """The transpose."""
        return self

    def __array_ufunc__(self, ufunc: Any, method: str, x: Array, other: Any, **options: Any) -> Any:
        """Return `x @ identity`, in the array of `out` if there is one."""
        if ufunc is not np.matmul or method != "__call__" or other is not self:
            return NotImplemented
        if "out" not in options:
            return x.copy()
        np.copyto(options["out"][0], x)
        return options["out"][0]

    def __rmatmul__(self, x: Array) -> Array:
        """Return `x @ identity`."""
        return x.copy()
