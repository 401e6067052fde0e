"""Choose the backend: npgpt.ops (NumPy), npgpt.fused (Numba) or npgpt.mixed (bfloat16).

A backend is imported when it is chosen, because importing Numba takes most of a second.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from npgpt.errors import InputError, show
from npgpt.model.backend import OPS, Backend
from npgpt.system import env_vars, memory

__all__ = ["Backend", "check_dtype", "get", "name_of"]

MODULES = {"numpy": "npgpt.ops", "fused": "npgpt.fused", "mixed": "npgpt.mixed"}


def get(
    ops: Backend | str | None = None, *, dtype: Any = "float32", why: str = 'dtype "bfloat16"'
) -> Backend:
    """Return the backend that computes.

    Parameters
    ----------
    ops : Backend or str or None, default None
        A backend (npgpt.ops, npgpt.fused, npgpt.mixed or an object with the same attributes), or
        the name of one: "numpy", "fused" or "mixed". None: the fastest one for `dtype`.
    dtype : str or dtype, default "float32"
        "bfloat16" is computed by npgpt.mixed alone, which then takes the place of "fused".
    why : str
        What needs bfloat16, for the error message.

    Returns
    -------
    Backend

    Raises
    ------
    InputError
        If `ops` is not a backend, or cannot compute with `dtype`.
    """
    env_vars.set_defaults()  # before Numba is imported
    bfloat16 = isinstance(dtype, str) and dtype == "bfloat16"
    if ops is None or (bfloat16 and isinstance(ops, str) and ops == "fused"):
        ops = "mixed" if bfloat16 else "fused"
    if isinstance(ops, str) and ops == "numpy":
        memory.require(memory.TO_MULTIPLY, "multiply matrices")
    elif isinstance(ops, str):
        env_vars.check_numba()
    backend = _import(ops) if isinstance(ops, str) else ops
    missing = [name for name in OPS if not hasattr(backend, name)]
    if missing:
        raise InputError(
            f"ops is {show(ops)}, which has no {missing[0]}: it must be npgpt.fused, npgpt.mixed, "
            "npgpt.ops or an object with the same attributes"
        )
    if bfloat16 and backend is not _import("mixed"):
        raise InputError(f"{why}: only npgpt.mixed computes with these; ops is {name_of(backend)}")
    return backend


def name_of(backend: Backend) -> str:
    """Return the name of a backend, for people: "npgpt.fused"."""
    return getattr(backend, "__name__", type(backend).__name__)


def key_of(backend: Backend) -> Backend | str:
    """Return what `get` finds this backend by in another process: its key in MODULES, or itself."""
    if isinstance(backend, ModuleType):
        return next((key for key, name in MODULES.items() if name == backend.__name__), backend)
    return backend


def check_dtype(dtype: Any) -> np.dtype:
    """Return the dtype of the parameters: float32 (for "bfloat16" too) or float64.

    Raises
    ------
    InputError
        If `dtype` is none of these.
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        return np.dtype(np.float32)
    try:
        found = None if dtype is None else np.dtype(dtype)  # NumPy's None is float64
    except (TypeError, ValueError):
        found = None
    if found not in (np.float32, np.float64):
        raise InputError(f"dtype is {show(dtype)}, but must be float32, float64 or bfloat16")
    return found


def _import(name: str) -> Backend:
    if name not in MODULES:
        raise InputError(f"ops is {show(name)}, but must be one of {', '.join(MODULES)}")
    return import_module(MODULES[name])


if TYPE_CHECKING:  # mypy compares every op of the three backends with its protocol
    from npgpt import fused, mixed, ops
    from npgpt.model import backend

    ADAM: tuple[backend.Adam, ...] = ops.adam, fused.adam, mixed.adam
    ADAMW: tuple[backend.AdamW, ...] = ops.adamw, fused.adamw, mixed.adamw
    ATTENTION: tuple[backend.Attention, ...] = ops.attention, fused.attention, mixed.attention
    DECODE: tuple[backend.Decode, ...] = ops.decode, fused.decode, mixed.decode
    DROPOUT: tuple[backend.Dropout, ...] = ops.dropout, fused.dropout, mixed.dropout
    EMBEDDING: tuple[backend.Embedding, ...] = ops.embedding, fused.embedding, mixed.embedding
    GELU: tuple[backend.GELU, ...] = ops.gelu, fused.gelu, mixed.gelu
    LAYERNORM: tuple[backend.LayerNorm, ...] = ops.layernorm, fused.layernorm, mixed.layernorm
    LINEAR: tuple[backend.Linear, ...] = ops.linear, fused.linear, mixed.linear
    HEAD: tuple[backend.LinearCrossEntropy, ...] = (
        ops.linear_cross_entropy, fused.linear_cross_entropy, mixed.linear_cross_entropy,
    )  # fmt: skip
    LORA: tuple[backend.LoRA, ...] = ops.lora, fused.lora, mixed.lora
    MUON: tuple[backend.Muon, ...] = ops.muon, fused.muon, mixed.muon
    RANDOM: tuple[backend.RandomStream, ...] = ops.random, fused.random, mixed.random
    RMSPROP: tuple[backend.RMSprop, ...] = ops.rmsprop, fused.rmsprop, mixed.rmsprop
    SGD: tuple[backend.SGD, ...] = ops.sgd, fused.sgd, mixed.sgd
    ALL: tuple[Backend, ...] = ops, fused, mixed
