"""Frozen parameters: PyTorch's requires_grad = False, in gradients, steps, runs and on ranks."""

import copy
import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import npgpt
from npgpt.cli.main import main
from npgpt.config import Config, RunConfig, TrainingConfig
from npgpt.distributed.diloco_trainer import DiLoCoTrainer
from npgpt.distributed.trainer import DataParallelTrainer
from npgpt.distributed.world import World
from npgpt.errors import ConfigError, InputError
from npgpt.finetuning.classifier import Classifier
from npgpt.gpt import GPT
from npgpt.model import params, trainable
from npgpt.model.backend import OPS
from npgpt.model.params import named
from npgpt.rng import Generator
from npgpt.training import run_state, schedule
from npgpt.training.events import Step
from npgpt.training.run import resume
from npgpt.training.trainer import Trainer
from npgpt.weights import classifier_file
from parity_tests.training.test_train import bits, tokens_of
from reference import finetuning, gpt2

CONFIG = Config(vocab_size=31, context_length=9, n_layer=3, n_head=2, n_embd=8)
PATTERNS = [
    ("h.2", "ln_f"), ("ln_f.bias",), ("h.1.mlp",), ("h.0.ln_1.weight",), ("wpe",), ("wte",),
    ("h.*.attn.c_attn.bias", "h.1.*.weight"), ("*",),
]  # fmt: skip


def model_of(backend, *patterns, config=CONFIG, dtype="float64"):
    model = GPT(config, ops=backend, dtype=dtype)
    model.set_trainable(*patterns)
    return model


def batch(rng, config=CONFIG):
    return rng.integers(config.vocab_size, size=(2, 3, 9))


def torch_of(model, names):
    arrays = {name: array.copy() for name, array in named(model.params)}
    twin = gpt2.from_arrays(gpt2.Config(**asdict(model.config)), arrays)
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(name in names)
    return twin


def copies(tree):
    return {name: array.copy() for name, array in named(tree)}


# Gradients


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_gradients_are_pytorchs_and_zero_where_it_has_none(backend, tied, rng):
    config = replace(CONFIG, tied=tied)
    tokens, targets = batch(rng)
    model = model_of(backend, "*", config=config)
    loss, found = model.loss_and_gradients(tokens, targets)
    complete = copies(found)
    for patterns in [*PATTERNS, *([] if tied else [("lm_head",), ("lm_head", "wte")])]:
        model.set_trainable(*patterns)
        names = trainable.names_of(model.params, patterns)
        twin = torch_of(model, names)
        twin.loss(torch.tensor(tokens), torch.tensor(targets)).backward()
        value, found = model.loss_and_gradients(tokens, targets)
        assert value == loss and names == {n for n, p in twin.named_parameters() if p.requires_grad}
        for name, theirs in twin.named_parameters():
            ours = dict(named(found))[name]
            if theirs.grad is None:
                assert ours.shape == theirs.shape and not ours.any(), (patterns, name)
            else:
                np.testing.assert_allclose(ours, theirs.grad, rtol=1e-8, atol=1e-12)
                assert np.array_equal(ours, complete[name]), (patterns, name)


def test_a_frozen_gradient_takes_no_memory_and_another_tree_is_set_to_zero(rng):
    model, (tokens, targets) = model_of("numpy", "h.2", "ln_f"), batch(rng)
    _, first = model.loss_and_gradients(tokens, targets)
    assert first.wte.weight.strides == (0, 0) and not first.wte.weight.flags.writeable
    expected = copies(first)
    given = params.map_leaves(model.params, lambda leaf: np.full_like(leaf, 7))
    for out in (given, first):  # which may be the model's own
        _, found = model.loss_and_gradients(tokens, targets, out=out)
        assert found is out
        _, cache = model.loss(tokens, targets)
        for tree in (found, model.backward(cache), model.backward(model.loss(tokens, targets)[1],
                                                                  out=out)):  # fmt: skip
            for name, array in named(tree):
                np.testing.assert_array_equal(array, expected[name], name)
    _, cache = model.loss(tokens, targets)
    model.set_trainable("wte")
    with pytest.raises(InputError, match="set_trainable was called since loss"):
        model.backward(cache)
    # nothing frozen is writable there, but what is trained must be
    with pytest.raises(InputError, match=r"out: wte.weight must be writable"):
        model.loss_and_gradients(tokens, targets, out=first)


CALLS = {  # of backward, in a model of three blocks; dW: of the linear layers
    ("h.2", "ln_f"): dict(layernorm=3, gelu=1, attention=1, linear=4, dW=4, embedding=0, head=0),
    ("ln_f",): dict(layernorm=1, gelu=0, attention=0, linear=0, dW=0, embedding=0, head=0),
    ("h.1.mlp",): dict(layernorm=4, gelu=2, attention=1, linear=6, dW=2, embedding=0, head=0),
    ("h.0.attn",): dict(layernorm=7, gelu=3, attention=3, linear=12, dW=2, embedding=0, head=0),
    ("wpe",): dict(layernorm=7, gelu=3, attention=3, linear=12, dW=0, embedding=1, head=0),
    ("*",): dict(layernorm=7, gelu=3, attention=3, linear=12, dW=12, embedding=1, head=1),
}


@pytest.mark.parametrize("patterns, expected", CALLS.items(), ids=" ".join)
def test_backward_ends_where_nothing_below_is_trained(patterns, expected, rng):
    counts = dict.fromkeys(expected, 0)

    def counted(op):
        module = getattr(npgpt.ops, op)

        def backward(dout, cache, *g, **options):
            counts[op] += 1
            counts["dW"] += op == "linear" and g[0].weight is not None
            return module.backward(dout, cache, *g, **options)

        return SimpleNamespace(forward=module.forward, backward=backward)

    def head(*arguments, frozen, **options):
        counts["head"] += not frozen
        return npgpt.ops.linear_cross_entropy.forward(*arguments, frozen=frozen, **options)

    ops = {op: counted(op) if op in counts else getattr(npgpt.ops, op) for op in OPS}
    ops["linear_cross_entropy"] = SimpleNamespace(
        forward=head, backward=npgpt.ops.linear_cross_entropy.backward
    )
    model = model_of(SimpleNamespace(**ops), *patterns)
    _, cache = model.loss(*batch(rng))
    kept = [one is not None for one in cache.activations.hidden.h]
    model.backward(cache)
    assert counts == expected
    assert sum(kept) == expected["gelu"]  # no activations below


# Steps


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_steps_are_pytorchs(backend, optimizer, rng):
    """Neither decay nor clipping knows of frozen parameters, in a loop of one's own."""
    model = model_of(backend, "h.1.attn", "ln_f")
    names = trainable.names_of(model.params, model.trainable)
    twin, before = torch_of(model, names), copies(model.params)
    options = dict(lr=1e-2, weight_decay=0.3)
    ours = getattr(npgpt, optimizer)(model.params, ops=backend, **options)
    theirs = getattr(torch.optim, optimizer)(twin.parameters(), **options)
    for _ in range(4):
        tokens, targets = batch(rng)
        _, gradients = model.loss_and_gradients(tokens, targets)
        norm = schedule.global_norm(gradients, ops=model.ops)
        ours.step(gradients, scale=schedule.clip_scale(norm, 0.1))
        theirs.zero_grad()
        twin.loss(torch.tensor(tokens), torch.tensor(targets)).backward()
        total = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        theirs.step()
        assert norm == pytest.approx(float(total), rel=1e-10)
    for name, theirs in twin.named_parameters():
        array = dict(named(model.params))[name]
        np.testing.assert_allclose(array, theirs.detach(), rtol=1e-7, atol=1e-10, err_msg=name)
        assert np.array_equal(array, before[name]) == (name not in names)


# Runs

SMALL = Config(vocab_size=257, context_length=8, n_layer=2, n_head=2, n_embd=8, dropout=0.2)
TRAINING = TrainingConfig(
    steps=4, batch_size=4, grad_accumulation=2, lr=1e-2, grad_clip=0.5, eval_every=2,
    eval_batches=1, sample_tokens=2, seed=7, trainable=("h.1", "ln_f"),
)  # fmt: skip


def trainer_of(training=TRAINING, kind=Trainer, config=SMALL, **options):
    rng, tokens = Generator(training.seed, ops="numpy"), tokens_of()
    model = GPT(config, seed=rng, ops="numpy", dtype="float64", tokenizer="byte")
    options.setdefault("prompt", tokens.tokenizer.encode(training.prompt))
    return kind(model, tokens.train, tokens.val, training, rng, **options)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_a_run_resumes_bit_for_bit_and_stores_the_moments_of_what_is_trained(optimizer, tmp_path):
    training = replace(TRAINING, optimizer=optimizer, momentum=0.9 if optimizer == "sgd" else None)
    trainer, before = trainer_of(training), copies(trainer_of(training).model.params)
    stopped = trainer_of(training)
    for event in stopped.events():
        if isinstance(event, Step) and event.step == 1:
            break
    settings = RunConfig(
        config=SMALL, training=training, dtype="float64", ops="numpy", preset="tiny"
    )
    path = tmp_path / "checkpoint.h5"
    run_state.write(path, stopped, run_state.Record(settings, "a digest"))
    assert [*trainer.events()]
    found, model, saved = run_state.read(path)
    resumed = resume(found, tokens_of(), model, saved)
    assert [*resumed.events()]
    assert bits(resumed) == bits(trainer)
    for name, array in named(trainer.model.params):
        is_trained = name.startswith(("h.1", "ln_f"))
        assert np.array_equal(array, before[name]) == (not is_trained), name
        for moment in saved.moments.values():
            assert is_trained or not dict(named(moment))[name].size


def test_a_model_that_is_frozen_stays_so_in_a_trainer():
    trainer = trainer_of(replace(TRAINING, trainable=None))
    trainer.model.set_trainable("ln_f")
    again = Trainer(
        trainer.model, tokens_of().train, tokens_of().val,
        replace(TRAINING, trainable=None), trainer.rng,
    )  # fmt: skip
    assert again.training.trainable == ("ln_f",)
    assert trainer.training.trainable is None


@pytest.mark.parametrize("kind, changes", [
    (DataParallelTrainer, {}),
    (DiLoCoTrainer, dict(sync_every=1, outer_lr=1.0, outer_momentum=0.0)),
])  # fmt: skip
def test_ranks_train_the_same_parameters(kind, changes):
    config = replace(SMALL, dropout=0.0)
    one = trainer_of(config=config)
    many = trainer_of(replace(TRAINING, **changes), kind, config, world=World())
    for trainer in (one, many):
        assert [*trainer.events()]
    for (name, a), (_, b) in zip(named(one.model.params), named(many.model.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)
    for name, array in named(many.gather_moments()["m"]):
        assert bool(array.size) == name.startswith(("h.1", "ln_f"))


# Patterns


def test_a_pattern_names_layers_or_parameters():
    tree = params.shapes(replace(CONFIG, n_layer=12, tied=False))
    every = {name for name, _ in named(tree)}

    def names(*patterns):
        return trainable.names_of(tree, patterns)

    assert names("*") == every
    assert names("h.1") == names("h.1.*") == {name for name in every if name.startswith("h.1.")}
    assert names("h.1*") == {name for name in every if name.startswith("h.1")}
    assert names("lm_head") == {"lm_head.weight"}
    assert names("ln_f", "h.*.ln_1.bias") == {
        "ln_f.weight", "ln_f.bias", *(f"h.{i}.ln_1.bias" for i in range(12)),
    }  # fmt: skip


@pytest.mark.parametrize("patterns, says", [
    (("h.3",), "the pattern 'h.3' matches no parameter: names are such as wte.weight"),
    (("ln_f", "lm_head"), "the pattern 'lm_head' matches no parameter"),
    ((3,), "a pattern is 3, but must be a string"),
    ((), "no parameter is trainable: give at least one pattern"),
])  # fmt: skip
def test_what_matches_nothing_is_refused(patterns, says):
    model = model_of("numpy", "*")
    with pytest.raises(InputError, match=says):
        model.set_trainable(*patterns)
    assert model.trainable == ("*",)


def test_a_setting_is_one_pattern_or_several():
    assert TrainingConfig(trainable="ln_f").trainable == ("ln_f",)
    assert TrainingConfig(trainable=["h.1", "ln_f"]).trainable == ("h.1", "ln_f")
    assert TrainingConfig(trainable=("ln_f", "*")) == TrainingConfig(trainable=[])
    for wrong in (3, [3], {"ln_f"}):
        with pytest.raises(ConfigError, match=r"trainable is .*names of parameters or layers"):
            TrainingConfig(trainable=wrong)


def test_copies_have_the_same_frozen_parameters():
    model = model_of("numpy", "ln_f")
    assert copy.deepcopy(model).trainable == model.trainable == ("ln_f",)


# The command

FLAGS = ("--n-layer 2 --n-head 1 --n-embd 4 --context-length 8 --eval-every 9 --eval-tokens 64 "
         "--sample-tokens 1 --ops numpy").split()  # fmt: skip


@pytest.mark.slow
def test_the_command_line_trains_what_it_names(tmp_path, capsys):
    out, file = tmp_path / "run", tmp_path / "settings.yaml"
    file.write_text("trainable: [wpe]\nsteps: 1\n")
    start = ["train", *FLAGS, "--out", str(out), "--config", str(file)]
    assert main([*start, "--trainable", "h.1.mlp", "--trainable", "ln_f"]) == 0
    assert "2,584 parameters, 156 of them trained (layers 2" in capsys.readouterr().out
    settings = json.loads((out / "config.json").read_text("utf-8"))
    assert settings["training"]["trainable"] == ["h.1.mlp", "ln_f"]
    start = ["train", "--resume", str(out), "--steps", "2"]
    assert main([*start, "--trainable", "h.1", "ln_f"]) == 2
    assert ("--trainable h.1 ln_f does not fit: " in (said := capsys.readouterr().err)
            and "was made with h.1.mlp ln_f. Leave the flag out" in said)  # fmt: skip
    assert main(start) == 0
    assert main(["train", *FLAGS, "--trainable", "h.9"]) == 2
    assert "the pattern 'h.9' matches no parameter" in capsys.readouterr().err


# A head of another kind


def test_the_gradients_of_a_classifier_are_autograds(backend, rng):
    """All parameters, also the tied embedding, to which the head adds nothing."""
    model = model_of(backend, "*")
    settings = classifier_file.HeadSettings(("a", "b", "c"), "last-token", 9, 0)
    ours = Classifier.start(model, settings, Generator(5, ops=backend))
    tokens, lengths, labels = batch(rng)[0], np.array([4, 9, 1]), np.array([2, 0, 1])
    g = params.map_leaves(ours.params, lambda a: np.full_like(a, np.nan))
    loss = ours.loss_and_gradients(tokens, lengths, labels, g)

    theirs = finetuning.Classifier(torch_of(model, dict(named(model.params))), 3).double()
    weight, bias = (torch.tensor(array) for array in ours.params.lm_head)
    theirs.head.load_state_dict({"weight": weight.T, "bias": bias})
    expected = theirs.loss(*map(torch.from_numpy, (tokens, lengths - 1, labels)))
    expected.backward()
    assert abs(loss - expected.item()) < 1e-12
    assert abs(ours.loss(tokens, lengths, labels) - loss) < 1e-12
    gradients = {name: p.grad.numpy() for name, p in theirs.gpt.named_parameters()}
    gradients["lm_head.weight"] = theirs.head.weight.grad.numpy().T
    gradients["lm_head.bias"] = theirs.head.bias.grad.numpy()
    for name, array in named(g):
        assert np.abs(array - gradients[name]).max() < 1e-12, name
