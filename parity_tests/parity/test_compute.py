"""The right port computes what npgpt computes, by the same names."""

from dataclasses import replace

import numpy as np
import pytest

import npgpt
from npgpt.config import TrainingConfig
from npgpt.model import params
from npgpt.parity.compute import KINDS, cast, compute
from npgpt.parity.mistakes import MISTAKES
from npgpt.parity.port import RIGHT, EditError
from npgpt.parity.probe import Settings, make
from npgpt.rng import Generator
from npgpt.training.trainer import Trainer

PROBE = make()


def model(probe=PROBE, dtype=np.float64):
    return npgpt.GPT.from_params(probe.config, params.copy(cast(probe.params, dtype)), ops="numpy")


def equal(found, expected):
    assert found.keys() >= expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-12, atol=1e-14, err_msg=name)


def test_a_traced_model_has_the_same_numbers():
    found = compute(RIGHT, PROBE, {"act", "dact", "loss", "logits"})
    traced = model().trace(PROBE.tokens, PROBE.targets)
    expected = {name: traced.pop(name) for name in ("loss", "logits")}
    for name, array in traced.items():
        kind = "dact" if name.endswith(".grad") else "act"
        expected[f"{kind}/{name.removesuffix('.grad')}"] = array
    equal(found, expected)
    assert found.keys() == expected.keys()


def test_logits_through_a_cache_are_the_same():
    found = compute(RIGHT, PROBE, {"logits", "logits_again", "cached_logits"})
    equal(found, dict.fromkeys(found, model().logits(PROBE.tokens)))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon", "rmsprop", "sgd"])
def test_steps_are_those_of_the_trainer(optimizer):
    momentum = 0.5 if optimizer in ("sgd", "muon") else 0.0
    settings = Settings(optimizer=optimizer, momentum=momentum, accumulation=3, steps=2)
    probe = replace(PROBE, settings=settings)
    found = compute(RIGHT, probe, {"after"})
    gpt = model()
    training = TrainingConfig(
        optimizer=optimizer, lr=settings.lr, weight_decay=settings.weight_decay, eps=settings.eps,
        beta1=settings.betas[0], beta2=settings.betas[1], momentum=momentum or None,
        grad_clip=settings.grad_clip, batch_size=1, grad_accumulation=3, steps=9,
    )  # fmt: skip
    text = np.arange(99) % 29
    trainer = Trainer(gpt, text, text, training, Generator(1, ops="numpy"))
    for k in (1, 2):
        trainer.update(probe.tokens, probe.targets, settings.lr)
        equal(found, {f"after{k}/{name}": p for name, p in params.named(gpt.params)})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mistake", [None, *MISTAKES[:2]])
def test_one_kind_alone_has_the_numbers_of_all_kinds(mistake, dtype):
    port = mistake.change(RIGHT) if mistake else RIGHT
    together = compute(port, PROBE, KINDS, dtype=dtype)
    assert {array.dtype for array in together.values()} == {np.dtype(dtype)}
    for kind in KINDS:
        equal(together, compute(port, PROBE, {kind}, dtype=dtype))


def test_masks_take_the_place_of_a_generator():
    rng = Generator(5, ops="numpy")
    drawn = []

    class Remember:
        def bernoulli(self, p, shape, *, out):
            drawn.append(rng.bernoulli(p, shape))
            np.copyto(out, drawn[-1])
            return out

    gpt = model(replace(PROBE, config=replace(PROBE.config, dropout=0.25)))
    loss, gradients = gpt.loss_and_gradients(PROBE.tokens, PROBE.targets, Remember())
    names = ["embedding", *(f"h.{i}.{place}" for i in range(2)
                            for place in ("attn.probs", "after_attn", "after_mlp"))]  # fmt: skip
    probe = replace(PROBE, settings=Settings(dropout=0.25, grad_clip=None, steps=1, lr=0.125,
                                             optimizer="sgd", weight_decay=0))  # fmt: skip
    masks = dict(zip(names, drawn, strict=True))
    found = compute(RIGHT, probe, {"loss", "grad", "after"}, masks=masks)
    equal(found, {"loss": loss} | {f"grad/{name}": g for name, g in params.named(gradients)})
    after = {name: p - 0.125 * dict(params.named(gradients))[name]
             for name, p in params.named(gpt.params)}  # fmt: skip
    equal(found, {f"after1/{name}": array for name, array in after.items()})


def test_an_edit_that_does_not_fit_is_an_error():
    port = RIGHT.edit("npgpt.ops.linear:backward", "p.weight.T", "p.weight")
    with pytest.raises(EditError, match=r"linear:backward has 0 times 'p.weight.T'"):
        port.edit("npgpt.ops.linear:backward", "p.weight.T", "1").modules()


def test_an_op_of_another_author_is_used_everywhere():
    def forward(x, *, out=None):
        return np.maximum(x, 0), None

    port = RIGHT.replace_op("gelu", forward=forward)
    found = compute(port, PROBE, {"act", "logits", "cached_logits"})
    hidden, gelu = found["act/h.1.mlp.c_fc"], found["act/h.1.mlp.gelu"]
    np.testing.assert_array_equal(gelu, np.maximum(hidden, 0))
    np.testing.assert_allclose(found["cached_logits"], found["logits"], atol=1e-12)
    assert vars(port.ops)["gelu"].backward is RIGHT.ops.gelu.backward
