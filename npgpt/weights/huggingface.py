"""GPT-2 in Hugging Face's folder: config.json beside model.safetensors, or several of these.

Names and layout are GPT-2's own, (in, out), with or without "transformer." in front. Masks that
older versions saved with them are ignored.
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import VOCABULARIES, Config
from npgpt.errors import InputError
from npgpt.model import params
from npgpt.system.files import atomic_write
from npgpt.weights.mapped import MappedFile, MappedTensor, round_chunks, short
from npgpt.weights.safetensors import (
    INDEX,
    Piece,
    is_index,
    read_object,
    read_safetensors,
    read_shards,
    write_safetensors,
)
from npgpt.weights.weight_file import WeightFile, guess_tokenizer, make_config, match_parameters

PREFIX = "transformer."
WEIGHTS = "model.safetensors"
MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
# what a config may say besides sizes, and what it says if it does not: only this is computed here
FIXED: dict[str, tuple[Any, tuple]] = {
    "model_type": ("gpt2", ("gpt2",)),
    "activation_function": ("gelu_new", ("gelu_new", "gelu_pytorch_tanh")),
    "layer_norm_epsilon": (1e-5, (1e-5,)),
    "scale_attn_weights": (True, (True,)),
    "scale_attn_by_inverse_layer_idx": (False, (False,)),
    "add_cross_attention": (False, (False,)),
}
RATES = "resid_pdrop", "embd_pdrop", "attn_pdrop"


def read_huggingface(path: str | Path) -> WeightFile:
    """The model in a folder, or in a safetensors file, or index, with its config.json beside it.

    Raises InputError for what is not a whole GPT-2 that npgpt computes as transformers does.
    """
    path = weights_file(Path(path))
    head = MappedFile(path).data[:64].tobytes()
    tensors = read_shards(path) if is_index(head) else read_safetensors(path)
    values = read_config(path.parent / "config.json")
    found = own_names(tensors, path)
    config = parse_config(values, found, path.parent / "config.json")
    if config.tied and (head := found.pop("lm_head.weight", None)):
        check_head(head, found.get("wte.weight"), path)

    def own(name: str) -> str:
        return name if name in tensors else PREFIX + name if PREFIX + name in tensors else name

    tokenizer = values.get("npgpt_tokenizer", guess_tokenizer(config.vocab_size))
    known = isinstance(tokenizer, str) and tokenizer in VOCABULARIES
    return WeightFile(
        "huggingface",
        path,
        config,
        tokenizer if known else None,
        tensors,
        match_parameters(config, found, path, own=own),
    )


def weights_file(path: Path) -> Path:
    """The file, or index of files, that a folder has its weights in."""
    if not os.path.isdir(path):
        return path
    inside = os.listdir(path)
    for name in (WEIGHTS, INDEX):
        if name in inside:  # if it is a link to nothing, whoever opens it says so
            return path / name
    raise InputError(f"the folder {path} has neither {WEIGHTS} nor {INDEX}")


def read_config(path: Path) -> dict[str, Any]:
    """config.json, if it is of a GPT-2 as npgpt computes it."""
    if not os.path.lexists(path):
        raise InputError(f"there is no {path}, which says what shape the model in that folder has")
    values = read_object(path)
    for name, (default, allowed) in FIXED.items():
        value = values.get(name, default)
        if value not in allowed:
            raise InputError(
                f"{path}: {name} is {short(value)}; npgpt computes {' or '.join(map(str, allowed))}"
            )
    width, inner = values.get("n_embd", 768), values.get("n_inner")
    if isinstance(width, int) and inner not in (None, 4 * width):
        raise InputError(
            f"{path}: n_inner is {short(inner)}; npgpt computes 4 x n_embd = {4 * width}"
        )
    return values


def own_names(tensors: dict[str, MappedTensor], path: Path) -> dict[str, MappedTensor]:
    """The tensors that are parameters, by npgpt's names."""
    found = {}
    for name, tensor in tensors.items():
        key = name.removeprefix(PREFIX)
        if key in found:
            raise InputError(
                f"{path} has {short(key)} twice, with and without {PREFIX!r} before it"
            )
        found[key] = tensor
    return {key: tensor for key, tensor in found.items() if not MASK.fullmatch(key)}


def parse_config(values: dict[str, Any], found: dict[str, MappedTensor], path: Path) -> Config:
    """The Config that config.json describes. What it leaves out is as in GPT2Config."""
    rates = [values.get(name, 0.1) for name in RATES]
    tied = values.get("tie_word_embeddings", True)
    if not isinstance(tied, bool):
        raise InputError(f"{path}: tie_word_embeddings is {short(tied)}, expected true or false")
    return make_config(
        path,
        vocab_size=values.get("vocab_size", 50257),
        context_length=values.get("n_positions", 1024),
        n_layer=values.get("n_layer", 12),
        n_head=values.get("n_head", 12),
        n_embd=values.get("n_embd", 768),
        # three rates are one here; where they are not, whoever trains names the rate
        dropout=rates[0] if rates == rates[:1] * 3 else 0.0,
        qkv_bias="h.0.attn.c_attn.bias" in found,
        tied=tied,
    )


def check_head(head: MappedTensor, wte: MappedTensor | None, path: Path) -> None:
    """Raises InputError unless the output head is the token embedding again."""
    if wte is None:
        return  # which is said elsewhere
    pairs = zip(head.chunks(), wte.chunks(), strict=True)
    alike = (head.shape, head.dtype) == (wte.shape, wte.dtype)
    if not alike or not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs):
        raise InputError(
            f"{path}: lm_head.weight differs from wte.weight, but the config ties them: "
            'is "tie_word_embeddings": false missing from config.json?'
        )


def write_huggingface(
    folder: str | Path, config: Config, tree: params.Params, tokenizer: str | None, *, dtype: str
) -> None:
    """Writes config.json and model.safetensors. `dtype`: float32, float16 or bfloat16.

    What the format has no word for it says in another way: a missing query/key/value bias is a bias
    of zeros. Raises InputError for numbers that `dtype` cannot hold; OSError as any writing does.
    """
    folder = Path(folder)
    arrays = dict(params.named(tree))
    zeros = np.zeros(3 * config.n_embd, np.float32)
    tensors = {}
    for name in dict(params.named(params.shapes(replace(config, qkv_bias=True)))):
        array = arrays.get(name, zeros)
        own = name if name.startswith("lm_head") else PREFIX + name
        tensors[own] = Piece(array.shape, dtype, round_chunks(array, dtype, name))
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, tensors)
    write_config(folder, config, tokenizer, dtype=dtype)


def write_config(folder: Path, config: Config, tokenizer: str | None, *, dtype: str) -> None:
    """Writes config.json, in transformers' words."""
    values = {
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
        "npgpt_tokenizer": tokenizer,
        # where a text ends: the last token of both vocabularies
        **dict.fromkeys(
            ("bos_token_id", "eos_token_id"), tokenizer and VOCABULARIES[tokenizer] - 1
        ),
    }
    with atomic_write(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
