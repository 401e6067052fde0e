"""Parameters and results that must be finite, and errors that name the parameters that are not."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import RunError
from npgpt.model.params import Params, named
from npgpt.quantized_matrix import QuantizedMatrix, slices, widen
from npgpt.system.shell import npgpt_command


def ignore_overflow() -> np.errstate:
    """Return a context without NumPy's warnings, where nan and inf are found in the results."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def error(what: str, parameters: Params, path: Path | None) -> RunError:
    """Return the error for `what` ("the loss is nan"). `path`: the file of the parameters."""
    names = [name for name, leaf in named(parameters) if not is_finite(leaf)]
    inspect = npgpt_command("inspect", path or Path("FILE"))
    if not names:
        return RunError(
            f"{what}, although all parameters are finite: they are so large that the computation "
            f"overflows. See {inspect}"
        )
    others = f" and {len(names) - 1} more hold" if len(names) > 1 else " holds"
    return RunError(f"{what}: {names[0]}{others} nan or infinite numbers. See {inspect}")


def check_trainable(parameters: Params, path: Path) -> None:
    """Raise RunError unless all parameters of a file are finite: no loss would be a number."""
    if not all(is_finite(leaf) for _, leaf in named(parameters)):
        raise error(f"{path} cannot be trained", parameters, path)


def check_step(leaves: Iterable[tuple[str, Array]], step: int, advice: str) -> None:
    """Raise RunError unless these parameters are finite after a step: none is saved then."""
    for name, leaf in leaves:
        if not is_finite(leaf):
            raise RunError(f"{name} is no longer finite after step {step}. Try {advice}")


def is_finite(leaf: Array | QuantizedMatrix) -> bool:
    """Return True if all numbers of a parameter are finite."""
    if not isinstance(leaf, QuantizedMatrix):
        return bool(np.isfinite(leaf.min()) and np.isfinite(leaf.max()))  # nan if any number is
    if leaf.scale is not None:
        return bool(np.isfinite(leaf.scale).all())
    return all(np.isfinite(widen(leaf.values[s], None, 1)).all() for s in slices(leaf.values))
