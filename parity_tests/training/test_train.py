"""The training loop: the order of events, and bit-identical results of interrupted runs."""

from dataclasses import replace

import numpy as np
import pytest

from npgpt.config import Config, RunConfig, TrainingConfig
from npgpt.data.dataset import Tokens
from npgpt.data.tokenizer import tokenizer
from npgpt.errors import InputError, RunError
from npgpt.gpt import GPT
from npgpt.model import params
from npgpt.model.params import named
from npgpt.rng import Generator
from npgpt.training import optim, run_state
from npgpt.training.events import Evaluation, Sample, Step
from npgpt.training.run import resume
from npgpt.training.run_dir import RunDir
from npgpt.training.trainer import Trainer
from parity_tests.support.runs import without_clock

CONFIG = Config(vocab_size=257, context_length=8, n_layer=1, n_head=2, n_embd=8, dropout=0.2)
TEXT = "The keeper counts the ships, and writes them down; ships count no keepers. " * 2
TRAINING = TrainingConfig(
    epochs=3, batch_size=4, lr=1e-2, min_lr=1e-3, warmup_steps=2, grad_clip=0.5, eval_every=2,
    eval_batches=1, prompt="The", sample_tokens=2, seed=7,
)  # fmt: skip


def tokens_of(text=TEXT, val=40):
    ids = np.array(tokenizer("byte").encode(text), np.int64)
    return Tokens(ids[:-val], ids[-val:], "a digest", tokenizer("byte"))


def begin(training=TRAINING, config=CONFIG, *, ops=None, tokens=None, dtype=np.float32):
    tokens = tokens or tokens_of()
    rng = Generator(training.seed, ops=ops)
    model = GPT(config, seed=rng, ops=ops, dtype=dtype, tokenizer="byte")
    prompt = tokenizer("byte").encode(training.prompt)
    return Trainer(model, tokens.train, tokens.val, training, rng, prompt=prompt)


def bits(trainer):
    """Return the complete state of a run, as bytes by name."""
    trees = dict(p=trainer.model.params, **trainer.optimizer.moments)
    all_of_it = {f"{k}.{name}": a.tobytes() for k, t in trees.items() for name, a in named(t)}
    p = dict(vars(trainer.progress))
    p["history"] = [without_clock(line) for line in p["history"]]
    p["order"] = None if p["order"] is None else p["order"].tolist()
    return all_of_it | p | {"rng": trainer.rng.state.tobytes(), "steps": trainer.optimizer.steps}


# Events


def test_events_come_in_order_and_say_where_they_stand():
    trainer = begin()
    batches = len(trainer.steps_data)
    assert batches == 3  # 110 tokens make 13 windows of 8: three fours, and one left out
    events = list(trainer.events())
    kinds = [(type(event).__name__, event.step) for event in events]
    expected = []
    for step in range(9):
        expected += [("Evaluation", step)] * (step % 2 == 0)
        expected += [("Sample", step)] * (step % 3 == 2)
        expected += [("Step", step)]
    assert kinds == expected
    for event in events:
        assert event.epoch == event.step // batches + 1
        if not isinstance(event, Sample):
            assert event.tokens_seen == (event.step + 1) * 4 * 8
            assert event.lr == trainer.learning_rate(event.step)
            assert event.tokens_per_s > 0
        if isinstance(event, Step):
            assert event.ends_epoch == (event.step % 3 == 2)
    assert trainer.tokens_per_epoch == batches * 4 * 8
    assert [vars(e) for e in events if isinstance(e, Evaluation)] == trainer.progress.history
    samples = [e for e in events if isinstance(e, Sample)]
    assert [vars(e) for e in samples] == trainer.progress.samples
    for sample in samples:
        assert sample.tokens[:3] == list(b"The")
        assert len(sample.tokens) == 3 + TRAINING.sample_tokens


def test_without_a_prompt_there_are_no_samples():
    tokens, training = tokens_of(), replace(TRAINING, epochs=1)
    model = GPT(CONFIG, seed=7)
    trainer = Trainer(model, tokens.train, tokens.val, training, Generator(7))
    assert [type(event) for event in trainer.events()] == [Evaluation, Step, Step, Evaluation, Step]
    assert trainer.progress.epoch == 1
    assert trainer.progress.samples == []


@pytest.mark.parametrize(
    ("epochs", "steps", "made", "finished"),
    [(2, None, 6, 2), (2, 4, 4, 1), (1, 7, 7, 2), (5, 1, 1, 0), (1, 3, 3, 1)],
)
def test_epochs_and_steps_say_when_it_ends(epochs, steps, made, finished):
    trainer = begin(replace(TRAINING, epochs=epochs, steps=steps))
    events = list(trainer.events())
    assert trainer.total_steps == made == sum(isinstance(e, Step) for e in events)
    assert trainer.progress.step == trainer.optimizer.steps == made
    assert trainer.progress.epoch == finished == sum(isinstance(e, Sample) for e in events)
    assert list(trainer.events()) == []


def test_an_evaluation_is_the_loss_without_dropout_over_eval_batches():
    trainer = begin(replace(TRAINING, eval_batches=None, steps=1))
    first = next(trainer.events())
    model, val = trainer.model, trainer.evaluations[1].data
    losses = [model.evaluate(*batch) for batch in val.batches(np.arange(len(val.inputs)))]
    assert len(losses) == 1
    assert first.val_loss == sum(losses) / len(losses)

    limited = begin(replace(TRAINING, eval_batches=2, batch_size=1, steps=1))
    seen = []
    limited.model.evaluate = lambda tokens, targets: seen.append(tokens.copy()) or 0.0
    next(limited.events())
    assert len(seen) == 4  # two of each split
    val = limited.evaluations[1].data
    assert [tokens[0].tolist() for tokens in seen[2:]] == val.inputs[:2].tolist()


def test_every_window_is_seen_once_in_an_epoch():
    trainer = begin(replace(TRAINING, batch_size=1, epochs=2, sample_tokens=0))
    seen = []
    trainer.update = lambda tokens, targets, lr: seen.append(tokens.tolist()) or (0.0, None)
    list(trainer.events())
    n = len(trainer.steps_data)
    everything = sorted(trainer.steps_data.inputs.tolist())
    assert sorted(t[0] for t in seen[:n]) == sorted(t[0] for t in seen[n:]) == everything
    assert seen[:n] != seen[n:]  # shuffled anew


def test_a_step_is_the_gradient_clipped_after_the_warmup_and_adamw(backend):
    config = replace(CONFIG, dropout=0.0)
    trainer = begin(config=config, ops=backend, dtype=np.float64)
    scales, before = [], trainer.optimizer.step
    trainer.optimizer.step = lambda g, *, lr, scale: (
        scales.append(scale),
        before(g, lr=lr, scale=scale),
    )
    twin = GPT.from_params(config, params.map_leaves(trainer.model.params, np.copy), ops=backend)
    adamw = optim.AdamW(twin.params, weight_decay=TRAINING.weight_decay, ops=backend)
    batches = []
    wrapped = trainer.update
    trainer.update = lambda *a: batches.append((a[0].copy(), a[1].copy())) or wrapped(*a)
    steps = [event for event in trainer.events() if isinstance(event, Step)]
    for i, (batch, step) in enumerate(zip(batches, steps, strict=True)):
        loss, cache = twin.loss(*batch)
        gradients = twin.backward(cache)
        norm = np.sqrt(sum(np.square(a).sum() for _, a in named(gradients)))
        assert step.loss == pytest.approx(float(loss), rel=1e-12)
        assert step.norm == pytest.approx(norm, rel=1e-12)
        assert scales[i] == pytest.approx(
            1.0 if i < TRAINING.warmup_steps else min(1.0, 0.5 / (norm + 1e-6)), rel=1e-12
        )
        adamw.step(gradients, lr=step.lr, scale=scales[i])
    assert min(scales) < 1  # it did clip
    for (name, a), (_, b) in zip(named(trainer.model.params), named(twin.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)


def test_accumulation_is_the_large_batch(backend):
    config = replace(CONFIG, dropout=0.0)
    made = []
    for size, parts in ((4, 1), (2, 2), (1, 4)):
        training = replace(TRAINING, batch_size=size, grad_accumulation=parts, epochs=1)
        trainer = begin(training, config, ops=backend, dtype=np.float64)
        assert trainer.tokens_per_epoch == 3 * 4 * 8
        made.append(([e.loss for e in trainer.events() if isinstance(e, Step)], trainer))
    for losses, trainer in made[1:]:
        np.testing.assert_allclose(losses, made[0][0], rtol=1e-12)
        for (name, a), (_, b) in zip(
            named(trainer.model.params), named(made[0][1].model.params), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)


def test_accumulation_weights_the_parts_by_the_targets_that_count(backend):
    """The four rows of the batch have 1, 0, 8 and 3 targets that are not ignored."""
    config, made = replace(CONFIG, dropout=0.0), []
    ids = np.arange(72).reshape(2, 4, 9)[0]
    tokens, targets = ids[:, :-1], ids[:, 1:].copy()
    targets[0, 1:], targets[1], targets[3, 3:] = -100, -100, -100
    for parts in (1, 2, 4, 3):
        training = replace(TRAINING, batch_size=1, grad_accumulation=parts)
        trainer = begin(training, config, ops=backend, dtype=np.float64)
        made.append((*trainer.update(tokens, targets, 1e-3), trainer.gradients))
    for loss, norm, gradients in made[1:]:
        assert (loss, norm) == pytest.approx(made[0][:2], rel=1e-12)
        for (name, a), (_, b) in zip(named(gradients), named(made[0][2]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-15, err_msg=name)
    with pytest.raises(InputError, match="all 32 targets are -100, which is ignored"):
        trainer.update(tokens, np.full_like(targets, -100), 1e-3)


def test_training_reduces_the_loss(backend):
    training = replace(TRAINING, epochs=25, lr=2e-2, eval_batches=None, sample_tokens=0)
    trainer = begin(training, ops=backend)
    list(trainer.events())
    first, last = trainer.progress.history[0], trainer.progress.history[-1]
    assert first["train_loss"] == pytest.approx(np.log(257), abs=0.1)
    assert last["train_loss"] < 3.2


# Stopped and resumed


def saved_and_read(trainer, tokens, tmp_path):
    """Save a run and resume it from its checkpoint, as `npgpt train --resume` does."""
    directory = RunDir(tmp_path)
    backend_name = "fused" if trainer.model.ops.__name__ == "npgpt.fused" else "numpy"
    model, training = trainer.model, trainer.training
    chosen = dict(ops=backend_name, dtype=model.dtype.name, config=model.config, training=training)
    directory.settings, directory.data_sha256 = RunConfig(**chosen), tokens.sha256
    directory.checkpoints(trainer).save(last=True)
    settings, model, saved = run_state.read(tmp_path)
    assert settings == directory.settings
    return resume(settings, tokens, model, saved)


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_run_stopped_after_any_step_resumes_bit_for_bit(backend, stop, tmp_path):
    """Nine steps in three epochs, stopped in their middle and at their ends."""
    tokens = tokens_of()
    whole = begin(ops=backend)
    list(whole.events())

    first = begin(ops=backend)
    next(e for e in first.events() if isinstance(e, Step) and e.step == stop - 1)
    second = saved_and_read(first, tokens, tmp_path)
    assert second.progress.step == stop
    if stop % 3:
        assert second.progress.order.tolist() == first.progress.order.tolist()
    else:
        assert second.progress.order is None
    steps = [e.step for e in second.events() if isinstance(e, Step)]
    assert steps == list(range(stop, 9))
    assert bits(second) == bits(whole)


def test_a_run_stopped_after_every_step_resumes_bit_for_bit(tmp_path):
    training = replace(TRAINING, grad_accumulation=2, batch_size=2)
    config = replace(CONFIG, tied=False, qkv_bias=False)
    tokens = tokens_of()
    whole = begin(training, config, dtype=np.float64)
    list(whole.events())
    run = begin(training, config, dtype=np.float64)
    while run.progress.step < run.total_steps:
        next(e for e in run.events() if isinstance(e, Step))
        run = saved_and_read(run, tokens, tmp_path)
    assert bits(run) == bits(whole)


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    runs = [begin(replace(TRAINING, seed=seed)) for seed in (7, 7, 8)]
    for run in runs:
        list(run.events())
    first, same, other = (bits(run) for run in runs)
    assert first == same
    assert first["p.wte.weight"] != other["p.wte.weight"]


def test_resuming_refuses_what_does_not_fit(tmp_path):
    tokens, trainer = tokens_of(), begin()
    next(e for e in trainer.events() if isinstance(e, Step))
    saved_and_read(trainer, tokens, tmp_path)
    settings, model, saved = run_state.read(tmp_path)
    with pytest.raises(InputError, match=r"is not the one this run was trained on.*a digest"):
        resume(settings, replace(tokens, sha256="another"), model, saved)
    shorter = replace(tokens, train=tokens.train[:90])
    with pytest.raises(InputError, match="order of 13 windows, the text makes 11"):
        resume(settings, shorter, model, saved)
    saved.state["progress"]["position"] = 3
    with pytest.raises(InputError, match="3 batches into an epoch of 3 batches"):
        resume(settings, tokens, model, saved)


# Failures


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_no_number_stops_before_the_parameters_change(backend, value):
    trainer = begin(replace(TRAINING, grad_clip=None), ops=backend)
    next(e for e in trainer.events() if isinstance(e, Step) and e.step == 3)
    trainer.model.params.ln_f.bias[0] = value
    before = bits(trainer)
    with pytest.raises(RunError, match=r"the loss became nan at step 4\. Try a lower --lr"):
        list(trainer.events())
    after = bits(trainer)
    assert {k: v for k, v in after.items() if k[:2] in ("p.", "m.", "v.") or k == "step"} == {
        k: v for k, v in before.items() if k[:2] in ("p.", "m.", "v.") or k == "step"
    }


def test_a_gradient_that_is_no_number_stops_it_too(backend):
    trainer = begin(ops=backend)
    compute = trainer.model.loss_and_gradients

    def spoilt(*args, **options):
        loss, gradients = compute(*args, **options)
        gradients.ln_f.bias.fill(np.nan)
        return loss, gradients

    trainer.model.loss_and_gradients = spoilt
    with pytest.raises(RunError, match="the gradient's norm became nan at step 0"):
        list(trainer.events())


def test_an_evaluation_that_is_no_number_stops_it(backend):
    """A learning rate so large that the parameters leave float32 in one step."""
    training = replace(TRAINING, lr=3e38, initial_lr=3e38, min_lr=None, grad_clip=None)
    trainer = begin(training, ops=backend)
    with pytest.raises(RunError, match=r"loss became (nan|inf) at step [01]"):
        list(trainer.events())
    assert all(np.isfinite(point["val_loss"]) for point in trainer.progress.history)


def test_a_checkpoint_is_not_written_over_with_what_is_no_number(tmp_path):
    tokens, trainer = tokens_of(), begin()
    next(e for e in trainer.events() if isinstance(e, Step))
    saved_and_read(trainer, tokens, tmp_path)
    good = (tmp_path / "checkpoint.h5").read_bytes()
    for value in (np.nan, np.inf, -np.inf):
        trainer.model.params.h[0].mlp.c_fc.weight[1, 2] = value
        with pytest.raises(RunError, match=r"h\.0\.mlp\.c_fc\.weight .* after step 0"):
            saved_and_read(trainer, tokens, tmp_path)
    assert (tmp_path / "checkpoint.h5").read_bytes() == good


@pytest.mark.parametrize(
    ("text", "val", "changes", "says"),
    [
        (TEXT[:48], 40, {}, "the training split has 8 tokens.* context length 8 needs 9"),
        (TEXT, 8, {}, "the validation split has 8 tokens.* context length 8 needs 9"),
        (TEXT, 0, {}, "the validation split has 0 tokens"),
        (TEXT[:80], 40, {"batch_size": 5}, r"4 windows \(40 tokens.* needs 5 \(batch size 5"),
        (TEXT[:80], 40, {"grad_accumulation": 2}, "needs 8 .batch size 4, accumulation 2"),
    ],
)
def test_a_split_that_is_too_short_is_named(text, val, changes, says):
    ids = np.array(tokenizer("byte").encode(text), np.int64)
    cut = len(ids) - val
    with pytest.raises(InputError, match=says):
        begin(
            replace(TRAINING, **changes), tokens=Tokens(ids[:cut], ids[cut:], "", tokenizer("byte"))
        )
