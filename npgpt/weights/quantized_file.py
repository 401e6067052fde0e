"""Read and write npgpt's file of a quantized model: one safetensors file, mapped when it is read.

    "__metadata__"        format "npgpt-quantized", version, weights ("int8" or "bfloat16"),
                          config (JSON), tokenizer
    h.0.mlp.c_fc.weight   I8 or BF16, in GPT-2's layout; likewise every matrix except wpe
    ... .scale            F32, int8 only: one per output channel
    tokenizer/...         U8, only if the tokenizer is "files": its files, byte by byte
    the rest              F32

npgpt/quantized_matrix.py describes the numbers.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from npgpt.arrays import Array
from npgpt.config import VOCABULARIES
from npgpt.errors import WeightFileError, show
from npgpt.model import params, quantize
from npgpt.quantized_matrix import QuantizedMatrix
from npgpt.weights import tokenizer_files
from npgpt.weights.mapped import BFLOAT16, MappedFile, MappedTensor
from npgpt.weights.safetensors import TensorStream, is_safetensors, read_file, write_safetensors
from npgpt.weights.tokenizer_files import TokenizerFiles
from npgpt.weights.weight_file import WeightFile, match_parameters, parse_config

FORMAT, VERSION = "npgpt-quantized", "1"
DTYPES = {"int8": "int8", "bfloat16": BFLOAT16}  # of the matrices, by `weights` in the metadata
SCALE = ".scale"


def write_quantized(path: str | Path, source: WeightFile, weights: str) -> None:
    """Write a model with its matrices as `weights`, "int8" or "bfloat16", atomically.

    One tensor is in memory at a time. Raises InputError for numbers that int8 cannot represent,
    RunError if writing fails.
    """
    tensors, rest, config = {}, {}, source.config
    for name, leaf in params.named(params.shapes(config)):
        shape: tuple[int, ...] = tuple(leaf)
        scale: list[Array] = []
        if not quantize.is_quantizable(name):
            rest[name] = TensorStream(shape, "float32", stream_float(source, name))
            continue
        values = stream_values(source, name, weights, scale)
        tensors[name] = TensorStream(shape, DTYPES[weights], values)
        if weights == "int8":
            channels = (shape[quantize.output_axis(name)],)
            rest[name + SCALE] = TensorStream(channels, "float32", stream_scale(scale))
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "weights": weights,
        "config": json.dumps(dataclasses.asdict(config)),
        "tokenizer": tokenizer_files.name_in_file(source.tokenizer),
    }
    for name, content in tokenizer_files.to_arrays(source.tokenizer).items():
        rest[tokenizer_files.PREFIX + name] = TensorStream(content.shape, "uint8", [content])
    # matrices first: their sizes are multiples of a cache line, so that each begins at one
    write_safetensors(path, tensors | rest, metadata)


def stream_float(source: WeightFile, name: str) -> Iterator[Array]:
    """Yield a parameter as float32."""
    yield source.array(name).astype(np.float32, copy=False)


def stream_values(
    source: WeightFile, name: str, weights: str, scale: list[Array]
) -> Iterator[Array]:
    """Yield the values of a matrix, quantized when they are requested; append its scale."""
    matrix = source.leaf(name, weights)
    assert isinstance(matrix, QuantizedMatrix)
    if matrix.scale is not None:
        scale.append(matrix.scale)
    yield matrix.values


def stream_scale(scale: list[Array]) -> Iterator[Array]:
    """Yield the scale of the matrix that was quantized last."""
    yield scale.pop()


def is_quantized(path: Path) -> bool:
    """Return True if `path` is a file written by `write_quantized`, in any version."""
    if not path.is_file() or not is_safetensors(MappedFile(path).data[:64].tobytes()):
        return False
    return read_file(path)[1].get("format") == FORMAT


def read_quantized(path: str | Path) -> WeightFile:
    """Map the model in a quantized file. The scales are read and checked.

    Raises WeightFileError if the file is damaged, incomplete, or of another version.
    """
    path = Path(path)
    found, metadata = read_file(path)
    version, weights, tokenizer = (metadata.get(key) for key in ("version", "weights", "tokenizer"))
    if version != VERSION:
        raise WeightFileError(
            f"{path} has quantized format version {show(version)}; this npgpt reads {VERSION}: "
            "quantize the model again with npgpt quantize"
        )
    if not isinstance(weights, str) or weights not in DTYPES:
        raise WeightFileError(f"{path}: weights is {show(weights)}, expected {' or '.join(DTYPES)}")
    if tokenizer not in ("", tokenizer_files.OWN, *VOCABULARIES):
        raise WeightFileError(f"{path}: its tokenizer is {show(tokenizer)}, expected a name")
    config = parse_config(metadata.get("config"), path)
    own: TokenizerFiles | None = None
    if tokenizer == tokenizer_files.OWN:
        own = tokenizer_files.from_tensors(found, path)
        found = {n: t for n, t in found.items() if not n.startswith(tokenizer_files.PREFIX)}
    plain = {name: tensor for name, tensor in found.items() if not name.endswith(SCALE)}
    parameters = match_parameters(config, plain, path, dtypes=("float32", DTYPES[weights]))
    scales = {}
    for name, tensor in parameters.items():
        dtype = DTYPES[weights] if quantize.is_quantizable(name) else "float32"
        if tensor.dtype != dtype:
            raise WeightFileError(
                f"{path}: {name} is {tensor.dtype}, expected {dtype} in {weights}"
            )
        if dtype == "int8":
            scales[name] = read_scale(name, tensor, found, path)
    if surplus := sorted(found.keys() - parameters.keys() - {name + SCALE for name in scales}):
        raise WeightFileError(
            f"{path} has {show(surplus[0])}, which belongs to none of its int8 matrices"
        )
    return WeightFile(
        "quantized", path, config, own or tokenizer or None, found, parameters, weights=weights,
        scales=scales,
    )  # fmt: skip


def read_scale(
    name: str, tensor: MappedTensor, found: dict[str, MappedTensor], path: Path
) -> Array:
    """Return the scale of an int8 matrix. Raises WeightFileError if a number in it is invalid."""
    own, channels = name + SCALE, (tensor.shape[quantize.output_axis(name)],)
    if own not in found:
        raise WeightFileError(f"{path} has no {own}, the scale of {name}")
    stored = found[own]
    if (stored.dtype, stored.shape) != ("float32", channels):
        raise WeightFileError(
            f"{path}: {own} is {stored.dtype} {stored.shape}, expected float32 {channels}, one per "
            f"output channel of {name} {tensor.shape}"
        )
    scale = stored.raw()
    wrong = np.flatnonzero(~(np.isfinite(scale) & (scale > 0)))
    if wrong.size:
        raise WeightFileError(
            f"{path}: {own}[{wrong[0]}] is {scale[wrong[0]]}, but a scale must be finite and above "
            "0: the file is damaged, quantize the model again"
        )
    return scale
