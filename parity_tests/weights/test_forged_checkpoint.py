"""Forged checkpoints with a valid checksum footer are refused."""

import json

import h5py
import numpy as np
import pytest

import npgpt
from npgpt.model import params
from npgpt.model.params import named
from npgpt.weights import checkpoint
from parity_tests.support.checkpoints import (
    SMALL,
    add_footer,
    refused,
    with_new_footer,
)

# Checkpoints with wrong contents


def with_attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def with_config(**changes):
    def change(file):
        file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | changes)

    return change


def replaced(name, make):
    """Replace `name` by the result of `make(group, last part of the name)`."""

    def change(file):
        group, last = name.rsplit("/", 1)
        del file[name]
        make(file[group], last)

    return change


def dataset(data, **options):
    return lambda group, name: group.create_dataset(name, data=data, **options)


def link(target):
    return lambda group, name: group.__setitem__(name, target)


ANOTHER_TYPE = "parameters/wte.weight has another type than uint8, int64, float32, float64"
WTE, ORDER = "parameters/wte.weight", "training/order"
ZEROS = np.zeros((5, 4), np.float32)
EXTERNAL = dict(external=[("/etc/passwd", 0, 80)])
FORGERIES = {
    "another format": (with_attribute("format", "llama"), "HDF5 file, but not a checkpoint of"),
    "a list for a format": (with_attribute("format", ["npgpt"] * 2), "'format' is an array"),
    "another version": (with_attribute("version", 2), "format version 2; this npgpt reads 1"),
    "versions": (with_attribute("version", [1, 1]), "its attribute 'version' is an array"),
    "no version": (lambda file: file.attrs.__delitem__("version"), "version None"),
    "a control sequence in a tokenizer": (
        with_attribute("tokenizer", "byte\x1b]52;c;aGVsbG8=\x07"),
        r"its tokenizer is 'byte\\x1b.*', expected a name",
    ),
    "a text that is not UTF-8": (
        with_attribute("tokenizer", np.array(b"\xff\xfe", h5py.string_dtype())),
        "its 'tokenizer' is not UTF-8",
    ),
    "a long text": (with_attribute("tokenizer", "a" * 70_000), "'tokenizer' has 70,000 bytes"),
    "a fixed length": (
        with_attribute("tokenizer", np.bytes_(b"byte")), "'tokenizer' is no text and no integer",
    ),
    "a fraction for a version": (
        with_attribute("version", 1.0), "'version' is no text and no integer",
    ),
    "an attribute of a group": (
        lambda file: with_attribute("version", 1)(file["training"]),
        "'training' has the messages",
    ),
    "an attribute of a dataset": (
        lambda file: with_attribute("version", 1)(file[WTE]),
        "'parameters/wte.weight' has the messages",
    ),
    "a number for a tokenizer": (with_attribute("tokenizer", 3), "tokenizer is .*3"),
    "no config": (lambda file: file.attrs.__delitem__("config"), "config is not JSON"),
    "a config of brackets": (with_attribute("config", "[" * 60_000), "config is not JSON"),
    "a config of nothing": (with_attribute("config", "{}"), "config must have the fields cont"),
    "a config of a list": (with_attribute("config", "[1]"), "config must have the fields"),
    "a list for a width": (
        with_config(n_embd=[]), r"in its config, n_embd is \[\], but must be an integer",
    ),
    "a width of 401 digits": (with_config(n_embd=10**400), "not JSON .the number 10{39}, which"),
    "a width of 20 digits": (with_config(n_embd=10**19 * 9), "n_embd is an integer of 67 bits"),
    "a width below 0": (with_config(n_embd=-4), "n_embd is -4, but must be at least 1"),
    "no end of a rate": (with_config(dropout=np.inf), "not JSON .it contains Infinity"),
    "a rate that is none": (with_config(dropout=np.nan), "not JSON .it contains NaN"),
    "three heads": (with_config(n_head=3), "in its config, n_embd is 4 and n_head is 3"),
    "a word for a number": (with_config(n_embd="4"), "in its config, n_embd is '4'"),
    "another width": (
        with_config(n_embd=6),
        r"wte.weight has shape \(5, 4\), its config requires \(5, 6\)",
    ),
    "untied": (with_config(tied=False), "has no parameters/lm_head.weight, which its"),
    "fewer layers": (with_config(n_layer=1), "has 'parameters/h.1.*, which its config"),
    "more layers": (with_config(n_layer=3), "has no parameters/h.2.*, which its config requires"),
    "layers without end": (with_config(n_layer=10**12), r"too few for 1000000000000 layers"),
    "width without end": (
        with_config(n_embd=2**40),
        r"wte.weight has shape \(5, 4\), its config requires \(5, 1099511627776\)",
    ),
    "a missing parameter": (
        lambda file: file.__delitem__("parameters/h.1.ln_2.bias"),
        "has no parameters/h.1.ln_2.bias, which",
    ),
    "a surplus parameter": (
        lambda file: file["parameters"].create_dataset("h.9.bias", data=ZEROS),
        "has 'parameters/h.9.bias', which its config does not have",
    ),
    "a wrong shape": (
        replaced(WTE, dataset(np.zeros((5, 3), np.float32))),
        r"wte.weight has shape \(5, 3\), its config requires \(5, 4\)",
    ),
    "a wrong shape of a moment": (
        replaced("training/v/ln_f.weight", dataset(np.zeros(5, np.float32))),
        r"ln_f.weight has shape \(5,\), its config requires \(4,\)",
    ),
    "one parameter of float64": (
        replaced("parameters/wpe.weight", dataset(np.zeros((3, 4)))),
        "parameters/wpe.weight is float64; parameters must be float32, or all of them float64",
    ),
    "whole numbers": (
        replaced(WTE, dataset(ZEROS.astype("i8"))),
        "parameters/wte.weight is int64; parameters must be float32",
    ),
    "short whole numbers": (replaced(WTE, dataset(ZEROS.astype("i4"))), ANOTHER_TYPE),
    "float64 moments": (
        lambda file: [replaced(f"training/v/{name}", dataset(array[:].astype(np.float64)))(file)
                      for name, array in file["training/v"].items()],
        "training/v/.* is float64; moments must have the dtype of the parameters, float32",
    ),
    "float16": (replaced(WTE, dataset(ZEROS.astype("f2"))), ANOTHER_TYPE),
    "the other byte order": (replaced(WTE, dataset(ZEROS.astype(">f4"))), ANOTHER_TYPE),
    "strings": (replaced(WTE, dataset([["a"] * 4] * 5)), ANOTHER_TYPE),
    "a group": (
        replaced(WTE, lambda group, name: group.create_group(name)),
        "has no parameters/wte.weight, which its config requires",
    ),
    "a soft link": (
        replaced(WTE, link(h5py.SoftLink("/training/m/wte.weight"))),
        "'parameters/wte.weight' is a symbolic link",
    ),
    "a link to another file": (
        replaced(WTE, link(h5py.ExternalLink("other.h5", "/x"))),
        "'parameters' has a message of type 2 ",
    ),
    "a link for a group": (
        lambda file: file.move("parameters", "p") or link(h5py.SoftLink("/p"))(file, "parameters"),
        "'parameters' is a symbolic link",
    ),
    "bytes in another file": (
        replaced(WTE, lambda g, n: g.create_dataset(n, (5, 4), "f4", **EXTERNAL)),
        "'parameters/wte.weight' has a message of type 7 ",
    ),
    "chunks": (replaced(WTE, dataset(ZEROS, chunks=(5, 4))), "wte.weight is not contiguous"),
    "gzip": (
        replaced(WTE, dataset(ZEROS, compression="gzip")),
        "'parameters/wte.weight' has a message of type 11 ",
    ),
    "nothing written": (
        replaced(WTE, lambda g, n: g.create_dataset(n, (5, 4), "f4")),
        "parameters/wte.weight is not stored",
    ),
    "no data space": (
        replaced(WTE, lambda g, n: g.create_dataset(n, data=h5py.Empty("f4"))),
        "wte.weight has a dataspace of version 2",
    ),
    "no run": (lambda file: file.__delitem__("training"), "has a model but no training run"),
    "no state": (lambda file: file.__delitem__("training/state"), "has no 'training/state'"),
    "a state of a list": (
        replaced("training/state", dataset(np.frombuffer(b"[]", np.uint8))),
        "state is not a JSON object",
    ),
    "an order that is none": (
        replaced(ORDER, dataset(np.array([0, 1, 1]))),
        "order of the windows is not a permutation",
    ),
    "an order of fractions": (
        replaced(ORDER, dataset(np.array([0.0, 1.0]))),
        r"order is float64 of shape \(2,\), expected a vector of int64",
    ),
    "a table for an order": (
        replaced(ORDER, dataset(np.zeros((2, 2), np.int64))),
        r"order is int64 of shape \(2, 2\), expected a vector",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_file_is_refused(saved, kind):
    change, says = FORGERIES[kind]
    with_new_footer(saved, change)
    refused(saved, says)


def test_arrays_that_claim_more_than_the_file_take_no_memory(saved):
    """A config and a dataset of 8 TB that fit each other, without the bytes."""

    def change(file):
        with_config(vocab_size=2**39)(file)
        space = h5py.h5s.create_simple((2**39, 4))
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
        plist.set_obj_track_times(False)
        del file[WTE]
        h5py.h5d.create(file["parameters"].id, b"wte.weight", h5py.h5t.IEEE_F32LE, space, plist)

    with_new_footer(saved, change)
    refused(saved, "parameters/wte.weight is not stored")


def test_parameters_that_share_their_bytes_take_no_memory(tmp_path):
    """Hard links to one array take no space in the file, but each would be read separately."""
    path = tmp_path / "model.h5"
    config = npgpt.Config(**SMALL | dict(n_embd=64, n_layer=40))
    names = dict(named(params.shapes(config)))
    with h5py.File(path, "w") as file:
        file.attrs["format"], file.attrs["version"] = "npgpt", 1
        file.attrs["config"], file.attrs["tokenizer"] = json.dumps(vars(config)), ""
        group, first = file.create_group("parameters"), {}
        for name, shape in names.items():
            if shape in first:
                group[name] = group[first[shape]]
            else:
                first[shape] = name
                group.create_dataset(name, data=np.zeros(shape, np.float32))
    add_footer(path)
    refused(path, "its structures overlap at byte 7,344", read=checkpoint.read_checkpoint)
