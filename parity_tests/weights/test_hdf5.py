"""The reader of HDF5 against the HDF5 library, and against files that would hold it up."""

import itertools
import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.errors import RunError, WeightFileError
from npgpt.training.events import Evaluation
from npgpt.weights import checkpoint, hdf5, hdf5_writer
from npgpt.weights.hdf5 import read_hdf5
from parity_tests.support import fuzz
from parity_tests.support.checkpoints import (
    SMALL,
    add_footer,
    model_of,
    refused,
    training_of,
    with_new_footer,
    without_footer,
)


def library_contents(path):
    """Return the attributes and the arrays that the HDF5 library reads."""
    arrays = {}

    def add(name, node):
        if isinstance(node, h5py.Dataset):
            arrays[name] = node[:]

    with h5py.File(path) as file:
        file.visititems(add)
        return dict(file.attrs), arrays


def assert_read_as_by_the_library(path):
    contents = read_hdf5(path, verify=True)
    attributes, arrays = library_contents(path)
    assert contents.attributes == attributes
    assert contents.tensors.keys() == arrays.keys()
    for name, expected in arrays.items():
        found = contents.tensors[name].raw()
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
        assert found.tobytes() == expected.tobytes(), name


KINDS = [
    *itertools.product(
        [np.float32, np.float64], [True, False], [True, False], [None, range(0), range(7)]
    )
]


@pytest.mark.parametrize(("dtype", "tied", "qkv_bias", "order"), KINDS)
def test_every_kind_of_checkpoint_is_read_as_by_the_library(tmp_path, dtype, tied, qkv_bias, order):
    model, path = model_of(dtype, tied=tied, qkv_bias=qkv_bias), tmp_path / "checkpoint.h5"
    state = None if order is None else training_of(model, order=order)
    checkpoint.write(path, model, state)
    assert_read_as_by_the_library(path)


@pytest.mark.parametrize("n_layer", [1, 3, 20, 40])
def test_more_arrays_than_one_node_of_a_tree_has(tmp_path, n_layer):
    """A node has at most 32 children, each with at most 8 arrays."""
    path = tmp_path / "model.h5"
    model_of(n_layer=n_layer).save(path)
    assert_read_as_by_the_library(path)
    assert (b"TREE\0\1" in path.read_bytes()) == (n_layer > 3)


def test_a_model_without_a_tokenizer_and_one_with_a_long_name(tmp_path):
    for name in (None, "\u03b1" * 40):
        model = npgpt.GPT(npgpt.Config(**SMALL), ops=ops, tokenizer=name)
        model.save(tmp_path / "model.h5")
        assert_read_as_by_the_library(tmp_path / "model.h5")
        assert checkpoint.read_checkpoint(tmp_path / "model.h5").tokenizer == name


def test_a_file_that_the_library_has_changed(saved):
    """New attributes continue the header elsewhere; a deleted array leaves a hole."""

    def change(file):
        file.attrs["tokenizer"] = "gpt2"
        for i in range(20):
            file.attrs[f"note {i}"] = i
        array = file["training/order"][:]
        del file["training/order"]
        file["training/order"] = array

    with_new_footer(saved, change)
    assert_read_as_by_the_library(saved)
    assert checkpoint.read_training(saved)[0].tokenizer == "gpt2"


@pytest.mark.parametrize("version", ["v108", "v110", "latest"])
def test_later_formats_of_hdf5_are_refused(tmp_path, version):
    model, path = model_of(), tmp_path / "model.h5"
    with h5py.File(path, "w", libver=version) as file:
        checkpoint.fill(file, model, None)
    add_footer(path)
    refused(path, "its superblock is of another version", read=checkpoint.read_checkpoint)


def test_the_library_is_imported_to_write_only(saved):
    program = (
        "import sys\n"
        "from npgpt.weights import checkpoint, formats\n"
        f"path = {str(saved)!r}\n"
        "formats.open_weights(path, verify=True), checkpoint.read_training(path)\n"
        "print('h5py' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (said.stdout, said.stderr) == ("False\n", "")


# What would not end, or take much memory


def patched(path, old, new, *, count=1):
    """Replace bytes outside the numbers and write a valid footer."""
    content = without_footer(path.read_bytes())
    assert content.count(old) == count
    blocks = [
        (tensor.start, tensor.nbytes)
        for tensor in read_hdf5(path).tensors.values()
        if tensor.dtype.startswith("float")
    ]
    content = np.frombuffer(content.replace(old, new), np.uint8)
    path.write_bytes(content.tobytes() + hdf5_writer.make_footer(content, blocks))


def address(number):
    return number.to_bytes(8, "little")


def test_a_header_that_continues_in_itself(saved):
    content = saved.read_bytes()
    message = content[0x70:0x88]  # the second message of the root group, at 96
    assert message[:4] == b"\x10\0\x10\0"
    patched(saved, message, message[:8] + address(0x70) + address(24))
    refused(saved, "'' has more messages than its header says")


def test_a_node_that_is_its_own_child(tmp_path):
    path = tmp_path / "model.h5"
    model_of(n_layer=20).save(path)
    content = path.read_bytes()
    at = content.index(b"TREE\0\1")
    node = content[at : at + 40]
    patched(path, node, node[:32] + address(at))
    refused(path, "the levels of a B-tree differ", read=checkpoint.read_checkpoint)


def test_a_group_that_is_in_itself(saved):
    """The header of the group `training` is also that of its member `m`."""
    with h5py.File(saved) as file:
        group, member = (
            h5py.h5o.get_info(file[name].id).addr for name in ("training", "training/m")
        )
    patched(saved, address(member), address(group))
    refused(saved, "'training/m/m/m' is nested too deeply")


def test_a_name_that_is_a_path(saved):
    patched(saved, b"random_state\0", b"random/state\0")
    refused(saved, "'training' has a member named 'random/state'")


def test_structures_beyond_the_limit(saved, monkeypatch):
    size = 54_023 - sum(tensor.nbytes for tensor in read_hdf5(saved).tensors.values())
    monkeypatch.setattr(hdf5, "MAX_STRUCTURE", size)
    checkpoint.read_training(saved)
    monkeypatch.setattr(hdf5, "MAX_STRUCTURE", 20_000)
    refused(saved, "it has over 20,000 bytes besides the numbers")
    before = saved.read_bytes()
    with pytest.raises(RunError, match=r"over 20,000 bytes .*; the previous file is unchanged"):
        model_of(n_layer=20).save(saved)
    assert saved.read_bytes() == before


def test_a_state_that_could_not_be_read_again_is_not_written(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_MEMORY", 1000)
    model, state = model_of(), training_of(model_of())
    state.state["history"] = [{"step": i} for i in range(5)]
    before = saved.read_bytes()
    with pytest.raises(RunError, match=r"6 values in 7 lists and objects may take 2,0\d\d bytes"):
        checkpoint.write(saved, model, state)
    assert saved.read_bytes() == before


BOMBS = {  # pieces of a list in a state: too many, and as many as are read
    "objects": b"{},",
    "small objects": b'{"":0},',
    "objects in objects": b'{"":{"":{"":{"":{"":0}}}}},',
    "objects of numbers": b'{"a":1.5,"b":1.5,"c":1.5,"d":1.5,"e":1.5,"f":1.5},',
    "objects of strings": b'{"a":"11","b":"22","c":"33","d":"44","e":"55","f":"66"},',
    "strings": b'"0123456",',
    "emoji": rb'"\ud83d\ude00",',
    "fractions": b"1.00000001,",
    "large integers": b"9999999999999999999,",
    "lists": b"[],",
    "lists in lists": b"[" * 900 + b"]" * 900 + b",",
    "evaluations": json.dumps(vars(Evaluation(99999, 999, 10**8, 5 / 9, 5 / 9, 4e-4, 1e5 / 3)))
    .encode() + b",",
}  # fmt: skip


def with_state(path, text):
    """Write another text as the state of the run."""

    def change(file):
        del file["training/state"]
        file["training/state"] = np.frombuffer(text, np.uint8)

    with_new_footer(path, change)


@pytest.mark.parametrize("piece", BOMBS.values(), ids=BOMBS)
def test_a_state_takes_no_more_memory_than_it_may(saved, monkeypatch, piece):
    """With a tenth of the limit, for a tenth of the time."""
    monkeypatch.setattr(checkpoint, "MAX_MEMORY", limit := checkpoint.MAX_MEMORY // 10)
    values, containers = piece.count(b","), piece.count(b"{") + piece.count(b"[")
    most = limit // (
        len(piece) + checkpoint.VALUE * values + checkpoint.CONTAINER * containers
    )  # fmt: skip
    with_state(saved, b'{"a": [' + piece * (most - 1) + b"0]}")
    assert fuzz.peak(lambda: checkpoint.read_state(saved)) < limit + 300_000
    with_state(saved, b'{"a": [' + piece * (most + 1) + b"0]}")
    refused(saved, "may take 5,.* at most 5,000,000 are read", read=checkpoint.read_state)


def test_a_state_of_about_50_000_evaluations_is_read(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_MEMORY", checkpoint.MAX_MEMORY // 10)
    with_state(saved, b'{"a": [' + BOMBS["evaluations"] * 4_900 + b"0]}")
    assert len(checkpoint.read_state(saved)["a"]) == 4_901


@pytest.mark.parametrize(
    "text, says",
    [
        (b'{"a": [' + b"{}," * (1 << 24) + b"0]}", "state cannot be read: training/state|at most"),
        (b"{" + b",".join(b'"%d":0' % i for i in range(501)) + b"}", "it has over 500 names"),
        (b'{"a":"\xc3\xa9"}', "its state cannot be read: 'ascii' codec"),
    ],
    ids=["64 MB", "names", "not ASCII"],
)
def test_a_state_that_could_take_more(saved, text, says):
    with_state(saved, text)
    peak = fuzz.peak(lambda: refused(saved, says, read=checkpoint.read_state))
    assert peak < 51_000_000


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff{}", b'{"a": 1e999}'])
def test_a_state_that_is_not_json(saved, text):
    with_state(saved, text)
    with pytest.raises(WeightFileError, match=r"its state (is not JSON|cannot be read)"):
        checkpoint.read_state(saved)
