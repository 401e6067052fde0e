"""LoRA: gradients and steps of the reference implementation, merging, files and runs."""

import copy
import json
from dataclasses import asdict, replace

import h5py
import numpy as np
import pytest
import torch

import npgpt
from npgpt.cli.main import main
from npgpt.config import Config, RunConfig, TrainingConfig
from npgpt.distributed.diloco_trainer import DiLoCoTrainer
from npgpt.distributed.trainer import DataParallelTrainer
from npgpt.distributed.world import World
from npgpt.errors import ConfigError, InputError, WeightFileError
from npgpt.gpt import GPT
from npgpt.model import lora, params
from npgpt.model.params import named
from npgpt.performance import profile
from npgpt.training import run_state
from npgpt.training.events import Step
from npgpt.training.run import resume
from npgpt.training.trainer import Trainer
from parity_tests.support.harness import assert_parity, farthest
from parity_tests.training.test_train import bits, tokens_of
from parity_tests.training.test_trainable import FLAGS, SMALL, TRAINING, trainer_of
from reference import gpt2
from reference import lora as reference

CONFIG = Config(vocab_size=31, context_length=9, n_layer=2, n_head=2, n_embd=8)
ADAPTED = replace(TRAINING, trainable=None, lora_rank=2, lora_alpha=4.0, lora_targets=("attn",))


def adapted(backend, targets=("c_attn",), *, config=CONFIG, dtype="float64", seed=3):
    """Return a model whose adapters are not zero."""
    model = GPT(config, ops=backend, dtype=dtype, seed=seed)
    model.add_lora(3, 6.0, targets, seed=seed)
    rng = np.random.default_rng(seed)
    for name, array in named(model.params):
        if name.endswith("lora_b"):
            array[...] = rng.normal(scale=0.3, size=array.shape)
    return model


def torch_of(model, dtype):
    """Return the reference implementation with a copy of a model's parameters."""
    arrays = {name: array.astype(dtype) for name, array in named(model.params)}
    plain = {name: array for name, array in arrays.items() if "lora" not in name}
    twin = gpt2.from_arrays(gpt2.Config(**asdict(model.config)), plain)
    rank, scale = model.adapters.rank, model.adapters.scale
    reference.adapt(twin, rank, scale * rank, model.adapters.layers)
    twin.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    return twin


def batch(seed=0):
    return np.random.default_rng(seed).integers(CONFIG.vocab_size, size=(2, 3, 9))


def gradients_of(twin, tokens, targets):
    twin.zero_grad()
    loss = twin.loss(torch.tensor(tokens), torch.tensor(targets))
    loss.backward()
    found = {n: p.grad.numpy() for n, p in twin.named_parameters() if p.grad is not None}
    return loss.item(), found


def strays_of(model, expected, tokens, targets):
    """Return how far each gradient strays in PyTorch's float32, or moves in float64 if parameters
    are rounded once: PyTorch may be near the truth by chance, on one CPU and not on another."""
    rng = np.random.default_rng(0)
    found = [gradients_of(torch_of(model, np.float32), tokens, targets)[1]]
    for _ in range(3):
        twin = torch_of(model, np.float64)
        with torch.no_grad():
            for p in twin.parameters():
                p *= torch.tensor(1 + rng.uniform(-1, 1, p.shape) * np.finfo(np.float32).eps / 2)
        found.append(gradients_of(twin, tokens, targets)[1])
    return {name: max(farthest(one[name], expected[name]) for one in found) for name in expected}


# Beside PyTorch


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("targets", [("c_attn",), ("*",)], ids=["c_attn", "all"])
@pytest.mark.parametrize("qkv_bias", [True, False], ids=["bias", "no-bias"])
def test_loss_and_gradients_are_the_references(backend, dtype, targets, qkv_bias):
    if qkv_bias == (targets == ("*",)):
        return  # two of the four
    model = adapted(backend, targets, config=replace(CONFIG, qkv_bias=qkv_bias), dtype=dtype)
    tokens, targets = batch()
    loss, found = model.loss_and_gradients(tokens, targets)
    truth, expected = gradients_of(torch_of(model, np.float64), tokens, targets)
    strays = strays_of(model, expected, tokens, targets)
    assert loss == pytest.approx(truth, rel=1e-6 if dtype == np.float32 else 1e-13)
    for name, array in named(found):
        assert ("lora" in name) == (name in expected)
        if name in expected:
            assert_parity(name, array, expected[name], strays[name], dtype=dtype)
        else:
            assert not array.any(), name


def test_steps_are_pytorchs(backend):
    model = adapted(backend, ("attn", "mlp.c_fc"))
    twin, before = torch_of(model, np.float64), {n: a.copy() for n, a in named(model.params)}
    options = dict(lr=1e-2, weight_decay=0.3)
    ours = npgpt.AdamW(model.params, ops=backend, **options)
    theirs = torch.optim.AdamW(twin.parameters(), **options)
    for step in range(3):
        tokens, targets = batch(step)
        _, gradients = model.loss_and_gradients(tokens, targets)
        ours.step(gradients)
        gradients_of(twin, tokens, targets)
        theirs.step()
    for name, expected in twin.named_parameters():
        array = dict(named(model.params))[name]
        np.testing.assert_allclose(array, expected.detach(), rtol=1e-7, atol=1e-10, err_msg=name)
        assert np.array_equal(array, before[name]) == ("lora" not in name), name


def test_the_first_adapters_are_pytorchs_and_change_nothing(backend):
    model = GPT(CONFIG, ops=backend)
    tokens, _ = batch()
    expected = model.logits(tokens)
    model.add_lora(rank=4, targets=["c_attn", "c_proj"], seed=7)
    assert model.adapters == (("attn.c_attn", "attn.c_proj", "mlp.c_proj"), 4, 1.0)
    np.testing.assert_array_equal(model.logits(tokens), expected)
    torch.manual_seed(7)
    arrays = dict(named(lora.without(model.params)))
    twin = gpt2.from_arrays(gpt2.Config(**asdict(CONFIG)), arrays)
    reference.adapt(twin, 4, 4.0, model.adapters.layers)
    for name, parameter in twin.named_parameters():
        np.testing.assert_array_equal(dict(named(model.params))[name], parameter.detach(), name)


def test_bfloat16_rounds_the_products_of_the_adapter_alone(rng):
    """The operands are small integers, which bfloat16 has; only x A and dout B.T are rounded."""
    x, dout, weight, a, b = (
        rng.integers(-8, 9, size=shape).astype(np.float32)
        for shape in ((50, 40), (50, 30), (40, 30), (40, 3), (3, 30))
    )
    p = npgpt.mixed.lora.Params(weight, None, a, b, 0.7)
    g = p._replace(weight=None, lora_a=np.empty_like(a), lora_b=np.empty_like(b))
    out, cache = npgpt.mixed.linear.forward(x, p)
    dx = npgpt.mixed.linear.backward(dout, cache, g)
    low, dlow, half = 0.7 * (x @ a), 0.7 * (dout @ b.T), 2.0**-8  # of a number of 8 bits
    for found, expected, error in (
        (out, x @ weight + low @ b, np.abs(low) @ np.abs(b)),
        (dx, dout @ weight.T + dlow @ a.T, np.abs(dlow) @ np.abs(a.T)),
        (g.lora_a, x.T @ dlow, np.abs(x.T) @ np.abs(dlow)),
        (g.lora_b, low.T @ dout, np.abs(low.T) @ np.abs(dout)),
    ):
        assert (np.abs(found - expected) <= half * error + 1e-3).all()
        assert not np.array_equal(found, expected)


# Merging


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_merged_weights_give_the_same_logits(backend, dtype):
    """Logits of size 3 are sums of up to 32 products in 9 layers: some tens of roundings."""
    model = adapted(backend, ("*",), dtype=dtype)
    tokens, _ = batch()
    logits, eps = model.logits(tokens), np.finfo(dtype).eps
    generated = list(npgpt.generate(model, [1, 2, 3], 6))
    weight = torch_of(model, np.float64).h[1].mlp.c_fc.merged().detach()
    model.merge_lora()
    assert model.adapters is None and model.trainable == ("*",)
    np.testing.assert_allclose(model.params.h[1].mlp.c_fc.weight, weight, rtol=eps, atol=eps)
    np.testing.assert_allclose(model.logits(tokens), logits, rtol=0, atol=50 * eps)
    assert list(npgpt.generate(model, [1, 2, 3], 6)) == generated


def test_tokens_are_generated_with_adapters(backend):
    """One position at a time, as the whole text at once gives them."""
    model, ids = adapted(backend, ("*",)), [1, 2, 3]
    for _ in range(4):
        ids.append(int(model.logits([ids])[0, -1].argmax()))
    assert list(npgpt.generate(model, ids[:3], 4)) == ids[3:]


# Files and runs


def test_a_file_has_the_adapters_and_is_merged_when_it_is_loaded(tmp_path):
    model, file = adapted("numpy", ("mlp",)), tmp_path / "model.h5"
    model.save(file)
    again = npgpt.load(file, ops="numpy")
    np.testing.assert_allclose(again.logits(batch()[0]), model.logits(batch()[0]), rtol=1e-12)
    with h5py.File(file) as opened:
        assert json.loads(opened.attrs["lora"]) == {
            "layers": ["mlp.c_fc", "mlp.c_proj"], "rank": 3, "scale": 2.0,
        }  # fmt: skip
        assert opened["parameters/h.1.mlp.c_fc.lora_a"].shape == (8, 3)
    twin = copy.deepcopy(model)
    assert twin.adapters == model.adapters and twin.trainable == model.trainable


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_resumes_bit_for_bit(optimizer, tmp_path):
    training = replace(ADAPTED, optimizer=optimizer)
    stopped, trainer = trainer_of(training), trainer_of(training)
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
    assert model.adapters == (("attn.c_attn", "attn.c_proj"), 2, 2.0)
    resumed = resume(found, tokens_of(), model, saved)
    assert [*resumed.events()]
    assert bits(resumed) == bits(trainer)
    for tree in saved.moments.values():
        assert all(("lora" in name) == bool(array.size) for name, array in named(tree))


@pytest.mark.parametrize("kind, changes", [
    (DataParallelTrainer, {}),
    (DiLoCoTrainer, dict(sync_every=1, outer_lr=1.0, outer_momentum=0.0)),
])  # fmt: skip
def test_ranks_train_the_same_adapters(kind, changes):
    config = replace(SMALL, dropout=0.0)
    one = trainer_of(ADAPTED, Trainer, config)
    many = trainer_of(replace(ADAPTED, **changes), kind, config, world=World())
    for trainer in (one, many):
        assert [*trainer.events()]
    for (name, a), (_, b) in zip(named(one.model.params), named(many.model.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("change, says", [
    (lambda file: file.attrs.__setitem__("lora", "[1]"), "its LoRA adapters are invalid"),
    (lambda file: file.attrs.__setitem__("lora", '{"layers": ["x"], "rank": 3, "scale": 1}'),
     "its LoRA adapters are invalid .*the LoRA target 'x' names no layer"),
    (lambda file: file.attrs.__setitem__("lora", '{"layers": ["mlp"], "rank": 2, "scale": 1}'),
     r"h.0.mlp.c_fc.lora_a has shape \(8, 3\), its config requires \(8, 2\)"),
    (lambda file: file.attrs.__delitem__("lora"), "lora_a', which its config does not have"),
    (lambda file: file.__delitem__("parameters/h.1.mlp.c_proj.lora_b"), "has no .*c_proj.lora_b"),
])  # fmt: skip
def test_a_file_whose_adapters_do_not_fit_is_refused(tmp_path, change, says):
    from npgpt.weights import checkpoint, hdf5_writer

    model, path = adapted("numpy", ("mlp",)), tmp_path / "model.h5"

    def fill(file):
        checkpoint.fill(file, model, None)
        change(file)

    hdf5_writer.write(path, fill, size=100_000)
    with pytest.raises(WeightFileError, match=says):
        npgpt.load(path)


def test_mistakes_are_one_line():
    model = GPT(CONFIG, ops="numpy")
    for arguments, says in (
        ((0,), "rank is 0, but must be at least 1"),
        ((2, -1.0), "alpha is -1"),
        ((2, 1.0, ("c_atn",)), "the LoRA target 'c_atn' names no layer: the layers of a block are"),
        ((2, 1.0, ()), "there is no LoRA target"),
    ):
        with pytest.raises(InputError, match=says):
            model.add_lora(*arguments)
    assert model.adapters is None and model.trainable == ("*",)
    model.add_lora(2)
    with pytest.raises(InputError, match="has LoRA adapters already"):
        model.add_lora(2)
    first, *others = model.params.h
    broken = first._replace(
        attn=first.attn._replace(c_attn=lora.without(model.params).h[0].attn[0])
    )
    with pytest.raises(InputError, match=r"c_attn.lora_a"):
        GPT.from_params(CONFIG, model.params._replace(h=(*others, broken)))
    with pytest.raises(ConfigError, match="lora_rank is 0"):
        TrainingConfig(lora_rank=0)
    with pytest.raises(ConfigError, match=r"lora_alpha is 2\.0, but there is no lora_rank"):
        TrainingConfig(lora_alpha=2.0)
    with pytest.raises(ConfigError, match="lora_targets is 3"):
        TrainingConfig(lora_rank=1, lora_targets=3)
    assert TrainingConfig(lora_rank=1, trainable="ln_f").trainable == ("h.*.lora_?", "ln_f")
    assert params.total(lora.merge(model.params)) == params.size(CONFIG)


@pytest.mark.slow
def test_the_command_line_fine_tunes_adapters(tmp_path, capsys):
    base, out, merged = tmp_path / "base", tmp_path / "run", tmp_path / "merged.h5"
    assert main(["train", *FLAGS, "--steps", "1", "--out", str(base)]) == 0
    start = ["train", "--init-from", str(base), "--ops", "numpy", "--steps", "1", "--batch-size",
             "2", "--sample-tokens", "1", "--out", str(out)]  # fmt: skip
    assert main([*start, "--lora-rank", "2", "--lora-alpha", "4", "--lora-targets", "attn"]) == 0
    assert "2,680 parameters, 96 of them trained" in capsys.readouterr().out
    assert main(["train", "--resume", str(out), "--steps", "2"]) == 0
    assert main(["train", "--resume", str(out), "--lora-rank", "3"]) == 2
    assert "--lora-rank 3 does not fit" in capsys.readouterr().err
    assert main(["export", "--model", str(out), "--to", "npgpt", "--out", str(merged)]) == 0
    again, whole = npgpt.load(out, ops="numpy"), npgpt.load(merged, ops="numpy")
    for (name, a), (_, b) in zip(named(again.params), named(whole.params), strict=True):
        assert np.array_equal(a, b), name


def test_a_profile_counts_frozen_matrices_and_adapters():
    model = adapted("numpy")
    x, dout = np.ones((5, 8)), np.ones((5, 24))
    p = model.params.h[0].attn.c_attn
    _, cache = npgpt.ops.linear.forward(x, p)
    g = p._replace(weight=None, bias=None)
    adapter = 2 * 5 * 3 * (8 + 24)  # of x A and low B
    assert profile.COUNTS["linear.forward"](x, p).operations == 2 * 5 * 8 * 24 + adapter
    assert (
        profile.COUNTS["linear.backward"](dout, cache, g).operations == 2 * 5 * 8 * 24 + 2 * adapter
    )
