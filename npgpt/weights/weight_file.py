"""The common result of every reader: a config and the location of each parameter in a file."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError, WeightFileError, show
from npgpt.model import lora, params, quantize
from npgpt.model.params import Params
from npgpt.quantized_matrix import QuantizedMatrix
from npgpt.system.shell import npgpt_command
from npgpt.weights.mapped import BFLOAT16, MappedTensor
from npgpt.weights.strict_json import parse_json
from npgpt.weights.tokenizer_files import TokenizerName

ROWS = 64  # of a matrix, transposed at once
FLOATS = ("float32", "float16", "bfloat16")  # or float64 for all parameters


@dataclass(frozen=True)
class WeightFile:
    """A weight file whose shapes and dtypes have been checked; its numbers have not been read."""

    format: str
    path: Path
    config: Config
    tokenizer: TokenizerName | None  # as the file itself records it
    tensors: dict[str, MappedTensor]  # everything in the file, by the names in the file
    parameters: dict[str, MappedTensor]  # by the names of npgpt/model/params.py
    transposed: frozenset[str] = frozenset()  # the parameters stored as (out, in)
    weights: str = "float32"  # the dtype of the matrices once loaded
    scales: Mapping[str, Array] = field(default_factory=dict)  # of the parameters stored as int8
    ignored: Sequence[str] = ()  # tensors that are no part of the model, by the names in the file
    other_tokenizer: str | None = None  # the class that config.json names, unless it is GPT-2's
    adapters: lora.Adapters | None = None  # merged into the parameters when they are read

    @property
    def dtype(self) -> np.dtype:
        """Return float64 if the file is float64, else float32: the dtype once loaded."""
        return np.dtype("f8" if self.parameters["wte.weight"].dtype == "float64" else "f4")

    def params(self, weights: str | None = None) -> Params:
        """Return the parameter tree: views of the mapped file where possible, else copies.

        `weights`: "float32", "bfloat16" or "int8" for the matrices; by default `self.weights`.
        Raises InputError if the matrices cannot be converted to it.
        """
        names = iter(self.parameters)
        weights = weights or self.weights
        return params.map_leaves(
            params.shapes(self.config), lambda _: self.leaf(next(names), weights)
        )

    def leaf(self, name: str, weights: str) -> Array | QuantizedMatrix:
        """Return one parameter of a model whose matrices are `weights`."""
        stored = self.parameters[name]
        if name in self.scales:
            matrix = QuantizedMatrix(stored.raw(), self.scales[name], quantize.output_axis(name))
            if weights == BFLOAT16:
                raise InputError(
                    f"{self.path} holds int8 weights, which bfloat16 would round a second time: "
                    "use the model that npgpt quantize read"
                )
            return matrix if weights == "int8" else matrix.widen()
        if weights == "float32" or not quantize.is_quantizable(name):
            return self.array(name)
        if (weights, stored.dtype) == (BFLOAT16, BFLOAT16) and name not in self.transposed:
            return QuantizedMatrix(stored.raw(), None, axis=1)
        try:
            found = quantize.quantize_parameter(name, self.array(name), weights)
        except InputError as error:
            see = f"See {npgpt_command('inspect', self.path)}"
            raise InputError(f"{self.path}: {name}: {error}. {see}") from None
        stored.file.drop_pages(stored.start, stored.start + stored.nbytes)
        return found

    def array(self, name: str) -> Array:
        """Return one parameter as float32, or float64 if the file is, in GPT-2's layout."""
        stored = self.parameters[name]
        if self.adapters and self.adapters.are_on(name):
            a, b = (self.tensors[f"{name.removesuffix('weight')}lora_{x}"].array() for x in "ab")
            return lora.merged_weight(stored.array(), a, b, self.adapters.scale)
        if name not in self.transposed:
            return stored.array()
        outputs, inputs = stored.shape
        out, done = np.empty((inputs, outputs), self.dtype), 0
        for chunk in stored.chunks(ROWS * inputs):
            rows = chunk.reshape(-1, inputs)
            out[:, done : done + len(rows)] = rows.T
            done += len(rows)
        return out


def split_ignored(
    config: Config, found: Mapping[str, MappedTensor]
) -> tuple[dict[str, MappedTensor], list[str]]:
    """Return the tensors that are parameters of `config`, and the names of the others.

    If a parameter is missing, all are returned as parameters: `match_parameters` reports it, and
    the tensor that may be meant by it.
    """
    if config.n_layer > len(found):
        return dict(found), []
    expected = {name for name, _ in params.named(params.shapes(config))}
    if not expected <= found.keys():
        return dict(found), []
    return {n: found[n] for n in expected}, [n for n in found if n not in expected]


def match_parameters(
    config: Config,
    found: Mapping[str, MappedTensor],
    path: Path,
    *,
    name_in_file: Callable[[str], str] = str,
    transposed: Iterable[str] = (),
    dtypes: Iterable[str] = FLOATS,
    adapters: lora.Adapters | None = None,
) -> dict[str, MappedTensor]:
    """Return the parameters of `config` among the tensors `found`, in order, after checking them.

    `name_in_file` converts the name of a parameter for messages. Raises WeightFileError for a
    parameter that is missing, unexpected, of another shape, or of none of the `dtypes`. float64 is
    accepted if all parameters are float64.
    """
    if config.n_layer > len(found):  # before a name per layer is listed
        raise WeightFileError(
            f"{path} has {len(found)} tensors, too few for {config.n_layer} layers"
        )
    expected = dict(params.named(lora.shapes(params.shapes(config), adapters)))
    for name in found:
        if name not in expected:
            raise WeightFileError(
                f"{path} has {show(name_in_file(name))}, which its config does not have"
            )
    for name, shape in expected.items():
        own = name_in_file(name)
        if name not in found:
            raise WeightFileError(f"{path} has no {own}, which its config requires")
        required = tuple(shape)[:: -1 if name in transposed else 1]
        actual = found[name].shape
        if actual != required:
            flipped = actual == required[::-1]
            hint = ": is it transposed? GPT-2's matrices are (in, out)" if flipped else ""
            raise WeightFileError(
                f"{path}: {own} has shape {actual}, its config requires {required}{hint}"
            )
    kinds = {found[name].dtype for name in expected}
    if not kinds <= {*dtypes} and kinds != {"float64"}:
        name = next(n for n in expected if found[n].dtype not in dtypes)
        raise WeightFileError(
            f"{path}: {name_in_file(name)} is {found[name].dtype}; parameters must be "
            f"{', '.join(dtypes)}, or all of them float64"
        )
    return {name: found[name] for name in expected}


def make_config(path: Path, **values: Any) -> Config:
    """Return a Config of numbers read from `path`. Raises WeightFileError if they are invalid."""
    for name, value in values.items():
        if not isinstance(value, (int, float)):
            raise WeightFileError(f"{path}: {name} is {show(value)}, expected a number")
    try:
        return Config(**values)
    except InputError as error:
        raise WeightFileError(f"{path}: {error}") from None


def parse_config(text: Any, path: str | Path) -> Config:
    """Return the Config in a JSON text. Raises WeightFileError if it is invalid."""
    values = parse_json(text, f"{path}: its config")
    known = {item.name for item in dataclasses.fields(Config)}
    if not isinstance(values, dict) or values.keys() != known:
        raise WeightFileError(
            f"{path}: its config must have the fields {', '.join(sorted(known))}, and no others"
        )
    try:
        return Config(**values)
    except InputError as error:
        raise WeightFileError(f"{path}: in its config, {error}") from None
