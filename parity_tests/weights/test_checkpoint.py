"""Checkpoints: every bit comes back, nothing strange gets in, and a file is whole at any moment."""

import json
import os
import random
import re
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import npgpt
from npgpt import ops
from npgpt.errors import InputError, RunError
from npgpt.model import params
from npgpt.model.params import named
from npgpt.weights import checkpoint, checksum, hdf5

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
        *moments,
    )


def assert_same(tree, expected):
    pairs = list(zip(named(tree), named(expected), strict=True))
    assert pairs
    for (name, a), (other, b) in pairs:
        assert (name, a.dtype, a.shape, a.tobytes()) == (other, b.dtype, b.shape, b.tobytes())


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a run."""
    model, path = model_of(), tmp_path / "checkpoint.h5"
    checkpoint.write(path, model, training_of(model))
    return path


def resealed(path, change):
    """The file after `change(h5py.File)`, its seal made anew: what a forger would hand over."""
    path.write_bytes(unsealed(path.read_bytes()))
    with h5py.File(path, "r+") as file:
        change(file)
    hdf5.seal(path)


def unsealed(raw):
    """What HDF5 itself wrote."""
    assert raw[-checksum.TAIL :].startswith(checksum.SEAL)
    blocks = int.from_bytes(raw[-12:-4], "little")
    return raw[: len(raw) - checksum.TAIL - 20 * blocks]


def refused(path, says, *, read=checkpoint.read_training):
    with pytest.raises(InputError, match=says) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


# There and back


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_a_model_comes_back_bit_by_bit(tmp_path, dtype, tied, qkv_bias):
    model = model_of(dtype, tied=tied, qkv_bias=qkv_bias, dropout=0.1)
    model.params.ln_f.bias[:] = [-0.0, np.finfo(dtype).smallest_subnormal, np.nan, np.inf]
    model.save(tmp_path / "model.h5")
    again = npgpt.load(tmp_path / "model.h5")
    assert_same(again.params, model.params)
    assert (again.config, again.tokenizer, again.dtype) == (model.config, "byte", dtype)
    assert [p.name for p in tmp_path.iterdir()] == ["model.h5"]


def test_a_model_without_a_tokenizer_has_none(tmp_path):
    model = npgpt.GPT(npgpt.Config(**SMALL), ops=ops)
    model.save(tmp_path / "model.h5")
    assert npgpt.load(tmp_path / "model.h5").tokenizer is None


@pytest.mark.parametrize("order", [range(7), range(0)], ids=["mid-epoch", "between epochs"])
def test_a_run_comes_back_bit_by_bit(tmp_path, order):
    model = model_of(np.float64, tied=False)
    state, path = training_of(model, order=order), tmp_path / "run.h5"
    checkpoint.write(path, model, state)
    again, read = checkpoint.read_training(path)
    assert_same(again.params, model.params)
    assert_same(read.m, state.m)
    assert_same(read.v, state.v)
    assert read.state == state.state
    for name in ("random_state", "order"):
        a, b = getattr(read, name), getattr(state, name)
        assert (a.dtype, a.tolist()) == (b.dtype, b.tolist())
    generators = [npgpt.Generator.from_state(s.random_state, ops=ops) for s in (read, state)]
    assert len({g.uniform(()).item() for g in generators}) == 1
    assert checkpoint.read_state(path) == state.state
    source = checkpoint.read_checkpoint(path)
    assert (source.config, source.dtype, source.tokenizer) == (model.config, np.float64, "byte")
    assert_same(source.params(), model.params)


def test_hdf5_itself_reads_the_file(saved):
    """Another program needs no npgpt: the names are the released checkpoint's."""
    with h5py.File(saved) as file:
        assert file["parameters/h.1.mlp.c_fc.weight"].shape == (4, 16)
        assert json.loads(file.attrs["config"])["n_embd"] == 4


# What is no checkpoint


def test_a_file_that_is_not_there(tmp_path):
    refused(tmp_path / "no.h5", "there is no file")
    refused(tmp_path, "cannot be read: it is not a file")


@pytest.mark.parametrize("content", [b"", b"hello, world\n" * 9, b"\x80\x04K\x01.", b"\x89HDF"])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "strange.h5"
    path.write_bytes(content)
    refused(path, "not an HDF5 file: it begins with b")


@pytest.mark.parametrize("share", [0.0003, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_a_cut_file(saved, share):
    raw = saved.read_bytes()
    saved.write_bytes(raw[: max(9, int(share * len(raw)))])
    refused(saved, "is cut, or not a checkpoint")


@pytest.mark.parametrize("missing", [1, 4, 5, 15, 16, 17, 4096])
def test_a_file_that_lost_its_last_bytes(saved, missing):
    raw = saved.read_bytes()
    saved.write_bytes(raw[:-missing])
    refused(saved, "is cut, or not a checkpoint")
    saved.write_bytes(raw[: len(raw) - missing] + bytes(missing))
    refused(saved, "is cut, or not a checkpoint|is damaged")


def test_a_longer_file(saved):
    saved.write_bytes(saved.read_bytes() + b"\n")
    refused(saved, "is cut, or not a checkpoint")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The bytes of a checkpoint, and a place for damaged copies."""
    folder = tmp_path_factory.mktemp("damaged")
    model = model_of()
    checkpoint.write(folder / "whole.h5", model, training_of(model))
    return (folder / "whole.h5").read_bytes(), folder / "damaged.h5"


@hypothesis_settings(max_examples=200, deadline=None)
@given(places=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bits_are_noticed(raw, places):
    """Without the seal, HDF5 crashes on some of these files and hangs on others."""
    content, path = bytearray(raw[0]), raw[1]
    for where, change in places:
        content[int(where * (len(content) - 1))] ^= change
    path.write_bytes(content)
    if bytes(content) == raw[0]:
        checkpoint.read_training(path)
        return
    refused(path, "damaged|cut|not an HDF5 file")
    refused(path, "damaged|cut|not an HDF5 file", read=read_and_verify)
    try:  # without the checksums of the numbers, nothing but numbers may be other ones
        found = checkpoint.read_checkpoint(path)
    except InputError as error:
        assert re.search("damaged|cut|not an HDF5 file", str(error))
    else:
        whole = checkpoint.read_checkpoint(path.with_name("whole.h5"))
        assert (found.config, found.tokenizer) == (whole.config, whole.tokenizer)
        places = (
            {n: t._replace(file=None) for n, t in s.parameters.items()} for s in (found, whole)
        )
        assert next(places) == next(places)
        assert checkpoint.read_state(path) == checkpoint.read_state(whole.path)


def read_and_verify(path):
    return checkpoint.read_checkpoint(path, verify=True)


def test_every_byte_is_under_a_checksum(raw):
    """One after the other, the seal's own included; every 13th of the rest."""
    content, path = raw
    seal = len(unsealed(content))
    path.write_bytes(content)
    with open(path, "r+b", buffering=0) as file:
        for at in [*range(0, seal, 13), *range(seal, len(content))]:
            file.seek(at)
            file.write(bytes([content[at] ^ 16]))
            refused(path, "damaged|cut|not an HDF5 file", read=read_and_verify)
            file.seek(at)
            file.write(content[at : at + 1])
    read_and_verify(path)


def test_damaged_numbers_are_found_when_all_are_read(saved):
    """By whoever trains with them, and by whoever asks."""
    content = saved.read_bytes()
    number = npgpt.load(saved).params.wte.weight[2, 1]
    at = content.index(number.tobytes())
    saved.write_bytes(content[: at + 2] + bytes([content[at + 2] ^ 1]) + content[at + 3 :])
    assert npgpt.load(saved).params.wte.weight[2, 1] != number
    says = r"is damaged: what is in its bytes [\d,]+ to [\d,]+ has the checksum .{8}, not .{8} as"
    refused(saved, says)
    refused(saved, says, read=read_and_verify)
    resealed(saved, lambda file: None)
    checkpoint.read_training(saved)


def test_more_arrays_than_a_seal_may_list(saved, monkeypatch):
    """The others are under the checksum of all the rest."""
    monkeypatch.setattr(checksum, "MOST_BLOCKS", 5)
    path = saved.with_name("other.h5")
    model = model_of()
    checkpoint.write(path, model, training_of(model))
    content = path.read_bytes()
    assert len(content) == len(saved.read_bytes()) - 20 * (3 * 28 - 5)
    checkpoint.read_training(path)
    at = content.rindex(model.params.ln_f.weight.tobytes())
    path.write_bytes(content[:at] + b"\1" + content[at + 1 :])
    refused(path, "is damaged: it has the checksum", read=checkpoint.read_checkpoint)
    refused(saved, r"is damaged: its seal cannot be of 84 arrays")


def test_blocks_that_overlap_or_lie_elsewhere(saved):
    content = saved.read_bytes()
    seal = len(unsealed(content))
    for start, size in [
        (0, 1 << 63),
        (1 << 63, 0),
        (seal, 1),
        ((1 << 64) - 1, 1),
        (seal - 1, 1),
    ]:
        block = start.to_bytes(8, "little") + size.to_bytes(8, "little")
        saved.write_bytes(content[:seal] + block + content[seal + 16 :])
        refused(saved, "is damaged: no array has the [\\d,]+ bytes from [\\d,]+$")


def test_a_file_that_is_replaced_while_it_is_read(saved, monkeypatch):
    """As a run does with its checkpoint: what was begun with is read to its end."""
    model, check = npgpt.load(saved), hdf5.check_seal

    def slowly(file):
        blocks = check(file)
        model_of(seed=2, n_embd=8).save(saved)
        return blocks

    monkeypatch.setattr(hdf5, "check_seal", slowly)
    source = checkpoint.read_checkpoint(saved)
    assert source.config == model.config
    assert_same(source.params(), model.params)
    assert checkpoint.read_checkpoint(saved).config.n_embd == 8


@hypothesis_settings(max_examples=100, deadline=None)
@given(data=st.data(), value=st.integers(0, 255))
def test_forged_json_is_read_or_refused(raw, data, value):
    """One byte changed under a valid seal, in what npgpt itself interprets."""
    content, path = bytearray(unsealed(raw[0])), raw[1]
    begin = data.draw(st.sampled_from([b'{"step"', b'{"vocab_size"']))
    start = content.index(begin)
    end = content.index({b'{"step"': b'"}', b'{"vocab_size"': b"}"}[begin], start)
    content[data.draw(st.integers(start, end))] = value
    path.write_bytes(content)
    hdf5.seal(path)
    try:
        checkpoint.read_training(path)
    except InputError as error:
        assert "\n" not in str(error)


# What is one, but not as it should be


def with_attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def with_config(**changes):
    def change(file):
        file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | changes)

    return change


def replaced(name, make):
    """`name` deleted, and what `make(group, last name)` makes in its place."""

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
    "another format": (with_attribute("format", "llama"), "HDF5, but not a checkpoint of npgpt"),
    "a list for a format": (with_attribute("format", ["npgpt"] * 2), "not a checkpoint of npgpt"),
    "another version": (with_attribute("version", 2), "format version 2; this npgpt reads 1"),
    "versions": (with_attribute("version", [1, 1]), "format version .1 1.; this npgpt reads 1"),
    "no version": (lambda file: file.attrs.__delitem__("version"), "version None"),
    "a number for a tokenizer": (with_attribute("tokenizer", 3), "tokenizer is .*3"),
    "no config": (lambda file: file.attrs.__delitem__("config"), "config is not JSON"),
    "a config of brackets": (with_attribute("config", "[" * 60_000), "config is not JSON"),
    "a config of nothing": (with_attribute("config", "{}"), "config has not the fields context_l"),
    "a config of a list": (with_attribute("config", "[1]"), "config has not the fields"),
    "three heads": (with_config(n_head=3), "in its config, n_embd is 4 and n_head is 3"),
    "a word for a number": (with_config(n_embd="4"), "in its config, n_embd is '4'"),
    "another width": (
        with_config(n_embd=6),
        r"wte.weight has shape \(5, 4\), its config asks for \(5, 6\)",
    ),
    "untied": (with_config(tied=False), "parameters has no 'lm_head.weight'"),
    "fewer layers": (with_config(n_layer=1), "parameters has 'h.1.* its config does not"),
    "more layers": (with_config(n_layer=3), "parameters has no 'h.2"),
    "layers without end": (with_config(n_layer=10**12), r"too few for 1000000000000 layers"),
    "width without end": (
        with_config(n_embd=2**40),
        r"wte.weight has shape \(5, 4\), its config asks for \(5, 1099511627776\)",
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
        r"wte.weight has shape \(5, 3\), its config asks for \(5, 4\)",
    ),
    "a wrong shape of a moment": (
        replaced("training/v/ln_f.weight", dataset(np.zeros(5, np.float32))),
        r"ln_f.weight has shape \(5,\), its config asks for \(4,\)",
    ),
    "one parameter of float64": (
        replaced("parameters/wpe.weight", dataset(np.zeros((3, 4)))),
        "wpe.weight is float64, the other parameters are float32",
    ),
    "whole numbers": (replaced(WTE, dataset(ZEROS.astype("i4"))), "wte.weight is int32, expected"),
    "float16": (replaced(WTE, dataset(ZEROS.astype("f2"))), "wte.weight is float16, expected"),
    "the other byte order": (replaced(WTE, dataset(ZEROS.astype(">f4"))), "wte.weight is >f4"),
    "strings": (replaced(WTE, dataset([["a"] * 4] * 5)), "wte.weight is not stored plainly"),
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
        "wte.weight is not stored plainly",
    ),
    "chunks": (replaced(WTE, dataset(ZEROS, chunks=(5, 4))), "wte.weight is not stored plainly"),
    "gzip": (
        replaced(WTE, dataset(ZEROS, compression="gzip")),
        "wte.weight is not stored plainly",
    ),
    "nothing written": (
        replaced(WTE, lambda g, n: g.create_dataset(n, (5, 4), "f4")),
        "wte.weight is not stored plainly: 0 bytes",
    ),
    "no data space": (
        replaced(WTE, lambda g, n: g.create_dataset(n, data=h5py.Empty("f4"))),
        "wte.weight is not stored plainly",
    ),
    "no run": (lambda file: file.__delitem__("training"), "holds a model but no run"),
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
    resealed(saved, change)
    refused(saved, says)


def test_arrays_that_claim_more_than_the_file_take_no_memory(saved):
    """A config and a dataset of 8 TB that agree with each other; the bytes are not there."""

    def change(file):
        with_config(vocab_size=2**39)(file)
        space = h5py.h5s.create_simple((2**39, 4))
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
        del file[WTE]
        h5py.h5d.create(file["parameters"].id, b"wte.weight", h5py.h5t.IEEE_F32LE, space, plist)

    resealed(saved, change)
    refused(saved, "wte.weight is not stored plainly: 0 bytes for shape .549755813888, 4")


def test_parameters_that_share_their_bytes_take_no_memory(tmp_path):
    """Hard links to one array cost nothing in the file, but each would be read by itself."""
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
    hdf5.seal(path)
    refused(path, "its parameters overlap", read=checkpoint.read_checkpoint)


# Whole at any moment

SAVER = """
import sys, numpy as np, npgpt
from npgpt import ops
config = npgpt.Config(vocab_size=500, context_length=64, n_layer=4, n_head=2, n_embd=64)
model = npgpt.GPT(config, ops=ops)
number = 0
while True:
    number += 1
    for _, array in npgpt.named(model.params):
        array.fill(number)
    model.save(sys.argv[1])
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "model.h5"
    saver = subprocess.Popen([sys.executable, "-c", SAVER, path], stdout=subprocess.PIPE, text=True)
    moments, seen = random.Random(3), set()
    for _ in range(5):
        assert saver.stdout.readline()  # the first file is there
        time.sleep(moments.uniform(0, 0.05))
        saver.kill()
        saver.wait()
        saver.stdout.close()
        model = npgpt.load(path)
        values = {float(a.min()) for _, a in named(model.params)}
        values |= {float(a.max()) for _, a in named(model.params)}
        assert len(values) == 1  # one save, not a mixture of two
        seen |= values
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, path], stdout=subprocess.PIPE, text=True
        )
    saver.kill()
    saver.wait()
    saver.stdout.close()
    assert seen


LIMITED = """
import resource, sys, npgpt
from npgpt import ops
config = npgpt.Config(vocab_size=9000, context_length=8, n_layer=1, n_head=1, n_embd=8)
model = npgpt.GPT(config, ops=ops)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    model.save(sys.argv[1])
except npgpt.RunError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 100, 5000, 100_000, 296_000, "seal"])
def test_no_room_leaves_the_old_file_and_no_litter(tmp_path, limit):
    """A limit on the size of files, met at the first byte, in the middle and near the end."""
    path = tmp_path / "model.h5"
    if limit == "seal":  # all of HDF5 has room, the last bytes have not
        config = npgpt.Config(vocab_size=9000, context_length=8, n_layer=1, n_head=1, n_embd=8)
        npgpt.GPT(config, ops=ops).save(path)
        limit = path.stat().st_size - 8
    model_of().save(path)
    before = path.read_bytes()
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, path, str(limit)], capture_output=True, text=True
    )
    assert said.stderr == ""
    assert said.stdout == (
        f"{path} could not be written: File too large; the checkpoint before it is whole\n"
    )
    assert said.returncode == 0
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.h5"]


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(RunError, match=r"the disk has 100 bytes left of 2,112; nothing was"):
        model_of().save(tmp_path / "model.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(RunError, match=r"model\.h5 could not be written: No such file"):
        model_of().save(tmp_path / "no" / "model.h5")
    assert list(tmp_path.iterdir()) == []


def test_saving_over_a_file_leaves_it_to_who_reads_it(saved):
    """The old file is replaced, not written into."""
    before = os.stat(saved).st_ino
    with open(saved, "rb") as reader:
        model_of(seed=2).save(saved)
        assert os.fstat(reader.fileno()).st_ino == before
        assert reader.read(8) == checksum.MAGIC
    assert os.stat(saved).st_ino != before
