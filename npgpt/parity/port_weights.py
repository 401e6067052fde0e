"""The parameters of a port in a file, by its own names and in its own layout, as a model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from npgpt.errors import InputError, WeightFileError
from npgpt.gpt import GPT
from npgpt.loading import load
from npgpt.model import params, quantize
from npgpt.model.params import named
from npgpt.parity import dump as dumps
from npgpt.parity import matching
from npgpt.parity import probe as probes
from npgpt.parity.dump import Dump
from npgpt.weights import huggingface

KIND = "param/"


def load_like(
    first: GPT,
    path: str | Path,
    renames: Mapping[str, str],
    *,
    weights: str | None = None,
    ops: str | None = None,
) -> tuple[GPT, list[str]]:
    """Return the model in a file, and notes about its layout.

    A file that `npgpt.load` does not read, with arrays by a port's own names, is matched with the
    parameters of `first`. Raises InputError if it is neither, and WeightFileError as `load`.
    """
    refused = None
    if not renames:
        try:
            return load(path, weights=weights, ops=ops), []
        except WeightFileError as error:
            refused = error
    try:
        dump = read(Path(path))
    except InputError as error:
        raise (refused or error) from None
    if quantize.is_quantized(first.params):
        raise InputError(f"{path} has names of its own: the first model must not be quantized")
    return match_like(first, dump, renames)


def read(path: Path) -> Dump:
    """Return the parameters in a file or directory as a dump."""
    if (path / huggingface.WEIGHTS).is_file():
        path = path / huggingface.WEIGHTS
    dump = dumps.read(path)
    found = {name: x for name, x in dump.tensors.items() if name.startswith(KIND)}
    return Dump(found or {KIND + name: x for name, x in dump.tensors.items()}, path=dump.path)


def match_like(first: GPT, dump: Dump, renames: Mapping[str, str]) -> tuple[GPT, list[str]]:
    """Return the parameters in a dump as a model of the first one's config, with notes."""
    match = matching.match(dump, probes.of_model(first), renames)
    dtype = np.result_type(np.float32, *match.tensors.values())
    tree = params.zeros(first.config, dtype)
    for name, leaf in named(tree):
        if KIND + name not in match.tensors:
            raise InputError(f"{dump.path} has no tensor that could be {name}, unless --map says "
                             "which it is")  # fmt: skip
        leaf[...] = match.tensors[KIND + name]
    model = GPT.from_params(first.config, tree, ops=first.ops, tokenizer=first.tokenizer)
    model.path = Path(dump.path)
    return model, match.notes
