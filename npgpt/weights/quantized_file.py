"""npgpt's file of a model in fewer bits: one safetensors file, mapped when it is read.

    "__metadata__"        format "npgpt-quantized", version, weights ("int8" or "bfloat16"),
                          config (JSON), tokenizer
    h.0.mlp.c_fc.weight   I8 or BF16, as in GPT-2's layout, and so every matrix but wpe
    ... .scale            F32, in int8 only: one for every output channel
    all else              F32

What a number stands for is in npgpt/quantized_matrix.py.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from npgpt.arrays import Array
from npgpt.config import VOCABULARIES
from npgpt.errors import InputError
from npgpt.model import params, quantize
from npgpt.weights.mapped import BFLOAT16, MappedFile, MappedTensor, short
from npgpt.weights.safetensors import Piece, is_safetensors, read_file, write_safetensors
from npgpt.weights.weight_file import WeightFile, match_parameters, parse_config

FORMAT, VERSION = "npgpt-quantized", "1"
DTYPES = {"int8": "int8", "bfloat16": BFLOAT16}  # of the matrices, by what the file calls it
SCALE = ".scale"


def write_quantized(path: str | Path, source: WeightFile, weights: str) -> None:
    """Writes the model with its matrices as `weights`, "int8" or "bfloat16", whole or not at all.

    One tensor after the other: no more than one is in memory. Raises InputError for numbers that
    int8 has no place for; OSError as any writing does.
    """
    pieces, config = {}, source.config
    for name, shape in params.named(params.shapes(config)):
        made: dict[str, Array] = {}
        if not quantize.is_quantizable(name):
            pieces[name] = Piece(shape, "float32", numbers(source, name))
            continue
        pieces[name] = Piece(shape, DTYPES[weights], values(source, name, weights, made))
        if weights == "int8":
            channels = (shape[quantize.output_axis(name)],)
            pieces[name + SCALE] = Piece(channels, "float32", taken(made))
    about = {
        "format": FORMAT,
        "version": VERSION,
        "weights": weights,
        "config": json.dumps(dataclasses.asdict(config)),
        "tokenizer": source.tokenizer or "",
    }
    write_safetensors(path, pieces, about)


def numbers(source: WeightFile, name: str) -> Iterator[Array]:
    """A parameter that stays as it is."""
    yield source.leaf(name, "float32").astype(np.float32, copy=False)


def values(source: WeightFile, name: str, weights: str, made: dict[str, Array]) -> Iterator[Array]:
    """A matrix in fewer bits, once it is asked for; its scale stays in `made` until it is."""
    narrow = source.leaf(name, weights)
    if narrow.scale is not None:
        made["scale"] = narrow.scale
    yield narrow.values


def taken(made: dict[str, Array]) -> Iterator[Array]:
    """The scale of the matrix before."""
    yield made.pop("scale")


def is_quantized(path: Path) -> bool:
    """Is this a file of `write_quantized`, of whatever version?"""
    if not path.is_file() or not is_safetensors(MappedFile(path).data[:64].tobytes()):
        return False
    return read_file(path)[1].get("format") == FORMAT


def read_quantized(path: str | Path) -> WeightFile:
    """The model in the file, mapped. The scales are read, for a wrong one would spoil a channel.

    Raises InputError for what is no whole model of this version.
    """
    path = Path(path)
    found, about = read_file(path)
    version, weights, tokenizer = (about.get(key) for key in ("version", "weights", "tokenizer"))
    if version != VERSION:
        raise InputError(
            f"{path} is quantised in format version {short(version)}; this npgpt reads {VERSION}: "
            "quantise the model anew with npgpt quantize"
        )
    if not isinstance(weights, str) or weights not in DTYPES:
        raise InputError(f"{path}: weights is {short(weights)}, expected {' or '.join(DTYPES)}")
    if tokenizer not in ("", *VOCABULARIES):
        raise InputError(f"{path}: its tokenizer is {short(tokenizer)}, expected a name")
    config = parse_config(about.get("config"), path)
    plain = {name: tensor for name, tensor in found.items() if not name.endswith(SCALE)}
    parameters = match_parameters(config, plain, path, dtypes=("float32", DTYPES[weights]))
    scales = {}
    for name, tensor in parameters.items():
        right = DTYPES[weights] if quantize.is_quantizable(name) else "float32"
        if tensor.dtype != right:
            raise InputError(f"{path}: {name} is {tensor.dtype}, expected {right} in {weights}")
        if right == "int8":
            scales[name] = scale_of(name, tensor, found, path)
    if surplus := sorted(found.keys() - parameters.keys() - {name + SCALE for name in scales}):
        raise InputError(f"{path} has {short(surplus[0])}, which belongs to no int8 matrix of it")
    return WeightFile(
        "quantized", path, config, tokenizer or None, found, parameters, weights=weights,
        scales=scales,
    )  # fmt: skip


def scale_of(name: str, tensor: MappedTensor, found: dict[str, MappedTensor], path: Path) -> Array:
    """The scale of an int8 matrix, every number of it looked at."""
    own, channels = name + SCALE, (tensor.shape[quantize.output_axis(name)],)
    if own not in found:
        raise InputError(f"{path} has no {own}: without it {name} means nothing")
    stored = found[own]
    if (stored.dtype, stored.shape) != ("float32", channels):
        raise InputError(
            f"{path}: {own} is {stored.dtype} {stored.shape}, expected float32 {channels}, one for "
            f"every output channel of {name} {tensor.shape}"
        )
    scale = stored.raw()
    wrong = np.flatnonzero(~(np.isfinite(scale) & (scale > 0)))
    if wrong.size:
        raise InputError(
            f"{path}: {own}[{wrong[0]}] is {scale[wrong[0]]}, but a scale is a finite number above "
            "0: the file is damaged, quantise the model anew"
        )
    return scale
