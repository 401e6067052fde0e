"""Write llama.cpp's file format: a GGUF file of a GPT-2, without its tokenizer.

Matrices are float32, bfloat16, or int8 with a scale for every 32 numbers (llama.cpp's Q8_0).

The format is described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import struct
from pathlib import Path

import numpy as np

from npgpt.config import Config
from npgpt.export.gguf_file import convert
from npgpt.model.params import Params, named
from npgpt.model.quantize import is_quantizable
from npgpt.quantized_matrix import to_bfloat16

MAGIC, VERSION = b"GGUF", 3
UINT32, FLOAT32, STRING = 4, 6, 8  # types of values
TENSORS = {"float32": 0, "bfloat16": 30, "int8": 8}  # types of tensors
GROUP = np.dtype([("scale", "<f2"), ("values", "i1", 32)])  # of Q8_0
ALIGNMENT = 32  # of every tensor


def write_gguf(path: Path, config: Config, tree: Params, weights: str = "float32") -> None:
    """Write all parameters of a float32 model, its matrices as `weights`."""
    tensors = []
    for name, array in named(tree):
        kind = weights if is_quantizable(name) else "float32"
        own, array = convert(name, array)
        tensors.append((own, array.shape, TENSORS[kind], encoded(array, kind)))
    head = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(values(config))))
    for key, value in values(config).items():
        head += text(key) + typed(value)
    offset = 0
    for name, shape, kind, array in tensors:
        head += text(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *reversed(shape))  # the fastest axis first
        head += struct.pack("<IQ", kind, offset)
        offset += array.nbytes + -array.nbytes % ALIGNMENT
    with open(path, "wb") as file:
        file.write(head + b"\0" * (-len(head) % ALIGNMENT))
        for *_, array in tensors:
            file.write(np.ascontiguousarray(array))
            file.write(b"\0" * (-array.nbytes % ALIGNMENT))


def encoded(array: np.ndarray, kind: str) -> np.ndarray:
    """Return a float32 array as the file stores it."""
    if kind == "float32":
        return array
    if kind == "bfloat16":
        return to_bfloat16(array)
    groups = np.ascontiguousarray(array).reshape(-1, 32)
    made = np.empty(len(groups), GROUP)
    scale = np.abs(groups).max(1) / np.float32(127)
    made["scale"] = scale
    made["values"] = np.rint(groups / np.where(scale, scale, 1)[:, None])
    return made


def values(config: Config) -> dict[str, int | float | str]:
    """Return the file's metadata by key."""
    return {
        "general.architecture": "gpt2",
        "gpt2.vocab_size": config.vocab_size,
        "gpt2.context_length": config.context_length,
        "gpt2.embedding_length": config.n_embd,
        "gpt2.feed_forward_length": 4 * config.n_embd,
        "gpt2.block_count": config.n_layer,
        "gpt2.attention.head_count": config.n_head,
        "gpt2.attention.layer_norm_epsilon": 1e-5,
        "tokenizer.ggml.model": "none",
    }


def typed(value: int | float | str) -> bytes:
    """Return a metadata value: the code of its type, then its bytes."""
    match value:
        case int():
            return struct.pack("<II", UINT32, value)
        case float():
            return struct.pack("<If", FLOAT32, value)
        case str():
            return struct.pack("<I", STRING) + text(value)


def text(value: str) -> bytes:
    """Return a GGUF string: its length, then its bytes."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw
