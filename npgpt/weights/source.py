"""What every weight file comes down to: a config, and GPT-2's parameters by their names."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgpt import params
from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError
from npgpt.weights.stored import Stored, short

ROWS = 64  # of a matrix, transposed at once
FLOATS = ("float32", "float16", "bfloat16")  # float64 too, if all are


class Source(NamedTuple):
    """A weight file, looked at but not read: every shape in it is checked, no number touched."""

    format: str
    path: Path
    config: Config
    tokenizer: str | None  # the name of the one it was trained with, where that is known
    tensors: dict[str, Stored]  # everything in the file, by the file's own names
    parameters: dict[str, Stored]  # what the model uses, by the names of npgpt/params.py
    transposed: frozenset[str] = frozenset()  # those parameters that lie there as (out, in)

    @property
    def dtype(self) -> np.dtype:
        """float32, or float64 where the file is: what the parameters are once read."""
        return np.dtype("f8" if self.parameters["wte.weight"].dtype == "float64" else "f4")

    def params(self) -> params.Params:
        """The tree: views of the mapped file where it holds what the model uses, else copies."""
        names = iter(self.parameters)
        return params.fill(params.shapes(self.config), lambda _: self.array(next(names)))

    def array(self, name: str) -> Array:
        """One parameter, as `params` has it."""
        stored = self.parameters[name]
        if name not in self.transposed:
            return stored.array()
        outputs, inputs = stored.shape
        out, done = np.empty((inputs, outputs), self.dtype), 0
        for chunk in stored.chunks(ROWS * inputs):
            rows = chunk.reshape(-1, inputs)
            out[:, done : done + len(rows)] = rows.T
            done += len(rows)
        return out


def matched(
    config: Config,
    found: Mapping[str, Stored],
    path: Path,
    *,
    own: Callable[[str], str] = str,
    transposed: Iterable[str] = (),
) -> dict[str, Stored]:
    """The parameters of `config` out of `found`, in order, their shapes and dtypes as they must be.

    `own`: how the file calls a parameter, for messages. Raises InputError for one that is missing,
    not in the config, of another shape or of no float dtype.
    """
    if config.n_layer > len(found):  # before the names of so many layers are listed
        raise InputError(f"{path} has {len(found)} tensors, too few for {config.n_layer} layers")
    expected = dict(params.named(params.shapes(config)))
    for name in found:
        if name not in expected:
            raise InputError(f"{path} has {short(own(name))}, which its config does not ask for")
    for name, shape in expected.items():
        if name not in found:
            raise InputError(f"{path} has no {own(name)}, which its config asks for")
        right, there = tuple(shape), found[name].shape
        if name in transposed:
            right = right[::-1]
        if there != right:
            hint = ": has it been transposed? GPT-2's are (in, out)" if there == right[::-1] else ""
            raise InputError(f"{path}: {own(name)} is {there}, its config asks for {right}{hint}")
    dtypes = {found[name].dtype for name in expected}
    if not dtypes <= {*FLOATS} and dtypes != {"float64"}:
        name = next(n for n in expected if found[n].dtype not in FLOATS)
        raise InputError(
            f"{path}: {own(name)} is {found[name].dtype}; parameters have to be "
            f"{', '.join(FLOATS)}, or all of them float64"
        )
    return {name: found[name] for name in expected}


def make_config(path: Path, **values) -> Config:
    """A Config out of numbers in a file."""
    for name, value in values.items():
        if not isinstance(value, (int, float)):
            raise InputError(f"{path}: {name} is {short(value)}, expected a number")
    try:
        return Config(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
