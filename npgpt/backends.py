"""The one place that chooses which backend computes: npgpt.ops, npgpt.fused or npgpt.mixed."""

from typing import Any

import numpy as np

from npgpt.config import RunConfig
from npgpt.errors import InputError


def check_dtype(dtype, ops) -> tuple[np.dtype, Any]:
    """The dtype of the parameters, and the backend. Raises InputError for what is neither float32,
    float64 nor "bfloat16"."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        return np.dtype(np.float32), require_mixed(ops, 'dtype "bfloat16"')
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        pass  # no dtype at all: said below
    if dtype not in (np.float32, np.float64):
        raise InputError(f"dtype is {dtype}, but has to be float32, float64 or bfloat16")
    return dtype, ops


def require_mixed(ops, what: str):
    """The backend npgpt.mixed. Raises InputError where another one is asked for."""
    from npgpt import mixed

    if ops not in (None, mixed):
        raise InputError(f"{what}: only npgpt.mixed computes with these; ops is {ops.__name__}")
    return mixed


def get(settings: RunConfig):
    """The module that computes: npgpt.fused, npgpt.mixed for bfloat16, or npgpt.ops."""
    from npgpt import fused, mixed, ops

    if settings.dtype == "bfloat16":
        return mixed
    return {"fused": fused, "numpy": ops}[settings.ops]
