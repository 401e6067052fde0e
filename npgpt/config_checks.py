"""Checks of the values in a configuration: numbers, and strings that must be one of several."""

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from npgpt.errors import ConfigError, show


def plain(value: Any) -> Any:
    """Return a NumPy scalar, or an array without axes, as the Python number that it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def make_plain(config: Any) -> None:
    """Replace NumPy scalars in the fields of a frozen config by Python numbers."""
    for one in fields(config):
        object.__setattr__(config, one.name, plain(getattr(config, one.name)))


def is_one_of(value: Any, names: Iterable[str]) -> bool:
    """Return True if this is a string among `names`. Arrays are none, and cannot be compared."""
    return isinstance(value, str) and value in names


def at_least(config: Any, name: str, smallest: float) -> None:
    """Raise ConfigError unless `config.name` is a finite number of its kind, >= smallest."""
    value = getattr(config, name)
    integral = "int" in str(next(f.type for f in fields(config) if f.name == name))
    kind = int if integral else (int, float)
    if isinstance(value, int) and value.bit_length() > 64:  # no float; its digits may be thousands
        raise ConfigError(
            f"{name} is an integer of {value.bit_length()} bits, but must be below 2**64"
        )
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
        sort = "an integer" if integral else "a number"
        raise ConfigError(f"{name} is {show(value)}, but must be {sort}")
    if value < smallest:
        raise ConfigError(f"{name} is {value}, but must be at least {smallest}")
