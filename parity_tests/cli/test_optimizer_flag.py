"""`npgpt train --optimizer`: runs with each optimizer, their checkpoints, and wrong flags."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from npgpt import backends, ops
from npgpt.config import TrainingConfig
from npgpt.errors import WeightFileError
from npgpt.model import params
from npgpt.performance import precompile, profile
from npgpt.preset import defaults
from npgpt.training import optim, run_state
from npgpt.training.run_dir import RunDir
from npgpt.weights import checkpoint
from parity_tests.support.checkpoints import model_of, with_new_footer
from parity_tests.support.runs import TINY, evaluations, final

NUMPY = "--ops numpy --min-lr None --decay matrices --grad-clip 0.5"
FLAGS = {
    "sgd": "--optimizer sgd --lr 0.5",
    "momentum": "--optimizer sgd --momentum 0.9 --nesterov --lr 0.05",
    "rmsprop": "--optimizer rmsprop --lr 1e-3",
    "adam": "--optimizer adam",
    "muon": "--optimizer muon --momentum 0.9",
}
STORED = {"sgd": [], "momentum": ["m"], "rmsprop": ["v"], "adam": ["m", "v"], "muon": ["m", "v"]}


def stored(path):
    """The names of the moments in a checkpoint."""
    with h5py.File(path) as file:
        return {moment: set(file["training"][moment]) for moment in "mv"
                if moment in file["training"]}  # fmt: skip


@pytest.fixture
def unplotted(monkeypatch):
    monkeypatch.setattr(RunDir, "plot", lambda *_: None)  # half the time of a short run


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_a_run_learns_and_resumes_bit_for_bit_in_the_middle_of_an_epoch(npgpt_, unplotted, name):
    train = f"train --data text.txt {NUMPY} {FLAGS[name]}"
    npgpt_(f"{train} --out whole --steps 16", *TINY)
    npgpt_(f"{train} --out cut --steps 5 --checkpoint-every 5", *TINY)
    npgpt_("train --resume cut --steps 16 --checkpoint-every 5")
    assert final("cut") == final("whole")
    losses = [point["train_loss"] for point in evaluations("cut")]
    assert losses[-1] < losses[0] - 0.1
    found = stored("cut/checkpoint.h5")
    assert sorted(found) == STORED[name]
    names = {key for key, _ in params.named(run_state.read(Path("cut"))[1].params)}
    for moment, kept in found.items():
        assert kept <= names
        if (name, moment) == ("muon", "v"):
            assert {key for key in names - kept} == {
                f"h.0.{layer}.weight"
                for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
            }
        else:
            assert kept == names


def change_settings(**changes):
    """Return a change of the training settings in an open checkpoint. None: remove the name."""

    def change(file):
        state = json.loads(file["training/state"][:].tobytes())
        training = state["settings"]["training"]
        training.update(changes)
        state["settings"]["training"] = {k: v for k, v in training.items() if v is not ...}
        del file["training/state"]
        text = json.dumps(state).encode()
        file["training"].create_dataset("state", data=np.frombuffer(text, np.uint8))

    return change


def test_an_older_checkpoint_without_the_name_is_adamws(npgpt_, unplotted, refused):
    train = f"train --data text.txt {NUMPY}"
    npgpt_(f"{train} --out whole --steps 6", *TINY)
    npgpt_(f"{train} --out old --steps 5", *TINY)
    older = {"optimizer": ..., "momentum": ..., "nesterov": ...}
    with_new_footer(Path("old/checkpoint.h5"), change_settings(**older))
    assert run_state.read_settings(Path("old")).training.optimizer == "adamw"
    refused("train --resume old --optimizer sgd",
            says="--optimizer sgd does not fit: old was made with adamw")  # fmt: skip
    npgpt_("train --resume old --steps 6 --optimizer adamw")
    assert final("old") == final("whole")


def without(name):
    return lambda file: file.__delitem__(name)


FORGERIES = {
    "none of SGD's, but AdamW's": (change_settings(optimizer="sgd"), "has a training/m/"),
    "full second moments": (change_settings(optimizer="muon"), r"has a training/v/h\.0\.attn"),
    "one tree too many": (change_settings(optimizer="rmsprop"), "has a training/m/"),
    "none": (without("training/v"), "has no training/v/"),
    "one less": (without("training/m/wte.weight"), r"has no training/m/wte\.weight, unlike runs "
                 "with the optimizer adamw, which its settings name"),
    "an unknown optimizer": (change_settings(optimizer="lion"), "must be one of adam, adamw, muon"),
    "a list": (change_settings(optimizer=["adamw"]), r"optimizer is \['adamw'\], but must be one"),
    "momentum above 1": (change_settings(optimizer="sgd", momentum=2), "momentum is 2, but must"),
    "a matrix for another": (
        lambda file: file.move("training/v/wpe.weight", "training/v/h.0.ln_1.weight2"),
        r"has 'training/v/h\.0\.ln_1\.weight2', which its config does not have",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGERIES)
def test_moments_that_are_not_the_optimizers(run, kind):
    change, says = FORGERIES[kind]
    path = Path("run/checkpoint.h5")
    with_new_footer(path, change)
    with pytest.raises(WeightFileError, match=says):
        run_state.read(path)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--optimizer nonsense",
         "optimizer is 'nonsense', but must be one of adam, adamw, muon, rmsprop, sgd\n"),
        ("--momentum 0.9", "momentum is 0.9, but adamw has none: choose sgd or muon"),
        ("--optimizer sgd --momentum 1", "momentum is 1.0, but must be in [0, 1)"),
        ("--optimizer muon --momentum -1", "momentum is -1.0, but must be at least 0"),
        ("--optimizer sgd --nesterov", "nesterov is true, but needs optimizer sgd and a momentum"),
    ],
)  # fmt: skip
def test_wrong_flags(refused, flags, says):
    refused(f"train --data text.txt {flags}", says=says)


def test_another_optimizer_on_resume(run, refused):
    for flags, says in {
        "--optimizer muon": "--optimizer muon does not fit: run was made with adamw. Leave the",
        "--optimizer sgd --momentum 0.9": "--optimizer sgd does not fit: run was made with adamw",
    }.items():
        refused(f"train --resume run --epochs 3 {flags}", says=says)
    refused("estimate --optimizer nonsense", says="optimizer is 'nonsense', but must be one of")


# Memory and compilation


@pytest.mark.parametrize(
    ("training", "trees"),
    [(dict(optimizer="sgd"), 0), (dict(optimizer="sgd", momentum=0.9), 1),
     (dict(optimizer="rmsprop"), 1), (dict(optimizer="adam"), 2), ({}, 2)],
)  # fmt: skip
def test_estimates_count_the_moments_of_the_optimizer(training, trees):
    settings = replace(defaults("gpt2-small"), training=TrainingConfig(**training))
    assert profile.training_bytes(settings) == (2 + trees) * profile.parameter_bytes(settings)


def test_estimates_count_half_the_moments_of_muons_matrices():
    settings = replace(defaults("gpt2-small"), training=TrainingConfig(optimizer="muon"))
    matrices = 12 * 12 * 768**2
    full = 4 * profile.parameter_bytes(settings)
    assert profile.training_bytes(settings) == full - 4 * matrices


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam", "muon"])
def test_kernels_are_compiled_for_the_optimizer(optimizer, monkeypatch):
    timed = profile.TimedBackend(ops)
    monkeypatch.setattr(backends, "get", lambda *_, **options: timed)
    monkeypatch.setattr(precompile, "VOCABULARY", 64)
    precompile.warm_up("train", "float32", precompile.OPS, optimizer=optimizer)
    called = {call.op for call in timed.calls if call.op.endswith("update")}
    assert called == {f"{optimizer}.update"} | ({"adamw.update"} if optimizer == "muon" else set())
    command = precompile.second_process("train", "float32", None, 0.1, optimizer, None)
    assert command[-2:] == [optimizer, ""]


def test_checkpoints_keep_arrays_of_any_optimizer(tmp_path):
    """The file's own reader knows no optimizers: it returns the moments that it finds."""
    model = model_of()
    keep = optim.moment_shapes(TrainingConfig(optimizer="muon"), params.shapes(model.config))
    moments = {key: params.views(tree, np.arange(params.total(tree), dtype=np.float32))
               for key, tree in keep.items()}  # fmt: skip
    saved = checkpoint.TrainingState({}, np.zeros(8, np.uint8), np.empty(0, np.int64), moments)
    checkpoint.write(tmp_path / "run.h5", model, saved)
    _, read = checkpoint.read_training(tmp_path / "run.h5")
    for key, tree in moments.items():
        pairs = zip(params.named(tree), params.named(read.moments[key]), strict=True)
        assert all(a.tobytes() == b.tobytes() and a.shape == b.shape for (_, a), (_, b) in pairs)
