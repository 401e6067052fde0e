"""Checks of what a user passes to a model: tokens, targets, generators, numbers."""

import math
import operator
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.arrays import Array, TokenIds
from npgpt.config import Config
from npgpt.config_checks import plain
from npgpt.errors import ConfigError, DropoutWarning, InputError, show
from npgpt.model.kv_cache import BFLOAT16, Bfloat16Cache, LayerCache
from npgpt.ops.linear_cross_entropy import IGNORED

MOST = 2**31 - 1  # sequences


def check_config(config: Any) -> None:
    """Raise ConfigError unless this is a Config."""
    if not isinstance(config, Config):
        raise ConfigError(f"config must be an npgpt.Config, not {show(config)}")


def check_kind(name: str, value: Any, kind: type) -> None:
    """Raise InputError unless `value` is an instance of a class of npgpt."""
    if not isinstance(value, kind):
        raise InputError(f"{name} must be an npgpt.{kind.__name__}, not {show(value)}")


def check_integer(name: str, value: Any, *, least: int | None = None) -> int:
    """Return an integer of at least `least`."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {show(value)}, but must be an integer") from None
    if least is not None and number < least:
        raise InputError(f"{name} is {show(number)}, but must be at least {least}")
    return number


def check_count(name: str, value: Any) -> int:
    """Return a number of sequences: at least 1, and an index of an array."""
    number = check_integer(name, value, least=1)
    if number > MOST:
        raise InputError(f"{name} is {show(number)}, but must be at most {MOST}")
    return number


def check_bool(name: str, value: Any) -> bool:
    """Return a bool. Raise InputError for anything else."""
    if not isinstance(found := plain(value), bool):
        raise InputError(f"{name} is {show(value)}, but must be True or False")
    return found


def check_tokens(tokens: TokenIds, config: Config, *, start: int = 0) -> Array:
    """Return tokens as (B, T) int64. Raise InputError if a model of this config cannot read them.

    `start` is the position of the first token.
    """
    ids = check_shape(tokens, config, start, "tokens")
    check_vocabulary(ids, config)
    return ids.astype(np.int64, copy=False)


def check_targets(targets: TokenIds, config: Config) -> Array:
    """Return targets as (B, T) int64. Raise InputError unless each is a token id or IGNORED."""
    ids = check_shape(targets, config, 0, "targets")
    counted = ids[ids != IGNORED]
    if not counted.size:
        raise InputError(f"all {ids.size} targets are {IGNORED}, which is ignored: none is left")
    check_vocabulary(counted, config, but=f"; only {IGNORED} is ignored")
    return ids.astype(np.int64, copy=False)


def check_shape(tokens: TokenIds, config: Config, start: int, what: str) -> Array:
    """Return tokens as integers (B, T). Raise InputError unless they are, and fit the context."""
    try:
        ids = np.asarray(tokens)
    except (ValueError, TypeError):
        raise InputError(f"{what} must be of shape (B, T): all rows of one length") from None
    if ids.dtype.kind in "US":
        raise InputError(f"{what} must be token ids, not text: encode it with npgpt.tokenizer(...)")
    if ids.ndim == 2 and ids.size == 0:
        raise InputError(f"{what} of shape {ids.shape} are empty: B and T must be at least 1")
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"{what} must be integers of shape (B, T); these are {ids.dtype} of shape {ids.shape}"
        )
    T, T_max = start + ids.shape[1], config.context_length
    if T > T_max:
        raise InputError(f"{T} {what} are longer than the context of {T_max}; crop them")
    return ids


def check_vocabulary(ids: Array, config: Config, what: str = "token id", but: str = "") -> None:
    """Raise InputError unless every id is in the vocabulary."""
    low, high, V = ids.min(), ids.max(), config.vocab_size
    if low < 0 or high >= V:
        wrong = low if low < 0 else high
        raise InputError(f"{what} {wrong} is outside the vocabulary of {V} (0 to {V - 1}){but}")


def check_sequence(tokens: Any, config: Config, what: str) -> Array:
    """Return token ids (N,) of any length as an array. Raise InputError for anything else."""
    try:
        ids = np.asarray(tokens)
    except (ValueError, TypeError):
        ids = np.empty((0, 0))
    if ids.shape == (0,) and isinstance(tokens, (list, tuple)):
        ids = ids.astype(np.int64)  # NumPy takes an empty list for floats
    if ids.dtype.kind in "US":
        raise InputError(f"{what} must be token ids, not text: encode it with npgpt.tokenizer(...)")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(f"{what} must be integers of shape (N,), not {show(tokens)}")
    if ids.size:
        check_vocabulary(ids, config, f"{what}: token id")
    return ids


def check_pair(tokens: TokenIds, targets: TokenIds, config: Config) -> tuple[Array, Array]:
    """Return tokens and targets as (B, T) int64, one target for each token."""
    ids, labels = check_tokens(tokens, config), check_targets(targets, config)
    if ids.shape != labels.shape:
        raise InputError(
            f"tokens are {ids.shape} and targets {labels.shape}, but every token must have one "
            "target"
        )
    return ids, labels


def check_last(ids: Array, targets: TokenIds, config: Config) -> Array:
    """Return the targets of the last n of the tokens (B, T) as (B, n) int64."""
    labels = check_targets(targets, config)
    (B, T), (rows, n) = ids.shape, labels.shape
    if rows != B or n > T:
        raise InputError(
            f"tokens are {(B, T)} and targets {(rows, n)}, but targets must have as many rows, and "
            "at most as many columns"
        )
    return labels


def check_cache_dtype(value: Any, dtype: np.dtype) -> Any:
    """Return the dtype of keys and values: that of the model for None, or "bfloat16"."""
    if value is not None and not (isinstance(value, str) and value in (BFLOAT16, dtype.name)):
        raise InputError(
            f"cache_dtype is {show(value)}, but must be bfloat16 or the model's own, {dtype.name}"
        )
    return BFLOAT16 if value == BFLOAT16 else dtype


def check_past(past: Any, config: Config, dtype: np.dtype) -> list[LayerCache]:
    """Return `past`: one cache per block of a model of this config and dtype, of one length."""
    if not isinstance(past, list) or not all(isinstance(one, LayerCache) for one in past):
        raise InputError(f"past must be a list of LayerCache or None, not {show(past)}")
    if len(past) != config.n_layer:
        raise InputError(f"past has {len(past)} layers, the model has {config.n_layer}")
    _, H, _, D = past[0].k.shape
    is_rounded = isinstance(past[0], Bfloat16Cache)
    if (H, H * D) != (config.n_head, config.n_embd) or not (is_rounded or past[0].k.dtype == dtype):
        raise InputError(f"past is of another model: {H} heads of {D}, {past[0].k.dtype}")
    if len({(len(one.k), *one.k.shape[1::2], one.k.dtype, one.max_length) for one in past}) > 1:
        raise InputError("past has layers of different caches: take them all from one kv_cache()")
    if any(layer.length != past[0].length for layer in past):
        raise InputError("past has layers of different lengths: one forward pass has failed")
    return past


def check_continuation(tokens: TokenIds, past: Any, config: Config, dtype: np.dtype) -> Array:
    """Return tokens as (B, T) int64, which follow the positions in `past`: one cache per block."""
    if past is None or (isinstance(past, list) and not past):
        return check_tokens(tokens, config)
    first = check_past(past, config, dtype)[0]
    ids = check_tokens(tokens, config, start=first.length)
    if len(ids) != (B := len(first.k)):
        raise InputError(f"past has {B} sequences, but the tokens have {len(ids)}")
    if (end := first.length + ids.shape[1]) > first.max_length:
        raise InputError(f"past has room for {first.max_length} positions, not for {end}")
    return ids


def check_path(path: Any) -> None:
    """Raise InputError unless this can be the path of a file."""
    if not isinstance(path, (str, Path)) or "\0" in str(path) or path == "":
        raise InputError(f"path is {show(path)}, but must be a string or a Path")


def check_masks(rng: Any) -> None:
    """Raise InputError unless `rng` draws dropout masks, or is None."""
    if rng is not None and not hasattr(rng, "bernoulli"):
        raise InputError(f"rng must be an npgpt.Generator or None, not {show(rng)}")


def warn_of_dropout(config: Config, *, stacklevel: int) -> None:
    """Warn that a model with dropout is trained without a generator."""
    warnings.warn(
        f"the config has dropout={config.dropout}, but this call has no generator, so nothing is "
        "dropped. To train with dropout, pass rng=npgpt.Generator(seed); else set dropout=0",
        DropoutWarning,
        stacklevel=stacklevel,
    )


def check_number(name: str, value: Any, *, least: float = -np.inf) -> float:
    """Return a finite number of at least `least` as a float."""
    number = plain(value)
    try:
        finite = type(number) in (int, float) and math.isfinite(number)
    except OverflowError:  # an integer that is too large for a float
        finite = False
    if not finite:
        raise InputError(f"{name} is {show(value)}, but must be a finite number")
    if number < least:
        raise InputError(f"{name} is {show(number)}, but must be at least {least:g}")
    return float(number)


def check_probabilities(probs: Any) -> Array:
    """Return probabilities (..., V) as an array: finite, at least 0, no row all zero."""
    try:
        probs = np.asarray(probs)
    except (ValueError, TypeError):
        raise InputError("probs must be of shape (..., V): all rows of one length") from None
    if probs.dtype not in (np.float32, np.float64):
        raise InputError(f"probs: dtype {probs.dtype}: it must be float32 or float64")
    if probs.ndim == 0 or probs.shape[-1] == 0:
        raise InputError(f"probs has shape {probs.shape}: it must be (..., V) with V at least 1")
    if probs.size == 0:
        return probs
    largest = probs.max(-1)
    if probs.min() >= 0 and (largest > 0).all() and (largest < np.inf).all():
        return probs
    wrong = ~((probs >= 0) & (probs < np.inf))  # so written, nan is wrong too
    if wrong.any():
        raise InputError(
            f"probs holds {probs[wrong][0]} at {first_index(wrong)} of shape {probs.shape}: "
            "every probability must be at least 0 and finite"
        )
    empty = ~(probs > 0).any(-1)
    if empty.any():
        row = f"row {first_index(empty)} of probs" if probs.ndim > 1 else "probs"
        raise InputError(f"{row} is all zero, {probs.shape[-1]} of them: one must be above 0")
    return probs


def first_index(mask: Array) -> tuple[int, ...]:
    """Return the index of the first True."""
    return tuple(int(i) for i in np.argwhere(mask)[0])
