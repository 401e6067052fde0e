"""GPT-2 as OpenAI released it: TensorFlow's checkpoint beside hparams.json."""

import os
from pathlib import Path

from npgpt.errors import InputError
from npgpt.weights.mapped import MappedTensor, short
from npgpt.weights.safetensors import read_object
from npgpt.weights.tensor_bundle import read_bundle
from npgpt.weights.weight_file import WeightFile, guess_tokenizer, make_config, match_parameters

HPARAMS = "hparams.json"
FIELDS = {
    "n_vocab": "vocab_size",
    "n_ctx": "context_length",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
LAST = {"g": "weight", "w": "weight", "b": "bias"}


def read_openai(path: str | Path, *, verify: bool = False) -> WeightFile:
    """The model in a folder of OpenAI's, or of its .index file. `verify`: compare the checksums of
    all numbers too.

    Raises InputError for what is not a whole one.
    """
    prefix = prefix_of(Path(path))
    values = read_object(hparams := prefix.parent / HPARAMS)
    if missing := [name for name in FIELDS if name not in values]:
        raise InputError(f"{hparams} has no {missing[0]}")
    config = make_config(hparams, **{ours: values[theirs] for theirs, ours in FIELDS.items()})
    tensors = read_bundle(prefix, verify=verify)
    index = prefix.with_name(prefix.name + ".index")
    names = own_names(tensors, index)
    found = {ours: flattened(tensors[name]) for ours, name in names.items()}
    tokenizer = guess_tokenizer(config.vocab_size)
    parameters = match_parameters(config, found, index, own=lambda name: names.get(name, name))
    return WeightFile("openai", index, config, tokenizer, tensors, parameters)


def prefix_of(path: Path) -> Path:
    """What the paths of the checkpoint's files have in common."""
    found = sorted(path.glob("*.index")) if os.path.isdir(path) else [path]
    if len(found) != 1:
        raise InputError(
            f"the folder {path} has {len(found)} checkpoints (.index), expected one: name one"
        )
    return found[0].with_suffix("")


def own_names(tensors: dict[str, MappedTensor], index: Path) -> dict[str, str]:
    """npgpt's name of each parameter -> OpenAI's. What is not the model's, a step count or the
    optimizer's, is none."""
    names = {}
    for name in tensors:
        if name.startswith("model/"):
            if (other := names.setdefault(our_name(name), name)) != name:
                raise InputError(f"{index}: {short(other)} and {short(name)} are one parameter")
    return names


def our_name(name: str) -> str:
    """model/h3/attn/c_attn/w -> h.3.attn.c_attn.weight"""
    parts = name.removeprefix("model/").split("/")
    if parts[0][:1] == "h" and parts[0][1:].isdecimal():
        parts[:1] = "h", parts[0][1:]
    if parts[-1] in LAST:
        return ".".join([*parts[:-1], LAST[parts[-1]]])
    return ".".join([*parts, "weight"])  # wte and wpe


def flattened(tensor: MappedTensor) -> MappedTensor:
    """A matrix, which is there as a convolution of width 1, (1, in, out)."""
    if len(tensor.shape) == 3 and tensor.shape[0] == 1:
        return tensor._replace(shape=tensor.shape[1:])
    return tensor
