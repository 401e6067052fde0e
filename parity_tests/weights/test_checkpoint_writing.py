"""Writing a checkpoint is atomic: a failure leaves the previous file."""

import os
import random
import subprocess
import sys
import time

import pytest

import npgpt
from npgpt import ops
from npgpt.errors import RunError
from npgpt.model.params import named
from npgpt.weights import checkpoint, checksum, hdf5
from parity_tests.support.checkpoints import assert_same, model_of
from parity_tests.support.processes import started


def test_a_file_that_is_replaced_while_it_is_read(saved, monkeypatch):
    """Replace a checkpoint, as a run does, while it is read: the opened file is read to its end."""
    model, check = npgpt.load(saved), hdf5.check_footer

    def slowly(file):
        blocks = check(file)
        model_of(seed=2, n_embd=8).save(saved)
        return blocks

    monkeypatch.setattr(hdf5, "check_footer", slowly)
    source = checkpoint.read_checkpoint(saved)
    assert source.config == model.config
    assert_same(source.params(), model.params)
    assert checkpoint.read_checkpoint(saved).config.n_embd == 8


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


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_complete_file(tmp_path):
    path = tmp_path / "model.h5"
    moments = random.Random(3)
    for _ in range(5):
        with started("-c", SAVER, path) as saver:
            assert saver.stdout.readline()  # the first file is written
            time.sleep(moments.uniform(0, 0.05))
        model = npgpt.load(path)
        values = {float(a.min()) for _, a in named(model.params)}
        values |= {float(a.max()) for _, a in named(model.params)}
        assert len(values) == 1  # one save, not a mixture of two


LIMITED = """
import resource, sys, npgpt
from npgpt import ops
config = npgpt.Config(vocab_size=9000, context_length=8, n_layer=1, n_head=1, n_embd=8)
model = npgpt.GPT(config, ops=ops)
limit = int(sys.argv[2])
sys.dont_write_bytecode = True  # or modules are cut off at the limit, and are broken for all
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    model.save(sys.argv[1])
except npgpt.RunError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 100, 5000, 100_000, 296_000, "footer"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, limit):
    """A limit on the size of files, reached at the first byte, in the middle and near the end."""
    path = tmp_path / "model.h5"
    if limit == "footer":  # HDF5's bytes are within the limit, the footer is not
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
        f"{path} could not be written: File too large; the previous file is unchanged\n"
    )
    assert said.returncode == 0
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.h5"]


def test_a_full_disk_is_reported_before_writing(tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(RunError, match=r"the disk has 100 bytes left, 2,112 are needed; not"):
        model_of().save(tmp_path / "model.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory(tmp_path):
    with pytest.raises(RunError, match=r"model\.h5 could not be written: No such file"):
        model_of().save(tmp_path / "no" / "model.h5")
    assert list(tmp_path.iterdir()) == []


def test_saving_does_not_change_an_open_file(saved):
    """The old file is replaced, not written into."""
    before = os.stat(saved).st_ino
    with open(saved, "rb") as reader:
        model_of(seed=2).save(saved)
        assert os.fstat(reader.fileno()).st_ino == before
        assert reader.read(8) == checksum.MAGIC
    assert os.stat(saved).st_ino != before
