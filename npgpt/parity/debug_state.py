"""Read and write llm.c's gpt2_124M_debug_state.bin: the numbers that its test_gpt2 expects.

    256 x int32     MAGIC, VERSION, B, T
    int32           tokens (B, T), targets (B, T)
    float32         logits (B, T, V), without padding; loss
                    gradients, as the parameters in llm.c's weight file: npgpt/weights/llmc.py

The sizes of the model are not in the file: they are those of the probe. llm.c ignores no target.
https://github.com/karpathy/llm.c, train_gpt2.py: write_state
"""

from pathlib import Path

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.model.params import Params, named
from npgpt.ops.linear_cross_entropy import IGNORED
from npgpt.system.atomic import atomic_write
from npgpt.weights import llmc
from npgpt.weights.mapped import MappedFile, MappedTensor

MAGIC, VERSION = 20240327, 2
HEADER = 4 * 256  # bytes


def is_debug_state(head: bytes) -> bool:
    """Return True if the first bytes of a file are those of a debug state."""
    return head[:4] == MAGIC.to_bytes(4, "little")


def read(path: str | Path, config: Config) -> dict[str, Array]:
    """Return tokens, targets, logits, loss and gradients by npgpt's names, views of the file.

    `config`: of the probe. Raises InputError if the file is truncated, or of another model.
    """
    file = MappedFile(path)
    if file.data.size < HEADER:
        raise InputError(
            f"{path} is truncated: {file.data.size:,} bytes, the header alone has {HEADER:,}"
        )
    _, version, B, T = file.data[:16].view("<i4").tolist()
    if version != VERSION:
        raise InputError(f"{path} has version {version}; supported is {VERSION}")
    if not (0 < B < 1 << 20 and 0 < T <= config.context_length):
        raise InputError(
            f"{path} is of a batch of {B} x {T} tokens, but the probe's model reads at most "
            f"{config.context_length} in a row"
        )
    if not config.tied:
        raise InputError(f"{path} has a tied output head, the probe's is not tied")
    ids = [MappedTensor(file, HEADER + i * 4 * B * T, (B, T), "int32") for i in (0, 1)]
    logits = MappedTensor(file, HEADER + 8 * B * T, (B, T, config.vocab_size), "float32")
    loss = MappedTensor(file, logits.start + logits.nbytes, (), "float32")
    rows, start = llmc.padded_rows(config), loss.start + loss.nbytes
    stacked = llmc.map_stacked(config, rows, file, "float32", start)
    end = max(tensor.start + tensor.nbytes for tensor in stacked.values())
    if end != file.data.size:
        raise InputError(
            f"{path} has {file.data.size:,} bytes, but must have {end:,} for the probe's model and "
            f"{B} x {T} tokens: it is truncated, or of another model"
        )
    names = dict(zip(("tokens", "targets", "logits", "loss"), (*ids, logits, loss), strict=True))
    found = {name: tensor.raw() for name, tensor in names.items()}
    for name, tensor in llmc.split_layers(stacked, config).items():
        array = tensor.raw()
        found[f"grad/{name}"] = array.T if llmc.is_matrix(name) else array
    return found


def write(path: str | Path, config: Config, tree: Params, tokens: Array, targets: Array) -> None:
    """Write the numbers that npgpt computes, in float32, for llm.c's test_gpt2 to expect.

    Raises InputError if targets are ignored or the head is not tied, RunError if writing fails.
    """
    if not is_writable(config, targets):
        raise InputError(
            f"llm.c cannot compute with this: {count_ignored(targets)} targets are ignored, and "
            f"the output head is {'tied' if config.tied else 'not tied'}"
        )
    model = GPT.from_params(config, tree, ops="numpy")
    loss, gradients = model.loss_and_gradients(tokens, targets)
    header = np.zeros(HEADER // 4, "<i4")
    header[:4] = MAGIC, VERSION, *tokens.shape
    ids = (array.astype("<i4") for array in (tokens, targets))
    numbers = (np.asarray(found, "<f4", order="C") for found in (model.logits(tokens), loss))
    with atomic_write(path) as file:
        for array in (header, *ids, *numbers):
            file.write(array.data)
        llmc.write_stacked(file, config, dict(named(gradients)), "float32")


def is_writable(config: Config, targets: Array) -> bool:
    """Return True if llm.c can compute with such a model and batch."""
    return config.tied and not count_ignored(targets)


def count_ignored(targets: Array) -> int:
    """Return the number of targets that are ignored."""
    return int(np.count_nonzero(targets == IGNORED))
