"""Comparison of a weight file with the model that was written into it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from npgpt.config import Config
from npgpt.errors import RunError
from npgpt.model import params
from npgpt.model.params import Params
from npgpt.weights import formats
from npgpt.weights.mapped import round_chunks, widen


def require_written(path: Path, config: Config, tree: Params) -> None:
    """Raise RunError unless a file has this model, with its numbers rounded as the file has them.

    A format may lack dropout, and have zeros in place of missing biases.
    """
    found = formats.open_weights(path, verify=True)
    if replace(config, dropout=0.0, qkv_bias=True) != replace(
        found.config, dropout=0.0, qkv_bias=True
    ):
        raise RunError(f"{found.config} was read back, but {config} was written")
    arrays, zeros = dict(params.named(tree)), np.zeros(3 * config.n_embd, np.float32)
    for name, tensor in found.parameters.items():
        array = arrays.get(name, zeros)
        rounded = round_chunks(array.T if name in found.transposed else array, tensor.dtype, name)
        for chunk, other in zip(rounded, tensor.chunks(), strict=True):
            if not np.array_equal(widen(chunk, tensor.dtype), other, equal_nan=True):
                raise RunError(f"{name} was read back with other numbers than were written")
