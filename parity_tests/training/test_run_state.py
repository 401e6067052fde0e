"""The state of a run: what is written is read, and anything else is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npgpt.config import Config, RunConfig, TrainingConfig
from npgpt.errors import InputError, WeightFileError
from npgpt.gpt import GPT
from npgpt.rng import Generator
from npgpt.training import run_state
from npgpt.training.trainer import Evaluation, Progress, Sample, Step, Trainer

CONFIG = Config(vocab_size=257, context_length=8, n_layer=1, n_head=2, n_embd=8, dropout=0.1)
TRAINING = TrainingConfig(batch_size=2, lr=1e-2, eval_batches=None, min_lr=1e-3, prompt="é")
SETTINGS = RunConfig(ops="numpy", config=CONFIG, training=TRAINING)
RECORD = run_state.Record(SETTINGS, "a digest")
PATH = Path("checkpoint.h5")


def state():
    """The state of a run after one evaluation and one sample, as a file holds it."""
    progress = Progress(step=2, epoch=1, position=0, tokens_seen=32, order=np.arange(4))
    progress.history.append(vars(Evaluation(0, 1, 16, 5.5, 5.6, 1e-2, 100.0)))
    progress.samples.append(vars(Sample(1, 1, [195, 169, 7])))
    return json.loads(json.dumps(run_state.to_json(RECORD, progress)))


def test_settings_survive_the_json_of_a_checkpoint():
    assert run_state.from_json(state(), PATH) == SETTINGS
    assert set(state()) == {"settings", "progress", "data_sha256", "directory"}
    assert "order" not in state()["progress"]  # an array of its own


INVALID = {
    "no settings": lambda s: s.pop("settings"),
    "no progress": lambda s: s.pop("progress"),
    "no digest": lambda s: s.pop("data_sha256"),
    "a digest that is a number": lambda s: s.update(data_sha256=7),
    "settings that are a list": lambda s: s.update(settings=[1]),
    "an unknown setting": lambda s: s["settings"].update(optimizer="Lion"),
    "no layers": lambda s: s["settings"]["config"].update(n_layer=0),
    "a config that is a text": lambda s: s["settings"].update(config="tiny"),
    "a learning rate that is a text": lambda s: s["settings"]["training"].update(lr="high"),
    "a step below 0": lambda s: s["progress"].update(step=-1),
    "a step that is a text": lambda s: s["progress"].update(step="3"),
    "an evaluation without a loss": lambda s: s["progress"]["history"][0].pop("val_loss"),
    "an evaluation that is a number": lambda s: s["progress"].update(history=[3]),
    "a sample of words": lambda s: s["progress"]["samples"][0].update(tokens=["lamp"]),
    "a step without end": lambda s: s["progress"].update(step=10**400),
    "a step that is true": lambda s: s["progress"].update(step=True),
    "an order": lambda s: s["progress"].update(order=[1, 0]),
    "a history that is an object": lambda s: s["progress"].update(history={}),
    "a history of lists": lambda s: s["progress"].update(history=[[[]]]),
    "samples that are a text": lambda s: s["progress"].update(samples=""),
    "a loss that is a text": lambda s: s["progress"]["history"][0].update(val_loss="low"),
    "a loss that is infinite": lambda s: s["progress"]["history"][0].update(val_loss=math.inf),
    "a loss too large to draw": lambda s: s["progress"]["history"][0].update(val_loss=1e308),
    "a loss without end": lambda s: s["progress"]["history"][0].update(val_loss=10**400),
    "a loss that is none": lambda s: s["progress"]["history"][0].update(val_loss=math.nan),
    "an epoch that is a fraction": lambda s: s["progress"]["history"][0].update(epoch=1.5),
    "an evaluation of more": lambda s: s["progress"]["history"][0].update(accuracy=1),
    "a token that is infinite": lambda s: s["progress"]["samples"][0].update(tokens=[math.inf]),
    "a token below 0": lambda s: s["progress"]["samples"][0].update(tokens=[-1]),
    "a token without end": lambda s: s["progress"]["samples"][0].update(tokens=[10**400]),
    "tokens that are a number": lambda s: s["progress"]["samples"][0].update(tokens=7),
    "a rate without end": lambda s: s["settings"]["training"].update(lr=10**400),
    "a setting of two lines": lambda s: s["settings"]["config"].update({"n\nlayer": 1}),
    "samples without tokens": lambda s: s["progress"]["samples"][0].pop("tokens"),
}


@pytest.mark.parametrize("change", INVALID.values(), ids=INVALID)
def test_an_invalid_state_is_an_error_that_names_the_file(change):
    changed = state()
    change(changed)
    with pytest.raises(
        WeightFileError, match=r"^checkpoint\.h5: its training state is invalid.*\)$"
    ):
        run_state.from_json(changed, PATH)


def trainer():
    tokens = np.arange(60) % 257
    model = GPT(CONFIG, seed=1, ops="numpy", tokenizer="byte")
    return Trainer(model, tokens, tokens, TRAINING, Generator(1, ops="numpy"))


def test_a_checkpoint_holds_settings_model_and_progress(tmp_path):
    run = trainer()
    next(event for event in run.events() if isinstance(event, Step))
    run_state.write(tmp_path / "checkpoint.h5", run, RECORD)
    settings, model, saved = run_state.read(tmp_path)
    assert settings == run_state.read_settings(tmp_path) == SETTINGS
    np.testing.assert_array_equal(model.params.wte.weight, run.model.params.wte.weight)
    assert saved.state["progress"]["step"] == 1
    assert saved.state["data_sha256"] == "a digest"
    np.testing.assert_array_equal(saved.order, run.progress.order)
    np.testing.assert_array_equal(saved.random_state, run.rng.state)


@pytest.mark.parametrize(
    "other",
    [replace(SETTINGS, dtype="float64"), replace(SETTINGS, config=replace(CONFIG, n_head=1))],
)
def test_settings_that_contradict_the_model(tmp_path, other):
    run_state.write(tmp_path / "checkpoint.h5", trainer(), run_state.Record(other, "a digest"))
    with pytest.raises(WeightFileError, match=r"the settings name a float.* but the model in"):
        run_state.read(tmp_path)


def test_a_model_without_a_run(tmp_path):
    trainer().model.save(tmp_path / "checkpoint.h5")
    with pytest.raises(InputError, match="has a model but no training run"):
        run_state.read_settings(tmp_path)
