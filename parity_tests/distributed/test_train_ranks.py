"""`npgpt train` on several ranks: equal checkpoints, resuming on others, signals and errors."""

import re
import signal

import pytest

from npgpt.cli.main import main
from parity_tests.support import ranks
from parity_tests.support.runs import FILES, TEXT, final, lines, metrics

pytestmark = pytest.mark.slow

# 8 windows a step, 5 steps an epoch
RUN = (
    "train --data text.txt --ops numpy --steps 8 --n-layer 1 --n-embd 16 --n-head 2 "
    "--context-length 16 --batch-size 8 --stride 16 --eval-every 3 --eval-batches 3 --lr 0.01 "
    "--sample-tokens 3 --grad-clip 0.5 --dropout 0.2 --checkpoint-every 3 --keep 9"
).split()
EQUAL = [*RUN, "--deterministic", "--leaves", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The directory of all runs: alone, plain, and four, which 4 ranks have made."""
    path = tmp_path_factory.mktemp("train-ranks")
    (path / "text.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for name in ranks.SETTINGS.keys() & {"NUMBA_NUM_THREADS"}:
            patch.setenv(name, ranks.SETTINGS[name])
        assert main([*EQUAL, "--out", "alone"]) == 0
        assert main([*RUN, "--dropout", "0", "--out", "plain"]) == 0
    train(path, 4, *EQUAL, "--out", "four")
    return path


def start(folder, size, *arguments, on=(-1, 0, "none"), code=0):
    """Run a command on `size` ranks, with an action on one of them; return what it printed."""
    said = ranks.start(size, "npgpt", *on, *arguments, cwd=folder)
    assert said.returncode == code, said.stdout + said.stderr
    assert "Traceback" not in said.stderr and "\x1b" not in said.stdout
    return said


def train(folder, size, *arguments, **options):
    return start(folder, size, *arguments, **options)


def test_four_ranks_leave_the_files_of_one(folder):
    """Deterministic: equal bits in all checkpoints, the best model, metrics and samples."""
    one, four = folder / "alone", folder / "four"
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in four.iterdir()} >= FILES
    for name in names:
        if name.startswith("checkpoint"):
            assert final(one / name) == final(four / name), name
    for name in ("best.h5", "samples.txt"):
        assert (one / name).read_bytes() == (four / name).read_bytes()
    assert metrics(one) == metrics(four)
    steps = [line for line in lines(four / "metrics.jsonl") if "loss" in line]
    assert all(0 < line["communication"] < line["seconds"] for line in steps)
    assert {line["slowest_rank"] for line in steps} <= {0, 1, 2, 3}


def test_saved_by_four_resumed_by_two(folder):
    """From the middle of an epoch, bit for bit."""
    said = train(folder, 2, "train", "--resume", "four/checkpoint-000003.h5", "--out", "two")
    assert final(folder / "two") == final(folder / "alone")
    assert said.stdout.count("output in two") == 1


def test_other_runs_are_equal_within_rounding(folder):
    """Two ranks continue a plain run, three cut a step into unequal parts; without dropout.

    The bounds are three times the largest differences of losses of about 5.5.
    """
    plain = ["--dropout", "0"]
    train(folder, 2, "train", "--resume", "plain/checkpoint-000003.h5", "--out", "plain-2")
    train(folder, 3, *RUN, *plain, "--out", "plain-3")
    one = losses(folder / "plain")
    for name, count, bound in (("plain-2", 5, 2.1e-6), ("plain-3", 8, 1.8e-6)):
        many = losses(folder / name)
        assert len(many) == count
        assert 0 < max(abs(many[step] - one[step]) for step in many) < bound


def losses(path):
    """Return the loss of each step."""
    return {line["step"]: line["loss"] for line in metrics(path) if "loss" in line}


def test_a_signal_on_one_rank_stops_all_after_the_step(folder):
    out = folder / "stopped"
    code = 128 + signal.SIGTERM
    said = start(folder, 2, *EQUAL, "--out", "stopped", on=(1, 4, "SIGTERM"), code=code)
    assert "Stopped after step 4; the checkpoint is saved in stopped\n" in said.stdout
    assert "npgpt: rank" not in said.stderr
    assert final(out)[1]["step"] == 5
    assert main(["train", "--resume", str(out)]) == 0
    assert final(out) == final(folder / "alone")


def test_diloco_with_one_plain_step_is_data_parallel_sgd(folder, monkeypatch):
    """H = 1, inner SGD, eta = 1, mu = 0. The bound is three times the largest difference."""
    monkeypatch.chdir(folder)
    sgd = "--dropout 0 --optimizer sgd --lr 1 --grad-clip None".split()
    assert main([*RUN, *sgd, "--out", "sgd"]) == 0
    plain = ["--sync-every", "1", "--outer-lr", "1", "--outer-momentum", "0"]
    start(folder, 2, *RUN, *sgd, *plain, "--out", "outer")
    one, two = losses(folder / "sgd"), losses(folder / "outer")
    assert len(one) == 8 and max(abs(two[step] - one[step]) for step in one) < 1.5e-6


def test_diloco_resumes_bit_for_bit(folder, monkeypatch):
    """Rounds of 3 steps end earlier with an epoch of 5 and before a checkpoint after 4."""
    run = [*RUN, "--sync-every", "3", "--checkpoint-every", "4", "--optimizer", "adamw"]
    said = start(folder, 2, *run, "--out", "rounds")
    assert "1 for each rank; an exchange every 3 steps\n" in said.stdout
    found = [line["step"] for line in metrics(folder / "rounds") if "val_loss" in line]
    assert found == [2, 3, 7]  # due after 0, 3 and 6, made at the ends of rounds
    start(folder, 2, "train", "--resume", "rounds/checkpoint-000004.h5", "--out", "again")
    assert final(folder / "again") == final(folder / "rounds")
    monkeypatch.chdir(folder)
    assert main("train --resume rounds/checkpoint-000004.h5 --out rounds-1".split()) == 0
    assert final(folder / "rounds-1")[1]["step"] == 8


@pytest.mark.parametrize("action, code, says", [
    ("raise", 2, "npgpt: rank 1 of 2 on .*: a.bin has token 70000"),
    ("SIGKILL", 137, r"rank 1.*on node \S+ exited on\s+signal 9"),
])  # fmt: skip
def test_one_rank_ends_all_and_the_last_checkpoint_is_complete(folder, action, code, says):
    run = [*EQUAL, "--overlap", "on"]  # it ends within backward, while its thread communicates
    said = start(folder, 2, *run, "--out", action, on=(1, 4, action), code=code)
    assert len(re.findall(says, said.stderr)) == 1, said.stderr
    assert said.stderr.count("npgpt: rank") == (action == "raise")
    assert final(folder / action) == final(folder / "alone" / "checkpoint-000003.h5")


def test_an_error_of_all_ranks_is_said_by_the_first(folder):
    """In a step, after which the first one draws the plot, and before there is a directory."""
    rates = "--lr 1e30 --warmup-steps 0 --eval-every 1".split()
    said = start(folder, 2, *RUN, *rates, "--out", "nan", code=1)
    (line,) = (line for line in said.stderr.splitlines() if line.startswith("npgpt: rank"))
    assert re.match(r"npgpt: rank 0 of 2 on \S+: the \w* ?loss became nan at step \d", line)
    said = start(folder, 3, *EQUAL, code=2)
    assert said.stderr.count("npgpt: rank") == 1
    assert "cannot share a step of 8 windows (batch size 8, accumulation 1) and 4" in said.stderr
    assert not (folder / "runs").exists()
