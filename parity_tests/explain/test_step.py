"""One step of an optimizer, and one number of a parameter that is nudged."""

import itertools

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.config import TrainingConfig
from npgpt.errors import InputError, RunError
from npgpt.explain import nudge, precision, step
from npgpt.explain import passes as passes_module
from npgpt.explain.passes import Passes
from npgpt.model.params import copy, leaves
from npgpt.training import optim

CONFIG = npgpt.Config(
    vocab_size=31, context_length=12, n_layer=2, n_head=2, n_embd=16, dropout=0.1, tied=False
)
TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9]
# with a learning rate at which terms above the second order are small
OPTIMIZERS = {
    "sgd": dict(lr=1e-3, momentum=0.9, nesterov=True), "rmsprop": dict(lr=1e-6),
    "adam": dict(lr=1e-5), "adamw": dict(lr=1e-5), "muon": dict(lr=1e-5),
}  # fmt: skip


def model_of(dtype="float64"):
    return npgpt.GPT(CONFIG, seed=5, scheme="book", dtype=dtype, ops=ops)


@pytest.mark.filterwarnings("ignore::npgpt.errors.DropoutWarning")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_is_that_of_the_optimizer(optimizer):
    training = TrainingConfig(optimizer=optimizer, decay="matrices", **OPTIMIZERS[optimizer])
    model = model_of()
    start = copy(model.params)
    found = step.take(model, TEXT, training, earlier=2)
    assert all(map(np.array_equal, leaves(model.params), leaves(start)))  # is not changed

    own = optim.make(model.params, training, ops=ops)
    for _ in range(3):
        before = copy(model.params)
        loss, gradients = model.loss_and_gradients([TEXT[:-1]], [TEXT[1:]])
        own.step(gradients)
    assert found.loss == pytest.approx(loss, rel=1e-12)
    assert found.optimizer == repr(own) and found.steps == 3
    assert found.moments.keys() == own.moments.keys()
    trees = zip(found.moments.values(), own.moments.values(), strict=True)
    pairs = [(found.gradients, gradients), (found.parameters, before), *trees]
    for one, other in pairs:
        assert all(map(np.array_equal, leaves(one), leaves(other)))
    for delta, new, old in zip(*map(leaves, (found.update, model.params, before)), strict=True):
        np.testing.assert_array_equal(delta, new - old)
    after = model.evaluate([TEXT[:-1]], [TEXT[1:]])
    assert found.measured == pytest.approx(after - loss, rel=1e-6)
    probs = ops.attention.softmax(model.logits([TEXT[:-1]])[0])
    np.testing.assert_allclose(found.after, probs, rtol=1e-9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_half_the_learning_rate_has_a_quarter_of_the_error(optimizer):
    """Measured anew, not along the update that was computed for the whole rate."""
    numbers = OPTIMIZERS[optimizer]
    errors = []
    for part in (1, 0.5, 0.25):
        training = TrainingConfig(optimizer=optimizer, **(numbers | {"lr": part * numbers["lr"]}))
        found = step.take(model_of(), TEXT, training)
        errors.append(found.measured - found.predicted)
        assert abs(errors[-1]) < 0.2 * abs(found.predicted)
    for whole, half in itertools.pairwise(errors):
        assert 3.7 < whole / half < 4.3


def test_errors_along_the_update():
    found = step.take(model_of(), TEXT, TrainingConfig(lr=1e-4))
    errors = dict(zip(found.fractions, step.errors(found), strict=True))
    assert errors[0] == 0
    assert errors[1] == pytest.approx(found.measured - found.predicted)
    assert 3.7 < errors[2] / errors[1] < 4.3


@pytest.mark.parametrize("earlier", [0, 2])
def test_the_losses_along_the_update(earlier, monkeypatch):
    """At fewer fractions they are the same, and those of parameters that are moved at once."""
    model, training = model_of(), TrainingConfig(lr=1e-2)
    all_of_them = step.take(model, TEXT, training, earlier=earlier)
    monkeypatch.setattr(step, "PART", 7)
    found = step.take(model, TEXT, training, earlier=earlier, fractions=step.FRACTIONS[::2])
    assert found.fractions.tolist() == [0, 0.5, 1, 1.5, 2]
    np.testing.assert_array_equal(found.losses, all_of_them.losses[::2])
    assert found.losses[2] - found.loss == found.measured
    moved = model_of()
    trees = (moved.params, found.parameters, found.update)
    for leaf, old, delta in zip(*map(leaves, trees), strict=True):
        leaf[...] = old + 1.5 * delta
    loss = moved.evaluate([TEXT[:-1]], [TEXT[1:]])
    assert found.losses[3] == pytest.approx(loss, rel=1e-12)


def test_sizes_and_single_numbers():
    found = step.take(model_of(), TEXT, TrainingConfig(optimizer="muon", lr=1e-3), earlier=1)
    changes = {change.name: change for change in found.changes}
    assert set(changes["wte.weight"].moments) == {"m", "v"}
    one = changes["h.1.mlp.c_fc.weight"]
    assert set(one.moments) == {"m"}  # Muon has no second moment
    update, gradient = found.update.h[1].mlp.c_fc.weight, found.gradients.h[1].mlp.c_fc.weight
    assert one.update == pytest.approx(np.sqrt(np.mean(update**2)))
    assert one.predicted == pytest.approx((gradient * update).sum())
    assert sum(change.predicted for change in found.changes) == pytest.approx(found.predicted)
    number = step.entry(found, one.name, (3, 4))
    assert number == (
        found.parameters.h[1].mlp.c_fc.weight[3, 4], gradient[3, 4],
        {"m": found.moments["m"].h[1].mlp.c_fc.weight[3, 4]}, update[3, 4],
    )  # fmt: skip
    assert [rule.op for rule in found.rules] == ["muon", "adamw"]
    assert "p  <- p - lr * mhat / (sqrt(vhat) + eps)" in found.rules[1].formula
    assert found.rules[0].code.text.startswith("def update(")


def test_clipping_scales_the_step_and_not_the_prediction():
    how = dict(optimizer="sgd", lr=1e-3, weight_decay=0.0)
    whole = step.take(model_of(), TEXT, TrainingConfig(**how))
    norm = np.sqrt(sum((g**2).sum() for g in leaves(whole.gradients)))
    clipped = step.take(model_of(), TEXT, TrainingConfig(**how, grad_clip=norm / 2))
    assert (whole.scale, clipped.scale) == (1, pytest.approx(0.5, rel=1e-5))
    assert clipped.predicted == pytest.approx(whole.predicted / 2, rel=1e-5)


def test_a_step_that_diverges():
    with pytest.raises(RunError, match=r"the (loss is|logits are)"):
        step.take(model_of(), TEXT, TrainingConfig(optimizer="sgd", lr=1e300))


def test_progress_of_a_step():
    calls = []
    step.take(
        model_of(), TEXT, TrainingConfig(), earlier=3, progress=lambda *now: calls.append(now)
    )
    assert calls == [(i, len(calls)) for i in range(1, len(calls) + 1)]


@pytest.mark.filterwarnings("ignore::npgpt.errors.DropoutWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_measured_slope_is_the_gradient(dtype):
    """One number drawn from every parameter, and that with its largest gradient."""
    model, rng = model_of(dtype), np.random.default_rng(3)
    twin = precision.cast(model)
    assert twin.dtype == np.float64
    loss, cache = twin.loss([TEXT[:-1]], [TEXT[1:]])
    for name, gradient in npgpt.named(twin.backward(cache)):
        drawn = tuple(int(rng.integers(size)) for size in gradient.shape)
        largest = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        for index in (drawn, tuple(map(int, largest))):
            found = nudge.measure(model, TEXT, name, index, points=3)
            assert found.gradient == gradient[index]
            assert found.agrees
            if abs(found.gradient) > 1e-9:
                assert found.slope == pytest.approx(found.gradient, rel=1e-5)
                assert found.error < 1e-4 * abs(found.gradient)
            assert found.losses[1] == pytest.approx(loss, rel=1e-12)
            assert found.value == dict(npgpt.named(model.params))[name][index]


def test_a_tied_matrix_is_moved_in_both_of_its_places():
    """A token of the text, and one that only the head has."""
    config = npgpt.Config(vocab_size=31, context_length=12, n_layer=2, n_head=2, n_embd=16)
    model = npgpt.GPT(config, seed=5, scheme="book", dtype="float64", ops=ops)
    loss, cache = model.loss([TEXT[:-1]], [TEXT[1:]])
    gradient = model.backward(cache).wte.weight
    passes = Passes(model, TEXT)
    for index in ((5, 3), (30, 3)):
        found = nudge.measure_in(passes, "wte.weight", index, reach=0.5, points=3)
        assert found.gradient == gradient[index]
        assert found.slope == pytest.approx(gradient[index], rel=1e-5)
        model.params.wte.weight[index] += 0.5
        assert found.losses[2] == pytest.approx(model.evaluate([TEXT[:-1]], [TEXT[1:]]), rel=1e-12)
        model.params.wte.weight[index] -= 0.5
        assert found.losses[1] == pytest.approx(loss, rel=1e-12)


def test_layers_below_a_number_are_not_computed_again(monkeypatch):
    """The number of layers is told beforehand, and a computation that was ended is made anew."""
    monkeypatch.setattr(nudge, "MOST", nudge.AT_ONCE)  # or a slope may need a second round
    passes, told = Passes(model_of(), TEXT), []

    def count(name):
        told.clear()
        nudge.measure_in(
            passes, name, (3,), points=3, progress=lambda done, total: told.append((done, total))
        )
        assert told == [(i, len(told)) for i in range(1, len(told) + 1)]
        return len(told)

    def leave(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nudge.measure_in(passes, "ln_f.bias", (3,), progress=leave)
    # 5 layers to the loss; the gradient of the number; its layer, and those above it
    assert count("ln_f.bias") == 5 + 1 + 2
    assert count("h.0.ln_1.bias") == 2 + 1 + 4  # the backward pass of two layers is new
    assert count("h.0.ln_1.bias") == 1 + 4
    assert count("h.1.ln_2.bias") == 1 + 3


def test_long_texts_are_moved_in_parts(monkeypatch):
    found = nudge.measure(model_of(), TEXT, "h.1.ln_2.bias", (3,))
    monkeypatch.setattr(passes_module, "ROWS", 30)  # two texts at once
    again = nudge.measure(model_of(), TEXT, "h.1.ln_2.bias", (3,))
    np.testing.assert_allclose(again.losses, found.losses, rtol=1e-14)
    assert again.slope == pytest.approx(found.slope, rel=1e-8)


def test_a_wrong_gradient_does_not_agree():
    found = nudge.measure(model_of(), TEXT, "h.0.mlp.c_fc.weight", (1, 2))
    assert found.agrees
    assert not found._replace(gradient=found.gradient * 1.001).agrees
    assert not found._replace(gradient=-found.gradient).agrees


def test_the_losses_around_a_number():
    model = model_of()
    found = nudge.measure(model, TEXT, "ln_f.weight", (3,), reach=0.5, points=5)
    assert found.offsets.tolist() == [-0.5, -0.25, 0, 0.25, 0.5]
    model.params.ln_f.weight[3] += 0.25
    assert found.losses[3] == pytest.approx(model.evaluate([TEXT[:-1]], [TEXT[1:]]), rel=1e-12)


def test_the_slope_of_a_function_that_is_known():
    slope, error, h = nudge.ridders(lambda x: np.exp(2 * x) - 1, 0.1)
    assert slope == pytest.approx(2, rel=1e-9)
    assert abs(slope - 2) < 2 * error + 1e-12
    assert nudge.ridders(lambda x: np.exp(2 * x) - 1, 0.1, noise=1e-6)[2] > h  # enough for it


@pytest.mark.parametrize(
    ("name", "index", "says"),
    [("h.9.ln_1.weight", (0,), "must be a parameter"), ("ln_f.weight", (16,), "is not one of"),
     ("ln_f.weight", (-1,), "is not one of"), ("wte.weight", (1,), "whose shape is"),
     ("wte.weight", (1, 0.5), "must be an integer"), (None, (1,), "must be a parameter")],
)  # fmt: skip
def test_numbers_that_no_parameter_has(name, index, says):
    with pytest.raises(InputError, match=says):
        nudge.measure(model_of(), TEXT, name, index)
