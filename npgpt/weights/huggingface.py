"""GPT-2 in Hugging Face's format: config.json beside model.safetensors, in one file or several.

Names and layout are GPT-2's own, (in, out), with or without the prefix "transformer.". As in
transformers, tensors that GPT-2 does not have are ignored: attention masks, which older versions
saved too, or another head. An output head that differs from the token embedding is read even if
config.json ties them. The prefixes that torch.compile and DataParallel add are removed.
"""

import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.config import VOCABULARIES, Config
from npgpt.errors import RunError, WeightFileError, WeightFileWarning, show
from npgpt.model import params
from npgpt.model.params import Params
from npgpt.system.atomic import atomic_directory, new_file
from npgpt.weights.mapped import MappedFile, MappedTensor, round_chunks
from npgpt.weights.safetensors import (
    INDEX,
    TensorStream,
    is_index,
    read_safetensors,
    read_shards,
    require_written,
    write_tensors,
)
from npgpt.weights.strict_json import read_json_object
from npgpt.weights.tokenizer_files import TokenizerName
from npgpt.weights.weight_file import (
    WeightFile,
    make_config,
    match_parameters,
    split_ignored,
)

PREFIX = "transformer."
WEIGHTS = "model.safetensors"
QKV_BIAS = re.compile(r"h\.\d+\.attn\.c_attn\.bias")
MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
WRAPPERS = ("module", "_orig_mod")  # parts of names that DataParallel, DDP and torch.compile add
ALIASES = {  # of fields in config.json, by transformers' GPT2Config
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
# fields of config.json besides sizes: the default, and the values that npgpt computes
FIXED: dict[str, tuple[Any, tuple]] = {
    "model_type": ("gpt2", ("gpt2",)),
    "activation_function": ("gelu_new", ("gelu_new", "gelu_pytorch_tanh")),
    "layer_norm_epsilon": (1e-5, (1e-5,)),
    "scale_attn_weights": (True, (True,)),
    "scale_attn_by_inverse_layer_idx": (False, (False,)),
    "add_cross_attention": (False, (False,)),
}
TOKENIZER_CLASSES = "GPT2Tokenizer", "GPT2TokenizerFast"  # of GPT-2's own tokenizer
RATES = "resid_pdrop", "embd_pdrop", "attn_pdrop"


def read_huggingface(path: str | Path) -> WeightFile:
    """Map the model in a directory, or in a safetensors file or index beside its config.json.

    Raises WeightFileError if it is incomplete, damaged, or a model that npgpt does not compute.
    """
    path = weights_file(Path(path))
    start = MappedFile(path).data[:64].tobytes()
    tensors = read_shards(path) if is_index(start) else read_safetensors(path)
    values = read_config(path.parent / "config.json")
    names = names_in_file(tensors, path)
    found = {name: tensors[own] for name, own in names.items() if not MASK.fullmatch(name)}
    config = parse_config(values, found, path.parent / "config.json")
    differs = False
    if config.tied and (head := found.pop("lm_head.weight", None)):
        if "wte.weight" in found:
            differs = not are_equal(head, found["wte.weight"])
            if differs:
                config = replace(config, tied=False)
                found["lm_head.weight"] = head
        else:  # safetensors' save_model writes tied matrices once, by the first of their names
            found["wte.weight"] = head
            names["wte.weight"] = names["lm_head.weight"]
    found, ignored = split_ignored(config, found)
    parameters = match_parameters(
        config, found, path, name_in_file=lambda name: names.get(name, name)
    )
    if differs:
        text = (
            f"{path}: config.json ties lm_head.weight to wte.weight, but they differ: both are "
            'read. To silence this, set "tie_word_embeddings": false in config.json'
        )
        warnings.warn(text, WeightFileWarning, stacklevel=2)

    tokenizer, kind = values.get("npgpt_tokenizer"), values.get("tokenizer_class")
    known = isinstance(tokenizer, str) and tokenizer in VOCABULARIES
    return WeightFile(
        "huggingface",
        path,
        config,
        tokenizer if known else None,
        tensors,
        parameters,
        ignored=[names[name] for name in ignored],
        other_tokenizer=None if kind in (None, *TOKENIZER_CLASSES) else str(kind),
    )


def weights_file(path: Path) -> Path:
    """Return the safetensors file or index in a directory; return other paths unchanged."""
    if not os.path.isdir(path):
        return path
    names = os.listdir(path)
    for name in (WEIGHTS, INDEX):
        if name in names:  # a broken link is reported when it is opened
            return path / name
    raise WeightFileError(f"the directory {path} has neither {WEIGHTS} nor {INDEX}")


def read_config(path: Path) -> dict[str, Any]:
    """Return the values of config.json. Raises WeightFileError if npgpt does not compute them."""
    if not os.path.lexists(path):
        raise WeightFileError(f"there is no {path}, which describes the shape of the model")
    values = read_json_object(path)
    for name, (default, allowed) in FIXED.items():
        value = values.get(name, default)
        if value not in allowed:
            supported = " or ".join(map(str, allowed))
            raise WeightFileError(f"{path}: {name} is {show(value)}; npgpt supports {supported}")
    values |= {ours: values[name] for name, ours in ALIASES.items() if name in values}
    width, inner = values.get("n_embd", 768), values.get("n_inner")
    if isinstance(width, int) and inner not in (None, 4 * width):
        raise WeightFileError(
            f"{path}: n_inner is {show(inner)}; npgpt supports 4 x n_embd = {4 * width}"
        )
    return values


def names_in_file(tensors: dict[str, MappedTensor], path: Path) -> dict[str, str]:
    """Return the name in the file of each tensor by npgpt's name."""
    names: dict[str, str] = {}
    for own in tensors:
        parts = [part for part in own.split(".") if part not in WRAPPERS]
        name = ".".join(parts).removeprefix(PREFIX)
        if names.setdefault(name, own) != own:
            raise WeightFileError(
                f"{path} has {show(name)} twice, as {show(names[name])} and as {show(own)}"
            )
    return names


def parse_config(values: dict[str, Any], found: dict[str, MappedTensor], path: Path) -> Config:
    """Return the Config of config.json. Missing fields have the defaults of GPT2Config."""
    rates = [values.get(name, 0.1) for name in RATES]
    tied = values.get("tie_word_embeddings", True)
    if not isinstance(tied, bool):
        raise WeightFileError(
            f"{path}: tie_word_embeddings is {show(tied)}, expected true or false"
        )
    return make_config(
        path,
        vocab_size=values.get("vocab_size", 50257),
        context_length=values.get("n_positions", 1024),
        n_layer=values.get("n_layer", 12),
        n_head=values.get("n_head", 12),
        n_embd=values.get("n_embd", 768),
        # npgpt has one rate for three; if they differ, it must be given for training
        dropout=rates[0] if rates == rates[:1] * 3 else 0.0,
        qkv_bias=any(QKV_BIAS.fullmatch(name) for name in found),
        tied=tied,
    )


def are_equal(one: MappedTensor, other: MappedTensor) -> bool:
    """Return True if two tensors have the same shape and numbers."""
    pairs = zip(one.chunks(), other.chunks(), strict=False)
    return one.shape == other.shape and all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def write_huggingface(
    directory: str | Path,
    config: Config,
    tree: Params,
    tokenizer: TokenizerName | None,
    *,
    dtype: str,
    eot_token: int | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write config.json, model.safetensors and `files` into a new directory: all or nothing.

    `dtype`: "float32", "float16" or "bfloat16". `eot_token`: the end of a text of a tokenizer that
    has no name. `files`: contents by name, such as the tokenizer's. The format always has
    query/key/value biases: a missing one is written as zeros. The directory gets its name after all
    has been read back and compared. Raises InputError for numbers that are too large for `dtype`,
    RunError if the directory exists, writing fails, or other bytes are read back.
    """
    arrays = dict(params.named(tree))
    zeros = np.zeros(3 * config.n_embd, np.float32)
    tensors = {}
    for name in dict(params.named(params.shapes(replace(config, qkv_bias=True)))):
        own = name if name.startswith("lm_head") else PREFIX + name
        tensors[own] = arrays.get(name, zeros)
    values = config_values(config, tokenizer, eot_token, dtype=dtype)
    contents = {**(files or {}), "config.json": json.dumps(values, indent=2).encode() + b"\n"}
    with atomic_directory(directory) as new:
        with new_file(new / WEIGHTS) as file:
            write_tensors(file, {name: stream(name, a, dtype) for name, a in tensors.items()})
        for name, content in contents.items():
            with new_file(new / name) as file:
                file.write(content)
        expected = {name: stream(name, a, dtype) for name, a in tensors.items()}
        require_written(new / WEIGHTS, expected)
        for name, content in contents.items():
            if (new / name).read_bytes() != content:
                raise RunError(f"{name} was read back with other bytes than were written")


def stream(name: str, array: Array, dtype: str) -> TensorStream:
    """Return an array as it is written, rounded to `dtype`."""
    return TensorStream(array.shape, dtype, round_chunks(array, dtype, name))


def config_values(
    config: Config, tokenizer: TokenizerName | None, eot_token: int | None, *, dtype: str
) -> dict[str, Any]:
    """Return the values of config.json for transformers."""
    name = tokenizer if isinstance(tokenizer, str) else None
    if name is not None:  # the end of a text is the last token of both vocabularies
        eot_token = VOCABULARIES[name] - 1
    return {
        "architectures": ["GPT2LMHeadModel"],
        **{name: default for name, (default, _) in FIXED.items()},
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        **dict.fromkeys(RATES, config.dropout),
        "tie_word_embeddings": config.tied,
        "torch_dtype": dtype,
        "npgpt_tokenizer": name,
        **dict.fromkeys(("bos_token_id", "eos_token_id"), eot_token),
    }
