"""Forged checkpoints with a valid checksum footer are refused."""

import json

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import npgpt
from npgpt.errors import InputError
from npgpt.model import params
from npgpt.model.params import named
from npgpt.weights import checkpoint, hdf5
from parity_tests.support.checkpoints import SMALL, refused, with_new_footer, without_footer


@pytest.mark.slow
@hypothesis_settings(max_examples=100, deadline=None)
@given(data=st.data(), value=st.integers(0, 255))
def test_forged_json_is_read_or_refused(raw, data, value):
    """One byte of the JSON is changed and the footer is valid."""
    content, path = bytearray(without_footer(raw[0])), raw[1]
    begin = data.draw(st.sampled_from([b'{"step"', b'{"vocab_size"']))
    start = content.index(begin)
    end = content.index({b'{"step"': b'"}', b'{"vocab_size"': b"}"}[begin], start)
    content[data.draw(st.integers(start, end))] = value
    path.write_bytes(content)
    hdf5.append_footer(path)
    try:
        checkpoint.read_training(path)
    except InputError as error:
        assert "\n" not in str(error)


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


WTE, ORDER = "parameters/wte.weight", "training/order"
ZEROS = np.zeros((5, 4), np.float32)
EXTERNAL = dict(external=[("/etc/passwd", 0, 80)])
FORGERIES = {
    "another format": (with_attribute("format", "llama"), "HDF5 file, but not a checkpoint of"),
    "a list for a format": (with_attribute("format", ["npgpt"] * 2), "not a checkpoint of npgpt"),
    "another version": (with_attribute("version", 2), "format version 2; this npgpt reads 1"),
    "versions": (with_attribute("version", [1, 1]), "format version .1 1.; this npgpt reads 1"),
    "no version": (lambda file: file.attrs.__delitem__("version"), "version None"),
    "a number for a tokenizer": (with_attribute("tokenizer", 3), "tokenizer is .*3"),
    "no config": (lambda file: file.attrs.__delitem__("config"), "config is not JSON"),
    "a config of brackets": (with_attribute("config", "[" * 60_000), "config is not JSON"),
    "a config of nothing": (with_attribute("config", "{}"), "config must have the fields cont"),
    "a config of a list": (with_attribute("config", "[1]"), "config must have the fields"),
    "three heads": (with_config(n_head=3), "in its config, n_embd is 4 and n_head is 3"),
    "a word for a number": (with_config(n_embd="4"), "in its config, n_embd is '4'"),
    "another width": (
        with_config(n_embd=6),
        r"wte.weight has shape \(5, 4\), its config requires \(5, 6\)",
    ),
    "untied": (with_config(tied=False), "parameters has no 'lm_head.weight'"),
    "fewer layers": (with_config(n_layer=1), "parameters has 'h.1.* its config does not"),
    "more layers": (with_config(n_layer=3), "parameters has no 'h.2"),
    "layers without end": (with_config(n_layer=10**12), r"too few for 1000000000000 layers"),
    "width without end": (
        with_config(n_embd=2**40),
        r"wte.weight has shape \(5, 4\), its config requires \(5, 1099511627776\)",
    ),
    "a missing parameter": (
        lambda file: file.__delitem__("parameters/h.1.ln_2.bias"),
        "parameters has no 'h.1.ln_2.bias'",
    ),
    "a surplus parameter": (
        lambda file: file["parameters"].create_dataset("h.9.bias", data=ZEROS),
        "parameters has 'h.9.bias', which its config does not",
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
        "wpe.weight is float64, the other parameters float32",
    ),
    "whole numbers": (replaced(WTE, dataset(ZEROS.astype("i4"))), "wte.weight is int32, expected"),
    "float16": (replaced(WTE, dataset(ZEROS.astype("f2"))), "wte.weight is float16, expected"),
    "the other byte order": (replaced(WTE, dataset(ZEROS.astype(">f4"))), "wte.weight is >f4"),
    "strings": (replaced(WTE, dataset([["a"] * 4] * 5)), "wte.weight is not contiguous"),
    "a group": (
        replaced(WTE, lambda group, name: group.create_group(name)),
        "'wte.weight' is not a plain dataset",
    ),
    "a soft link": (
        replaced(WTE, link(h5py.SoftLink("/training/m/wte.weight"))),
        "'wte.weight' is not a plain dataset",
    ),
    "a link to another file": (
        replaced(WTE, link(h5py.ExternalLink("other.h5", "/x"))),
        "'wte.weight' is not a plain dataset",
    ),
    "a link for a group": (
        lambda file: file.move("parameters", "p") or link(h5py.SoftLink("/p"))(file, "parameters"),
        "'parameters' is not a plain group",
    ),
    "bytes in another file": (
        replaced(WTE, lambda g, n: g.create_dataset(n, (5, 4), "f4", **EXTERNAL)),
        "wte.weight is not contiguous",
    ),
    "chunks": (replaced(WTE, dataset(ZEROS, chunks=(5, 4))), "wte.weight is not contiguous"),
    "gzip": (
        replaced(WTE, dataset(ZEROS, compression="gzip")),
        "wte.weight is not contiguous",
    ),
    "nothing written": (
        replaced(WTE, lambda g, n: g.create_dataset(n, (5, 4), "f4")),
        "wte.weight is not contiguous: 0 bytes",
    ),
    "no data space": (
        replaced(WTE, lambda g, n: g.create_dataset(n, data=h5py.Empty("f4"))),
        "wte.weight is not contiguous",
    ),
    "no run": (lambda file: file.__delitem__("training"), "has a model but no training run"),
    "no state": (lambda file: file.__delitem__("training/state"), "training has no 'state'"),
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
        del file[WTE]
        h5py.h5d.create(file["parameters"].id, b"wte.weight", h5py.h5t.IEEE_F32LE, space, plist)

    with_new_footer(saved, change)
    refused(saved, "wte.weight is not contiguous: 0 bytes for shape .549755813888, 4")


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
    hdf5.append_footer(path)
    refused(path, "its parameters overlap", read=checkpoint.read_checkpoint)
