"""A live run, the ravine, and Muon's five steps."""

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.config import RunConfig, TrainingConfig
from npgpt.data.dataset import read_tokens
from npgpt.errors import ConfigError, InputError
from npgpt.explain import live, muon_steps, ravine
from npgpt.ops import muon
from npgpt.training import run

SHAPE = npgpt.Config(vocab_size=257, context_length=16, n_layer=1, n_head=2, n_embd=8)
SETTINGS = RunConfig(
    ops="numpy", config=SHAPE,
    training=TrainingConfig(steps=7, eval_every=3, eval_batches=1, prompt="The", sample_tokens=4),
)  # fmt: skip


def test_a_live_run_is_the_run_of_the_trainer():
    here = live.Live(SETTINGS, sizes_every=2, sample_every=4)
    events = list(here.events())
    points = [event for event in events if isinstance(event, live.Point)]
    assert [point.step for point in points] == list(range(7)) and here.total == 7
    assert [point.sizes is not None for point in points] == [True, False] * 3 + [True]
    assert [event.step for event in events if isinstance(event, live.Losses)] == [0, 3, 6]
    texts = [event for event in events if isinstance(event, live.Text)]
    assert [text.step for text in texts] == [0, 4, 6]
    assert all(text.text.startswith("The") for text in texts)

    trainer = run.start(SETTINGS, read_tokens(SETTINGS))
    steps = [event for event in trainer.events() if type(event).__name__ == "Step"]
    assert [point.loss for point in points] == [step.loss for step in steps]
    last = dict(zip(here.names, points[-1].sizes, strict=True))
    array = trainer.gradients.h[0].mlp.c_fc.weight
    assert last["h.0.mlp.c_fc.weight"] == pytest.approx(np.sqrt(np.mean(array**2)))
    assert np.array_equal(trainer.model.params.wte.weight, here.model.params.wte.weight)


def test_a_live_run_stops_and_continues():
    whole = live.Live(SETTINGS)
    for _ in whole.events():
        pass
    parts = live.Live(SETTINGS)
    for _ in range(30):
        if next(parts.events(), None) is None:  # abandoned after every event
            break
    assert np.array_equal(whole.model.params.wte.weight, parts.model.params.wte.weight)


def test_a_rate_that_changes_on_the_way():
    """The last one counts, and its run differs from then on."""
    run_with = {}
    for changes in (False, True):
        here, found = live.Live(SETTINGS), []
        for event in here.events():
            found.append(event)
            if changes and isinstance(event, live.Point) and event.step == 3:
                here.change(lr=1e-3)
                here.change(lr=0.02)
        run_with[changes] = [event for event in found if isinstance(event, live.Point)]
        told = [event for event in found if isinstance(event, live.Rate)]
        assert told == ([live.Rate(4, 0.02)] if changes else [])
    pairs = list(zip(*run_with.values(), strict=True))
    assert [one.lr == other.lr for one, other in pairs] == [True] * 4 + [False] * 3
    assert [one.loss == other.loss for one, other in pairs] == [True] * 5 + [False] * 2
    with pytest.raises(ConfigError, match="lr"):
        here.change(lr=-1.0)


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [("sgd", {"lr": 0.2}), ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
     ("rmsprop", {"lr": 0.02, "beta2": 0.9}), ("adam", {"lr": 0.1}), ("adamw", {"lr": 0.1}),
     ("muon", {"lr": 0.3})],
)  # fmt: skip
def test_every_optimizer_arrives(optimizer, numbers):
    training = TrainingConfig(optimizer=optimizer, weight_decay=0.0, **numbers)
    found = ravine.race(training, 300)
    assert found.path.shape == (301, 2) and found.path[0].tolist() == [-4, 1.5]
    assert found.losses[-1] < 1e-2 * found.losses[0]


def test_the_path_of_gradient_descent():
    training = TrainingConfig(optimizer="sgd", lr=0.2, weight_decay=0.0)
    found = ravine.race(training, 5)
    p, curvature = np.array(ravine.START), ravine.hessian(ravine.RAVINE)
    for k in range(5):
        assert found.losses[k] == pytest.approx(0.5 * p @ curvature @ p)
        p = p - 0.2 * curvature @ p
        np.testing.assert_allclose(found.path[k + 1], p)
    np.testing.assert_allclose(sorted(np.linalg.eigvalsh(curvature)), [0.1, 4])


def test_the_path_of_adamw():
    settings = dict(lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    p, m, v = np.array([ravine.START]), np.zeros((1, 2)), np.zeros((1, 2))
    for k in range(1, 4):
        ops.adamw.update(p, p @ ravine.hessian(ravine.RAVINE), m, v, step=k, **settings)
    found = ravine.race(TrainingConfig(lr=0.1), 3)
    np.testing.assert_array_equal(found.path[-1], p[0])


def test_a_race_that_diverges_ends():
    found = ravine.race(TrainingConfig(optimizer="sgd", lr=5.0), 2000)
    assert 100 < len(found.path) < 2000 and np.isfinite(found.path).all()


def test_muons_steps_end_with_its_matrix():
    u = np.random.default_rng(2).normal(size=(12, 20))
    found = muon_steps.steps(u)
    assert found.singular.shape == (6, 12)
    np.testing.assert_array_equal(found.matrix, muon.orthogonalize(u))
    last = np.linalg.svd(found.matrix, compute_uv=False)
    np.testing.assert_allclose(np.sort(found.singular[-1])[::-1], last, rtol=1e-10)
    first = np.linalg.svd(u, compute_uv=False) / np.linalg.norm(u)
    np.testing.assert_allclose(found.singular[0], first)


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros((0, 3)), np.full((2, 2), np.nan)])
def test_what_is_no_matrix(wrong):
    with pytest.raises(InputError, match="the matrix must be"):
        muon_steps.steps(wrong)


def test_a_race_that_is_too_long():
    with pytest.raises(InputError, match="at most 10000"):
        ravine.race(TrainingConfig(), 10_001)
