"""Small checkpoints, valid and forged."""

import h5py
import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.errors import WeightFileError
from npgpt.model import params
from npgpt.model.params import named
from npgpt.weights import checkpoint, checksum

SMALL = dict(vocab_size=5, context_length=3, n_layer=2, n_head=2, n_embd=4)


def model_of(dtype=np.float32, seed=1, **changes):
    config = npgpt.Config(**SMALL | changes)
    return npgpt.GPT(config, seed=seed, dtype=dtype, ops=ops, tokenizer="byte")


def training_of(model, *, order=range(7)):
    moments = [params.map_leaves(model.params, lambda a, k=k: a + k) for k in (1, 2)]
    rng = npgpt.Generator(9, ops=ops)
    rng.normal((3,))
    return checkpoint.TrainingState(
        {"step": 3, "history": [{"loss": 0.1 + 0.2}], "prompt": "\u00e9\U0001f600"},
        rng.state,
        np.array(order, np.int64)[::-1].copy(),
        dict(zip("mv", moments, strict=True)),
    )


def assert_same(tree, expected):
    pairs = list(zip(named(tree), named(expected), strict=True))
    assert pairs
    for (name, a), (other, b) in pairs:
        assert (name, a.dtype, a.shape, a.tobytes()) == (other, b.dtype, b.shape, b.tobytes())


def with_new_footer(path, change):
    """Apply `change(h5py.File)` to a file and write a valid footer, as a forger would."""
    path.write_bytes(without_footer(path.read_bytes()))
    with h5py.File(path, "r+") as file:
        change(file)
    add_footer(path)


def add_footer(path):
    """Append a valid footer to any HDF5 file, also to one that npgpt would not write."""
    blocks = []

    def add(_, node):
        if isinstance(node, h5py.Dataset) and node.dtype.kind == "f":
            start, size = node.id.get_offset(), node.id.get_storage_size()
            if start is not None and size:
                blocks.append((start, size))

    with h5py.File(path) as file:
        file.visititems(add)
    content = np.frombuffer(path.read_bytes(), np.uint8)
    path.write_bytes(content.tobytes() + checksum.make_footer(content, blocks))


def without_footer(raw):
    """Return the bytes that HDF5 wrote."""
    assert raw[-checksum.FOOTER_END :].startswith(checksum.FOOTER_MAGIC)
    blocks = int.from_bytes(raw[-12:-4], "little")
    return raw[: len(raw) - checksum.FOOTER_END - 20 * blocks]


def refused(path, says, *, read=checkpoint.read_training):
    with pytest.raises(WeightFileError, match=says) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def read_and_verify(path):
    return checkpoint.read_checkpoint(path, verify=True)
