"""Read and write llm.c's weight file (gpt2_124M.bin).

    256 x int32     MAGIC, version, context length, V, L, H, C, V padded to a multiple of 128
    the rest        every kind of parameter, stacked over all layers, in the order of `shapes`

Version 3 is float32, version 5 bfloat16. Matrices are (out, in), the transposes of GPT-2's. The
rows of wte from V on are padding. There is always a bias, and the head is always tied.
https://github.com/karpathy/llm.c, train_gpt2.py: write_model
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError, WeightFileError
from npgpt.model import params
from npgpt.model.params import Params
from npgpt.system.atomic import atomic_write
from npgpt.weights.mapped import BFLOAT16, MappedFile, MappedTensor, itemsize, round_chunks
from npgpt.weights.weight_file import WeightFile, make_config, match_parameters

MAGIC = 20240326
HEADER = 256  # int32 numbers
VERSIONS = {3: "float32", 5: BFLOAT16}
PADDED = 128  # the rows of wte are padded to a multiple of it
MAX_LAYERS = 1000  # the description of a layer takes memory, even if the layer is small
FIELDS = ("magic", "version", "context_length", "vocab_size", "n_layer", "n_head", "n_embd", "rows")
BLOCK = (
    "ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight",
    "attn.c_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias",
    "mlp.c_proj.weight", "mlp.c_proj.bias",
)  # fmt: skip


def read_llmc(path: str | Path) -> WeightFile:
    """Map the model in llm.c's file. Raises WeightFileError if it is damaged or incomplete."""
    file = MappedFile(path)
    if file.data.size < 4 * HEADER:
        raise WeightFileError(
            f"{path} is truncated: {file.data.size:,} bytes, the header alone has {4 * HEADER:,}"
        )
    numbers = file.data[: 4 * HEADER].view("<i4")[: len(FIELDS)].tolist()
    header = dict(zip(FIELDS, numbers, strict=True))
    magic, version, rows = (header.pop(name) for name in ("magic", "version", "rows"))
    if magic != MAGIC:
        raise WeightFileError(f"{path} begins with {magic}, not with llm.c's {MAGIC}")
    if version not in VERSIONS:
        raise WeightFileError(
            f"{path} has version {version}; supported are 3 (float32) and 5 (bfloat16)"
        )
    config = make_config(Path(path), **header)
    if config.n_layer > MAX_LAYERS:
        raise WeightFileError(
            f"{path} has {config.n_layer:,} layers; at most {MAX_LAYERS:,} are read"
        )
    if rows < config.vocab_size:
        raise WeightFileError(f"{path}: {rows} rows of wte for a vocabulary of {config.vocab_size}")
    tensors = map_stacked(config, rows, file, VERSIONS[version])
    end = max(tensor.start + tensor.nbytes for tensor in tensors.values())
    if end != file.data.size:
        state = "truncated" if end > file.data.size else "other bytes follow the weights"
        raise WeightFileError(
            f"{path} has {file.data.size:,} bytes, its header requires {end:,}: {state}"
        )
    matrices = frozenset(f"h.{i}.{n}" for i in range(config.n_layer) for n in BLOCK if is_matrix(n))
    found = split_layers(tensors, config)
    parameters = match_parameters(config, found, Path(path), transposed=matrices)
    return WeightFile("llm.c", Path(path), config, None, tensors, parameters, matrices)


def is_matrix(name: str) -> bool:
    """Return True if this parameter of a block is a matrix."""
    return "c_" in name and name.endswith("weight")


def shapes(config: Config, rows: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every kind of parameter, in the order of the file.

    Those of the blocks are stacked: "h.*.ln_1.bias" (L, C).
    """
    C, L = config.n_embd, config.n_layer
    widths = {"c_attn": (3 * C, C), "attn.c_proj": (C, C), "c_fc": (4 * C, C)}
    found: dict[str, tuple[int, ...]] = {
        "wte.weight": (rows, C),
        "wpe.weight": (config.context_length, C),
    }
    for name in BLOCK:
        layer = name.rsplit(".", 1)[0]
        outputs, inputs = next((s for n, s in widths.items() if layer.endswith(n)), (C, 4 * C))
        if "ln_" in layer:
            outputs = C
        found[f"h.*.{name}"] = (L, outputs, inputs) if is_matrix(name) else (L, outputs)
    return found | {"ln_f.weight": (C,), "ln_f.bias": (C,)}


def map_stacked(
    config: Config, rows: int, file: MappedFile, dtype: str, at: int = 4 * HEADER
) -> dict[str, MappedTensor]:
    """Return every kind of parameter as one mapped tensor, stacked over the layers.

    `at`: the offset of the first byte.
    """
    tensors = {}
    for name, shape in shapes(config, rows).items():
        tensors[name] = MappedTensor(file, at, shape, dtype)
        at += math.prod(shape) * itemsize(dtype)
    return tensors


def split_layers(tensors: dict[str, MappedTensor], config: Config) -> dict[str, MappedTensor]:
    """Return every parameter by its name, "h.3.ln_1.bias", from the stacked tensors."""
    found = {}
    for name, tensor in tensors.items():
        if name == "wte.weight":  # without the padding
            found[name] = replace(tensor, shape=(config.vocab_size, config.n_embd))
        elif "*" in name:
            each = tensor.nbytes // config.n_layer
            for i in range(config.n_layer):
                part = replace(tensor, start=tensor.start + i * each, shape=tensor.shape[1:])
                found[name.replace("*", str(i))] = part
        else:
            found[name] = tensor
    return found


def write_llmc(
    path: str | Path, config: Config, tree: Params, *, dtype: str,
    check: Callable[[Path], None] | None = None,
) -> None:  # fmt: skip
    """Write the file atomically. `dtype`: "float32" or "bfloat16".

    `check` reads the file before it gets its name. Raises InputError if the format cannot represent
    the model, RunError if writing fails.
    """
    if not config.tied:
        raise InputError(
            "llm.c's file has no output head of its own, and this model's head is not tied: "
            "use --to huggingface"
        )
    version = next((v for v, d in VERSIONS.items() if d == dtype), None)
    if version is None:
        raise InputError(f"llm.c's file holds {' or '.join(VERSIONS.values())}, not {dtype}")
    rows = padded_rows(config)
    header = np.zeros(HEADER, "<i4")
    sizes = (getattr(config, name) for name in FIELDS[2:-1])
    header[: len(FIELDS)] = MAGIC, version, *sizes, rows
    with atomic_write(path) as file:
        file.write(header.data)
        write_stacked(file, config, dict(params.named(tree)), dtype)
        file.flush()
        if check is not None:
            check(Path(file.name))


def padded_rows(config: Config) -> int:
    """Return the rows of wte in the file: V, padded."""
    return -(-config.vocab_size // PADDED) * PADDED


def write_stacked(file: BinaryIO, config: Config, arrays: dict[str, Array], dtype: str) -> None:
    """Write parameters, or their gradients, to an open file, stacked over the layers."""
    for kind, shape in shapes(config, padded_rows(config)).items():
        for array in arrays_of(kind, shape, arrays, config):
            for chunk in round_chunks(array, dtype, kind):
                file.write(chunk.data)


def arrays_of(
    kind: str, shape: tuple[int, ...], arrays: dict[str, Array], config: Config
) -> Iterator[Array]:
    """Yield the arrays of one kind of parameter, as the file has them."""
    if "*" not in kind:
        yield arrays[kind]
        if kind == "wte.weight":
            yield np.zeros((shape[0] - config.vocab_size, config.n_embd), np.float32)
        return
    for i in range(config.n_layer):
        array = arrays.get(kind.replace("*", str(i)))
        if array is None:  # a model without query/key/value biases
            yield np.zeros(shape[1:], np.float32)
        else:
            yield array.T if is_matrix(kind) else array
