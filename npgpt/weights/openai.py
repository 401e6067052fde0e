"""Read GPT-2 as OpenAI released it: a TensorFlow checkpoint beside hparams.json."""

import os
from dataclasses import replace
from pathlib import Path

from npgpt.errors import WeightFileError, show
from npgpt.weights.mapped import MappedTensor
from npgpt.weights.strict_json import read_json_object
from npgpt.weights.tensor_bundle import read_bundle
from npgpt.weights.weight_file import (
    WeightFile,
    make_config,
    match_parameters,
    split_ignored,
)

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
    """Map the model in OpenAI's directory, given by its path or that of its .index file.

    `verify`: also verify the checksums of all numbers. Raises WeightFileError if it is damaged or
    incomplete.
    """
    prefix = prefix_of(Path(path))
    values = read_json_object(hparams := prefix.parent / HPARAMS)
    if missing := [name for name in FIELDS if name not in values]:
        raise WeightFileError(f"{hparams} has no {missing[0]}")
    config = make_config(hparams, **{ours: values[theirs] for theirs, ours in FIELDS.items()})
    tensors = read_bundle(prefix, verify=verify)
    index = prefix.with_name(prefix.name + ".index")
    names = names_in_file(tensors, index)
    found = {ours: drop_width(tensors[name]) for ours, name in names.items()}
    found, _ = split_ignored(config, found)
    parameters = match_parameters(config, found, index, name_in_file=lambda n: names.get(n, n))
    used = {names[name] for name in parameters}
    ignored = [name for name in tensors if name not in used]
    return WeightFile("openai", index, config, None, tensors, parameters, ignored=ignored)


def prefix_of(path: Path) -> Path:
    """Return the common prefix of the checkpoint's files, ".../model.ckpt"."""
    found = sorted(path.glob("*.index")) if os.path.isdir(path) else [path]
    if len(found) != 1:
        raise WeightFileError(
            f"the directory {path} has {len(found)} checkpoints, expected one: pass an .index file"
        )
    return found[0].with_suffix("")


def names_in_file(tensors: dict[str, MappedTensor], index: Path) -> dict[str, str]:
    """Return OpenAI's name of each parameter by npgpt's name.

    Other variables are skipped, such as a step count or the state of an optimizer.
    """
    names: dict[str, str] = {}
    for name in tensors:
        if name.startswith("model/"):
            if (other := names.setdefault(parameter_name(name), name)) != name:
                raise WeightFileError(
                    f"{index}: {show(other)} and {show(name)} are the same parameter"
                )
    return names


def parameter_name(name: str) -> str:
    """Return npgpt's name: "h.3.attn.c_attn.weight" for "model/h3/attn/c_attn/w"."""
    parts = name.removeprefix("model/").split("/")
    if parts[0][:1] == "h" and parts[0][1:].isdecimal():
        parts[:1] = "h", parts[0][1:]
    if parts[-1] in LAST:
        return ".".join([*parts[:-1], LAST[parts[-1]]])
    return ".".join([*parts, "weight"])  # wte and wpe


def drop_width(tensor: MappedTensor) -> MappedTensor:
    """Return a matrix (in, out) that is stored as a convolution of width 1, (1, in, out)."""
    if len(tensor.shape) == 3 and tensor.shape[0] == 1:
        return replace(tensor, shape=tensor.shape[1:])
    return tensor
