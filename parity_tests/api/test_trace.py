"""Every activation by name, against the reference implementation; every gradient against it too."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

import npgpt
from npgpt.errors import InputError
from npgpt.model import quantize
from reference import gpt2

CONFIG = npgpt.Config(vocab_size=31, context_length=12, n_layer=2, n_head=2, n_embd=8, dropout=0.1)
TOKENS = np.arange(16).reshape(2, 8)
TARGETS = TOKENS + 1
TARGETS[0, 2:5] = -100  # ignored
BLOCK = ("ln_1", "attn.c_attn", "attn.probs", "attn.heads", "attn.c_proj", "after_attn", "ln_2",
         "mlp.c_fc", "mlp.gelu", "mlp.c_proj", "after_mlp")  # fmt: skip
NAMES = ["embedding", *(f"h.{i}.{name}" for i in range(2) for name in BLOCK), "ln_f", "logits"]


@pytest.fixture
def model(backend):
    model = npgpt.GPT(CONFIG, seed=3, dtype="float64", ops=backend)
    rng = np.random.default_rng(3)
    for _, array in npgpt.named(model.params):
        array += rng.normal(scale=0.3, size=array.shape)  # no bias stays 0
    return model


def theirs(model):
    """Outputs of the reference's modules, and the gradients of the loss with respect to them."""
    arrays = {name: np.array(array) for name, array in npgpt.named(model.params)}
    reference = gpt2.from_arrays(gpt2.Config(**asdict(CONFIG) | {"dropout": 0.0}), arrays)
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            output.retain_grad()
            seen[name] = output

        return hook

    for name, module in reference.named_modules():
        if name.split(".")[-1] in ("ln_1", "ln_2", "ln_f", "c_attn", "c_proj", "c_fc"):
            module.register_forward_hook(keep(name))
    loss = reference.loss(torch.tensor(TOKENS), torch.tensor(TARGETS))
    loss.backward()
    return float(loss.detach()), seen


def test_names_and_shapes(model):
    found = model.trace(TOKENS)
    assert sorted(found) == sorted(NAMES)
    assert found["h.0.attn.c_attn"].shape == (2, 8, 24)
    assert found["h.1.attn.probs"].shape == (2, 2, 8, 8)
    assert found["logits"].tobytes() == model.logits(TOKENS).tobytes()
    both = model.trace(TOKENS, TARGETS)
    assert sorted(both) == sorted([*NAMES, *(f"{name}.grad" for name in NAMES), "loss"])
    for name, array in found.items():
        np.testing.assert_allclose(both[name], array, rtol=1e-12, atol=1e-12, err_msg=name)
        assert both[f"{name}.grad"].shape == array.shape, name


def test_activations_and_gradients_are_the_references(model):
    found, (loss, seen) = model.trace(TOKENS, TARGETS), theirs(model)
    assert found["loss"] == pytest.approx(loss, rel=1e-12)
    assert len(seen) == 2 * 6 + 1
    for name, output in seen.items():
        for key, expected in ((name, output), (f"{name}.grad", output.grad)):
            np.testing.assert_allclose(
                found[key], expected.detach().numpy(), rtol=1e-9, atol=1e-12, err_msg=key
            )


def test_the_others_follow_from_these(model):
    """Attention's weights and heads, the residual stream and the logits, by their definitions."""
    found = model.trace(TOKENS, TARGETS)
    for i in range(2):
        before = found["embedding" if i == 0 else "h.0.after_mlp"]
        after, out = found[f"h.{i}.after_attn"], found[f"h.{i}.after_mlp"]
        np.testing.assert_allclose(after, before + found[f"h.{i}.attn.c_proj"], atol=1e-12)
        np.testing.assert_allclose(out, after + found[f"h.{i}.mlp.c_proj"], atol=1e-12)
        probs, qkv = found[f"h.{i}.attn.probs"], found[f"h.{i}.attn.c_attn"]
        np.testing.assert_allclose(probs.sum(-1), 1)
        assert not np.triu(probs, 1).any()
        v = qkv[..., 16:].reshape(2, 8, 2, 4).transpose(0, 2, 1, 3)
        heads = (probs @ v).transpose(0, 2, 1, 3).reshape(2, 8, 8)
        np.testing.assert_allclose(found[f"h.{i}.attn.heads"], heads, atol=1e-12)
        dheads = found[f"h.{i}.attn.heads.grad"].reshape(2, 8, 2, 4).transpose(0, 2, 1, 3)
        np.testing.assert_allclose(
            found[f"h.{i}.attn.probs.grad"], dheads @ v.transpose(0, 1, 3, 2), atol=1e-12
        )
        residual = found[f"h.{i}.after_attn.grad"]  # the stream's gradient is c_proj's as well
        np.testing.assert_allclose(residual, found[f"h.{i}.attn.c_proj.grad"], atol=1e-12)
    logits = torch.tensor(found["logits"], requires_grad=True)
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(TARGETS).flatten()
    ).backward()
    np.testing.assert_allclose(found["logits.grad"], logits.grad.numpy(), atol=1e-12)


def test_a_gradient_predicts_the_loss(model):
    """The embedding's: a small step along it, made through `wpe`, changes the loss as it says."""
    found = model.trace(TOKENS, TARGETS)
    step = 1e-6 * np.random.default_rng(0).normal(size=(8, 8))
    model.params.wpe.weight[:8] += step
    change = model.evaluate(TOKENS, TARGETS) - float(found["loss"])
    assert change == pytest.approx(float((found["embedding.grad"].sum(0) * step).sum()), rel=1e-4)


def test_tracing_changes_nothing(model):
    model = npgpt.GPT.from_params(replace(CONFIG, dropout=0.0), model.params, ops=model.ops)
    expected, gradients = model.loss_and_gradients(TOKENS, TARGETS, dloss=0.5)
    before = [array.tobytes() for _, array in npgpt.named(gradients)]
    found = model.trace(TOKENS, TARGETS)
    for array in found.values():
        array.fill(np.nan) if array.ndim else None  # they are copies
    assert model.evaluate(TOKENS, TARGETS) == pytest.approx(expected, rel=1e-12)
    assert [array.tobytes() for _, array in npgpt.named(gradients)] == before


def test_a_quantized_model_has_activations():
    model = npgpt.GPT(CONFIG, ops="numpy")
    narrow = npgpt.GPT.from_params(CONFIG, quantize.quantize(model.params, "bfloat16"))
    one, other = model.trace(TOKENS), narrow.trace(TOKENS)
    np.testing.assert_allclose(one["h.1.mlp.gelu"], other["h.1.mlp.gelu"], atol=1e-2)
    with pytest.raises(InputError, match="stored as bfloat16"):
        narrow.trace(TOKENS, TARGETS)
