"""What every weight file comes down to: a config, and GPT-2's parameters by their names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.config import VOCABULARIES, Config
from npgpt.errors import InputError
from npgpt.model import params, quantize
from npgpt.quantized_matrix import QuantizedMatrix
from npgpt.weights.mapped import BFLOAT16, MappedTensor, short

ROWS = 64  # of a matrix, transposed at once
FLOATS = ("float32", "float16", "bfloat16")  # float64 too, if all are


class WeightFile(NamedTuple):
    """A weight file, looked at but not read: every shape in it is checked, no number touched."""

    format: str
    path: Path
    config: Config
    tokenizer: str | None  # the name of the one it was trained with, where that is known
    tensors: dict[str, MappedTensor]  # everything in the file, by the file's own names
    parameters: dict[
        str, MappedTensor
    ]  # what the model uses, by the names of npgpt/model/params.py
    transposed: frozenset[str] = frozenset()  # those parameters that lie there as (out, in)
    weights: str = "float32"  # what its matrices are meant to be kept as
    scales: Mapping[str, Array] = MappingProxyType({})  # of the parameters that lie there as int8

    @property
    def dtype(self) -> np.dtype:
        """float32, or float64 where the file is: what the parameters are once read."""
        return np.dtype("f8" if self.parameters["wte.weight"].dtype == "float64" else "f4")

    def params(self, weights: str | None = None) -> params.Params:
        """The tree: views of the mapped file where it holds what the model uses, else copies.

        `weights`: what matrices are kept as, float32, bfloat16 or int8; by default what the file is
        meant for. Raises InputError for what int8 has no place for.
        """
        names = iter(self.parameters)
        weights = weights or self.weights
        return params.map_leaves(
            params.shapes(self.config), lambda _: self.leaf(next(names), weights)
        )

    def leaf(self, name: str, weights: str) -> Array | QuantizedMatrix:
        """One parameter of a model that keeps its matrices as `weights`."""
        stored = self.parameters[name]
        if name in self.scales:
            narrow = QuantizedMatrix(stored.raw(), self.scales[name], quantize.output_axis(name))
            if weights == BFLOAT16:
                raise InputError(
                    f"{self.path} holds int8 weights, and in bfloat16 they would be rounded a "
                    "second time: start from what npgpt quantize made it of"
                )
            return narrow if weights == "int8" else narrow.widen()
        if weights == "float32" or not quantize.is_quantizable(name):
            return self.array(name)
        if (weights, stored.dtype) == (BFLOAT16, BFLOAT16) and name not in self.transposed:
            return QuantizedMatrix(stored.raw(), None, axis=1)
        try:
            found = quantize.quantize_parameter(name, self.array(name), weights)
        except InputError as error:
            raise InputError(f"{self.path}: {name} is {error}") from None
        stored.file.forget(stored.start, stored.start + stored.nbytes)
        return found

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


def match_parameters(
    config: Config,
    found: Mapping[str, MappedTensor],
    path: Path,
    *,
    own: Callable[[str], str] = str,
    transposed: Iterable[str] = (),
    dtypes: Iterable[str] = FLOATS,
) -> dict[str, MappedTensor]:
    """The parameters of `config` out of `found`, in order, their shapes and dtypes as they must be.

    `own`: how the file calls a parameter, for messages. Raises InputError for one that is missing,
    not in the config, of another shape or of none of the `dtypes` (float64 is one if all are).
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
    there = {found[name].dtype for name in expected}
    if not there <= {*dtypes} and there != {"float64"}:
        name = next(n for n in expected if found[n].dtype not in dtypes)
        raise InputError(
            f"{path}: {own(name)} is {found[name].dtype}; parameters have to be "
            f"{', '.join(dtypes)}, or all of them float64"
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


def parse_config(text, path) -> Config:
    """The config out of its JSON."""
    values = parse(text, "config", path)
    known = {field.name for field in dataclasses.fields(Config)}
    if not isinstance(values, dict) or values.keys() != known:
        raise InputError(f"{path}: the config has not the fields {', '.join(sorted(known))}")
    try:
        return Config(**values)
    except InputError as error:
        raise InputError(f"{path}: in its config, {error}") from None


def parse(text, what: str, path):
    """What the JSON says."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its {what} is not JSON ({error})") from None


def guess_tokenizer(vocab_size: int) -> str | None:
    """The tokenizer of a model that does not say which it has, by the size of its vocabulary."""
    if vocab_size >= VOCABULARIES["gpt2"]:  # some fill it up to a rounder number
        return "gpt2"
    return "byte" if vocab_size == VOCABULARIES["byte"] else None
