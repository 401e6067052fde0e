"""Failures of a command under way: NaN, full disks, little memory, closed pipes."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from npgpt.system.atomic import atomic_write
from parity_tests.support.processes import LONG, started
from parity_tests.support.runs import POSIX_ONLY, TEXT, TINY, final, on_disk, unannounced


def test_a_loss_that_becomes_nan_keeps_the_last_good_checkpoint(npgpt_, monkeypatch):
    from npgpt.training.trainer import Trainer

    update = Trainer.update

    def poisoned(self, *batch):
        if self.progress.step == 13:
            self.model.params.ln_f.bias[0] = np.nan
        return update(self, *batch)

    monkeypatch.setattr(Trainer, "update", poisoned)
    said = npgpt_("train --data text.txt --epochs 2 --out run", *TINY, code=1)
    assert said.err == (
        "npgpt: the loss became nan at step 13. Try a lower --lr, a longer warmup, or "
        "--grad-clip 1. The last good checkpoint is run/checkpoint.h5\n"
    )
    assert final("run")[1]["step"] == 11
    assert Path("run/loss.png").exists()
    monkeypatch.setattr(Trainer, "update", update)
    npgpt_("train --resume run")
    assert final("run")[1]["step"] == 22


@pytest.mark.parametrize("backend", ["fused", "numpy"])
def test_a_learning_rate_without_measure(npgpt_, backend):
    flags = "--lr 1e38 --initial-lr 1e38 --min-lr 1e38 --grad-clip None --warmup-steps 0"
    said = npgpt_(f"train --data text.txt --out run --ops {backend}", *TINY, *flags.split(), code=1)
    assert re.fullmatch(r"npgpt: the \S+ ?loss became (nan|inf) at step \d\. Try .*\n", said.err)


# Resumes copies of a run, each under a limit on the size of files; before that, one without a limit
# imports what all need, as the limit holds for bytecode and for the list of fonts, too.
FULL = """
import io, json, resource, shutil, sys, tempfile
from contextlib import redirect_stderr
from npgpt.cli import main as cli

def resume(folder, limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with redirect_stderr(io.TextIOWrapper(io.BytesIO(), "utf-8")) as said:
        code = cli.main(["train", "--resume", folder, "--epochs", "3"])
        said.seek(0)
        return code, said.read()

with tempfile.TemporaryDirectory() as folder:
    shutil.copytree("run", f"{folder}/run")
    assert resume(f"{folder}/run", resource.RLIM_INFINITY)[0] == 0
found = [resume(f"run-{limit}", int(limit)) for limit in sys.argv[1:]]
print(json.dumps(found))
"""
LIMITS = {100: "metrics.jsonl", 100_000: "checkpoint.h5"}


@POSIX_ONLY
@pytest.mark.slow
def test_a_full_disk(npgpt_):
    """A run is resumed, and its first file above the limit cannot be written."""
    npgpt_("train --data text.txt --out run --ops numpy --epochs 2", *TINY)
    for limit in LIMITS:
        shutil.copytree("run", f"run-{limit}")
    before = on_disk()
    with started("-c", FULL, *map(str, LIMITS), text=True) as process:
        out, err = process.communicate(timeout=LONG)
    assert process.returncode == 0, err
    found = json.loads(out.splitlines()[-1])
    for (limit, file), (code, said) in zip(LIMITS.items(), found, strict=True):
        assert code == 1
        says = rf"npgpt: run-{limit}/{file} could not be written: File too large.*\n"
        assert re.fullmatch(says, said)
    after = on_disk()
    assert after.keys() == before.keys()
    for limit in LIMITS:
        name = f"run-{limit}/checkpoint.h5"
        assert after[name] == before[name]


def test_too_little_memory(refused, monkeypatch):
    def greedy(*args, **kwargs):
        raise MemoryError("Unable to allocate 8 TiB")

    monkeypatch.setattr("npgpt.model.params.zeros", greedy)
    says = "npgpt: not enough memory: Unable to allocate 8 TiB"
    refused("train --data text.txt --out run", *TINY, says=says, code=1)


@pytest.mark.parametrize(
    "code, status, says",
    [
        (errno.EIO, 1, "checkpoint.h5 cannot be read: Input/output error"),
        (errno.ESTALE, 1, "checkpoint.h5 cannot be read: Stale file handle"),
        (errno.EACCES, 2, "checkpoint.h5 cannot be read: Permission denied"),
        (errno.ENOMEM, 1, "not enough memory"),
    ],
)
@pytest.mark.parametrize(
    "line", ["inspect run", "export --model run --out x", "train --resume run"]
)
def test_a_file_that_cannot_be_read(refused, run, monkeypatch, line, code, status, says):
    def fail(path):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("npgpt.weights.mapped.open_regular", fail)
    refused(line, says=says, code=status)


def test_an_error_of_the_disk_that_no_reader_expects(refused, run, monkeypatch):
    def fail(path, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("npgpt.weights.formats.open_directory", fail)
    refused("inspect run", says="npgpt: run cannot be read: Input/output error", code=1)
    monkeypatch.setattr("npgpt.cli.inspect.resolve", fail)
    refused("inspect run", says="npgpt: run: Input/output error", code=1)


GENERATE = ["-m", "npgpt", "generate", "--model", "run", "--prompt"]


@pytest.mark.slow
def test_a_reader_that_has_seen_enough(run):
    """npgpt generate | head -c 1: no traceback, no complaint."""
    with started(*GENERATE, "The", "--max-new-tokens", "3000") as process:
        assert process.stdout.read(1) == b"T"
        process.stdout.close()
        assert unannounced(process.stderr.read().decode()) == ""
        assert process.wait(timeout=LONG) == 0


@POSIX_ONLY
@pytest.mark.slow
def test_text_that_the_terminal_cannot_show(run):
    """A prompt that is no Unicode, and an output that knows ASCII only."""
    ascii = os.environ | {"PYTHONIOENCODING": "ascii"}
    with started(*GENERATE, b"\xff\xc3\xa9", "--max-new-tokens", "9", env=ascii) as process:
        out, err = process.communicate(timeout=LONG)
    assert process.returncode == 0, err
    assert out.startswith(b"??")
    assert unannounced(err.decode()) == ""


def test_a_write_that_fails_leaves_the_old_file():
    Path("file").write_text("old")
    with pytest.raises(ValueError, match="half-way"), atomic_write("file") as file:
        file.write(b"new")
        raise ValueError("half-way")
    assert on_disk() == {"file": b"old", "text.txt": TEXT.encode()}
