"""Checks of the values in a configuration: numbers, and strings that must be one of several."""

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from npgpt.errors import ConfigError, show

ADAPTERS = "h.*.lora_?"  # the pattern of LoRA's matrices


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


def one_of(config: Any, name: str, *names: str) -> None:
    """Raise ConfigError unless `config.name` is one of several strings."""
    value = getattr(config, name)
    if not is_one_of(value, names):
        *first, last = (f'"{one}"' for one in names)
        raise ConfigError(f"{name} is {show(value)}, but must be {', '.join(first)} or {last}")


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


def check_data(config: Any) -> None:
    """Bring the sources and weights of a frozen RunConfig into one form: one source is a str.

    Raises ConfigError if a source is no string, or a weight no positive number.
    """
    for name in ("data", "val_data"):
        value = getattr(config, name)
        names = [value] if isinstance(value, str) else value
        if name == "val_data" and names in (None, (), []):
            object.__setattr__(config, name, None)
            continue
        strings = isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)
        if not strings or not names:
            raise ConfigError(f"{name} is {show(value)}, but must be str, or several")
        if any("\0" in one for one in names):  # no path has one
            raise ConfigError(f"{name} is {show(value)}, but must not contain NUL")
        object.__setattr__(config, name, names[0] if len(names) == 1 else tuple(names))
    count, weights = 1 if isinstance(config.data, str) else len(config.data), config.data_weights
    if weights in (None, (), []):
        object.__setattr__(config, "data_weights", None)
        return
    if not isinstance(weights, list | tuple) or len(weights) != count:
        raise ConfigError(
            f"data_weights is {show(weights)}, but must be one number for each of the {count} data"
        )
    for weight in map(plain, weights):
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 < weight < math.inf:
            raise ConfigError(f"data_weights has {show(weight)}, but must be positive numbers")
    plain_weights = tuple(float(plain(weight)) for weight in weights)
    object.__setattr__(config, "data_weights", plain_weights if count > 1 else None)


def check_trainable(config: Any) -> None:
    """Make tuples of the patterns in a frozen TrainingConfig; None if all parameters are trained.

    LoRA's adapters are always trained. Raises ConfigError unless all patterns are strings, and for
    a `lora_alpha` without a rank.
    """
    patterns = strings(config, "trainable")
    if config.lora_rank is None and config.lora_alpha is not None:
        raise ConfigError(f"lora_alpha is {show(config.lora_alpha)}, but there is no lora_rank")
    if config.lora_rank is not None:
        patterns = (ADAPTERS, *(one for one in patterns if one != ADAPTERS))
    everything = not patterns or "*" in patterns
    object.__setattr__(config, "trainable", None if everything else patterns)
    object.__setattr__(config, "lora_targets", strings(config, "lora_targets"))


def strings(config: Any, name: str) -> tuple[str, ...]:
    """Return the strings in a field, which may be one or none."""
    value = getattr(config, name)
    found = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        raise ConfigError(f"{name} is {show(value)}, but must be names of parameters or layers")
    return tuple(found)
