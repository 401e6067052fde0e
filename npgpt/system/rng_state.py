"""The bytes of torch.get_rng_state(): the state of PyTorch's CPU generator."""

from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError

# the layout of at::CPUGeneratorImplState
STATE = np.dtype(
    [
        ("seed", "<u8"),
        ("left", "<i4"),  # words to hand out before the next twist, counting one more
        ("seeded", "<i4"),
        ("next", "<u8"),
        ("key", "<u8", 624),
        ("unused", "<u8"),
        ("spare", "<f8"),
        ("unused_too", "<u8"),
        ("has_spare", "<i4"),
        ("rest", "<u4", 3),  # a float32 spare that no CPU kernel uses
    ]
)


def build(seed: int, key: Array, position: int, spare: float, rest: Array) -> Array:
    """Return the state as (5056,) uint8. `spare`: a normal number already drawn, or nan."""
    record = np.zeros((), STATE)
    record["seed"], record["seeded"] = seed, 1
    record["next"] = position
    record["left"] = 625 - position if position else 1
    record["key"] = key
    if not np.isnan(spare):
        record["spare"], record["has_spare"] = spare, 1
    record["rest"] = rest
    return np.frombuffer(record.tobytes(), np.uint8).copy()


def parse(state: Any) -> np.void:
    """Return the record in a state. Raise InputError if it is none that PyTorch can be in."""
    if isinstance(state, (bytes, bytearray)):
        state = np.frombuffer(state, np.uint8) if state else np.empty(0, np.uint8)
    try:
        state = np.asarray(state)
    except (ValueError, TypeError):
        raise InputError("state must be bytes, or an array of uint8") from None
    if state.dtype != np.uint8 or state.shape != (STATE.itemsize,):
        raise InputError(
            f"state has shape {state.shape} and dtype {state.dtype}: it must be "
            f"{STATE.itemsize} bytes or uint8, as torch.get_rng_state() gives them"
        )
    record = np.ascontiguousarray(state).view(STATE)[0]
    left, following = int(record["left"]), int(record["next"])
    if not (record["seeded"] == 1 and following <= 624 and left == (625 - (following or 624))):
        raise InputError(
            f"state has seeded = {record['seeded']}, left = {left}, next = {following}: "
            "it must have seeded = 1, next between 0 and 624, and left = 625 - next (1 if next = 0)"
        )
    return record
