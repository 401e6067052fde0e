"""llama.cpp's file: a GGUF with the parameters and the tokenizer, through the `gguf` library.

Linear layers are (out, in), as in llm.c's file. Matrices have the dtype that is asked for; vectors
and position embeddings are float32. int8 is llama.cpp's Q8_0: one float16 scale for 32 numbers.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.data.gpt2_bpe import splits_words_as_gpt2
from npgpt.data.tokenizer import Tokenizer
from npgpt.data.tokenizer_json import vocabulary_of
from npgpt.errors import ConfigError, InputError, RunError
from npgpt.export.tokenizer_files import make_files
from npgpt.model import params
from npgpt.model.params import Params
from npgpt.model.quantize import is_quantizable
from npgpt.system.atomic import atomic_write
from npgpt.weights.mapped import round_chunks
from npgpt.weights.tokenizer_files import JSON

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "Q8_0"}
FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32, "int8": 7}  # llama.cpp's llama_ftype
GROUP = 32  # numbers of a scale
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # types of tokens
NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_f": "output_norm",
    "lm_head": "output",
}


class Vocabulary(NamedTuple):
    """A tokenizer in GGUF's terms: the tokens by id, their types, and the merges."""

    tokens: list[str]
    types: list[int]
    merges: list[str]


def write(path: Path, config: Config, tree: Params, found: Tokenizer, *, dtype: str) -> None:
    """Write the file, read it back and compare it before it gets its name.

    `dtype`: of the matrices, a key of TYPES. Raises InputError without the gguf library, for a
    tokenizer that llama.cpp does not have, or numbers that `dtype` cannot hold; RunError if writing
    fails or other bytes are read back.
    """
    try:
        import gguf  # here, because it is an extra
    except ImportError:
        raise InputError(
            "a GGUF file is written with the gguf library: pip install 'npgpt[gguf]'"
        ) from None
    if dtype == "int8" and config.n_embd % GROUP:
        raise ConfigError(
            f"n_embd is {config.n_embd}, but must be a multiple of {GROUP} for int8 in a GGUF file"
        )
    vocabulary = make_vocabulary(found, config)
    writer = gguf.GGUFWriter(None, "gpt2")
    add_metadata(writer, config, vocabulary, found.eot_token, dtype)
    for name, array, kind in tensors(config, tree, dtype):
        number = gguf.GGMLQuantizationType[TYPES[kind]]
        block, size = gguf.GGML_QUANT_SIZES[number]
        shape = *array.shape[:-1], array.shape[-1] // block * size  # in bytes
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), int(np.prod(shape)), number)
    with atomic_write(path) as file:
        new = Path(file.name)
        with closing(writer):
            writer.write_header_to_file(new)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, array, kind in tensors(config, tree, dtype):
                writer.write_tensor_data(encode(name, array, kind))
        require_written(gguf.GGUFReader(new), config, tree, vocabulary, dtype)


def add_metadata(
    writer: Any, config: Config, vocabulary: Vocabulary, eot_token: int | None, dtype: str
) -> None:
    """Add the shape of the model and its tokenizer to a gguf.GGUFWriter."""
    writer.add_name(f"GPT-2 of {params.size(config):,} parameters")
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_quantization_version(2)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_add_bos_token(False)
    if eot_token is not None:
        writer.add_bos_token_id(eot_token)
        writer.add_eos_token_id(eot_token)


def make_vocabulary(found: Tokenizer, config: Config) -> Vocabulary:
    """Return the tokens of a byte-level BPE. Raises InputError for a tokenizer of another kind."""
    values = json.loads(make_files(found, config.context_length)[JSON])
    if not splits_words_as_gpt2(values):
        raise InputError(
            f"the tokenizer {found} is no byte-pair encoding that splits words as GPT-2's, the "
            "only one that npgpt writes to a GGUF file: use --to huggingface"
        )
    ids, merges = vocabulary_of(values)
    tokens = [f"[PAD{i}]" for i in range(config.vocab_size)]
    types = [UNUSED] * config.vocab_size
    for token, number in ids.items():
        tokens[number], types[number] = token, NORMAL
    for added in values["added_tokens"]:
        number = added["id"]
        tokens[number] = added["content"]
        types[number] = CONTROL if added["special"] else USER_DEFINED
    lines = [" ".join(pair) for pair in merges]
    # llama.cpp needs a merge; this one never applies, because its parts are no single characters
    return Vocabulary(tokens, types, lines or [f"{tokens[-1]} {tokens[-1]}"])


def tensors(config: Config, tree: Params, dtype: str) -> Iterator[tuple[str, Array, str]]:
    """Yield llama.cpp's name, the array in its layout, and the dtype of every parameter."""
    arrays = dict(params.named(tree))
    zeros = np.zeros(3 * config.n_embd, np.float32)
    for name in dict(params.named(params.shapes(replace(config, qkv_bias=True)))):
        own, array = convert(name, arrays.get(name, zeros))
        yield own, array, dtype if is_quantizable(name) else "float32"


def convert(name: str, array: Array) -> tuple[str, Array]:
    """Return a parameter's name and array in llama.cpp's layout: linear layers are (out, in)."""
    *parts, kind = name.split(".")
    block = f"blk.{parts[1]}." if parts[0] == "h" else ""
    own = NAMES[".".join(parts[2:] if block else parts)]
    return f"{block}{own}.{kind}", array.T if block and array.ndim == 2 else array


def encode(name: str, array: Array, kind: str) -> Array:
    """Return a float32 array as the file stores it: uint8, a row of numbers in each row."""
    if kind != "int8":
        found = np.concatenate(list(round_chunks(array, kind, name)))
        return found.view(np.uint8).reshape(*array.shape[:-1], -1)
    import gguf

    if not np.abs(array).max() < 127 * 65504:  # nan, too: a scale is a float16
        raise InputError(f"{name} has numbers that are nan, or too large for int8: try bfloat16")
    return gguf.quants.quantize(np.ascontiguousarray(array), gguf.GGMLQuantizationType.Q8_0)


def require_written(
    reader: Any, config: Config, tree: Params, vocabulary: Vocabulary, dtype: str
) -> None:
    """Raise RunError unless a gguf.GGUFReader has the model and its vocabulary."""
    for key, expected in {
        "gpt2.context_length": config.context_length,
        "gpt2.block_count": config.n_layer,
        "gpt2.attention.head_count": config.n_head,
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": vocabulary.types,
        "tokenizer.ggml.merges": vocabulary.merges,
    }.items():
        if reader.get_field(key).contents() != expected:
            raise RunError(f"{key} was read back with another value than was written")
    found = {tensor.name: tensor for tensor in reader.tensors}
    for name, array, kind in tensors(config, tree, dtype):
        tensor = found.pop(name)
        same = tensor.tensor_type.name == TYPES[kind]
        if not same or tensor.data.tobytes() != encode(name, array, kind).tobytes():
            raise RunError(f"{name} was read back with other numbers than were written")
    if found:
        raise RunError(f"{min(found)} was read back and had not been written")
