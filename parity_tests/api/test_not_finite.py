"""Weights with nan or inf: what is computed is returned as it is, and no answer is made of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import npgpt
from npgpt import backends
from npgpt.config import RunConfig
from npgpt.errors import RunError
from npgpt.inference import sampling
from npgpt.inference.evaluate import perplexity
from npgpt.inference.scoring import Request, score
from npgpt.model import quantize
from npgpt.parity import compare
from npgpt.training import run
from npgpt.training.events import Step

CONFIG = npgpt.Config(vocab_size=257, context_length=12, n_layer=2, n_head=2, n_embd=8)
MODELS = {
    "numpy": ("numpy", None), "fused": ("fused", None), "mixed": ("mixed", None),
    "bfloat16": (None, "bfloat16"), "int8": (None, "int8"),
}  # fmt: skip


def poisoned(kind, value, name="h.1.ln_1.bias"):
    """Return a model with `value` in its first parameter of this name, computed as `kind` says."""
    ops, stored = MODELS[kind]
    model = npgpt.GPT(CONFIG, seed=3, ops="mixed" if stored else ops, tokenizer="byte")
    if name:
        dict(npgpt.named(model.params))[name].flat[3] = value
    if stored:
        tree = quantize.quantize(model.params, stored)
        model = npgpt.GPT.from_params(CONFIG, tree, tokenizer="byte")
    model.path = Path("my model.h5")
    return model


def generator():
    return npgpt.Generator(1, ops="numpy")


ANSWERS = {
    "greedy": lambda m: list(npgpt.generate(m, [1, 2], 3)),
    "temperature": lambda m: list(npgpt.generate(m, [1, 2], 3, 0.8, rng=generator())),
    "top-k": lambda m: list(npgpt.generate(m, [1, 2], 3, 1.0, top_k=5, rng=generator())),
    "top-p": lambda m: list(npgpt.generate(m, [1, 2], 3, 1.0, top_p=0.5, rng=generator())),
    "batch": lambda m: list(npgpt.generate(m, [[1, 2], [3], [4, 5]], 3)),
    "generators": lambda m: list(
        npgpt.generate(m, [[1, 2], [3, 4]], 3, 1.0, rng=[generator(), generator()])
    ),
    "evaluate": lambda m: npgpt.evaluate(m, "The lamp is lit at dusk."),
    "compare": lambda m: list(compare.compare_parameters(m, m)),
}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_no_answer_is_made_of_it(kind, value):
    model = poisoned(kind, value)
    for name, use in ANSWERS.items():
        with pytest.raises(RunError) as caught:
            use(model)
        said = str(caught.value)
        assert said.startswith({
            "evaluate": "the loss is nan: ",
            "compare": "the models cannot be compared, because parameters are nan or infinite: ",
        }.get(name, "the logits are nan: ")), name  # fmt: skip
        assert said.endswith(
            ": h.1.ln_1.bias holds nan or infinite numbers. See npgpt inspect 'my model.h5'"
        )


@pytest.mark.parametrize("kind", MODELS)
def test_arrays_and_losses_stay_as_they_are_computed(kind):
    model, tokens = poisoned(kind, np.nan), [[1, 2, 3]]
    assert np.isnan(model.logits(tokens)).all() and np.isnan(model.next_logits(tokens)).all()
    assert np.isnan(model.evaluate(tokens, tokens))
    found = model.trace(tokens)
    assert next(name for name, x in found.items() if np.isnan(x).any()) == "h.1.ln_1"
    if MODELS[kind][1] is None:
        assert np.isnan(model.loss(tokens, tokens)[0])
        loss, gradients = model.loss_and_gradients(tokens, tokens)
        assert np.isnan(loss) and np.isnan(gradients.wpe.weight[:3]).all()


@pytest.mark.parametrize("kind", ["numpy", "fused", "mixed", "bfloat16"])
def test_one_nan_among_the_logits_is_found(kind):
    """The one of a token that no prompt has: token 0 wins nothing by it."""
    model = poisoned(kind, np.nan, "wte.weight")
    if kind == "bfloat16":
        model.params.wte.weight.values[0, 3], model.params.wte.weight.values[200, 3] = 0, 0x7FC0
    else:
        model.params.wte.weight[0, 3], model.params.wte.weight[200, 3] = 0, np.nan
    assert np.isnan(model.logits([[1, 2]])).sum() == 2
    for name in ANSWERS:
        with pytest.raises(RunError, match=r"wte\.weight holds nan or infinite"):
            ANSWERS[name](model)


def test_all_parameters_are_finite_and_the_product_is_not(backend):
    model = npgpt.GPT(CONFIG, ops=backend, tokenizer="byte")
    model.params.ln_f.weight[...] = 3e38
    for name in set(ANSWERS) - {"compare"}:
        with pytest.raises(RunError, match=r"although all parameters are finite.* inspect FILE"):
            ANSWERS[name](model)


def test_layers_are_not_compared_if_an_output_overflows():
    model = npgpt.GPT(CONFIG)
    model.params.ln_f.weight[...] = 3e38
    assert all(one.largest == 0 for one in compare.compare_parameters(model, model))
    with pytest.raises(RunError, match="because outputs of ln_f are nan or infinite, although all"):
        list(compare.compare_layers(model, model, np.array([[1, 2]])))


def test_a_nan_that_no_answer_depends_on_is_none(backend):
    """A position that is not reached: PyTorch's answer is the same."""
    model = poisoned("fused", np.nan, None)
    expected = [ANSWERS[name](model) for name in ("greedy", "temperature")]
    model.params.wpe.weight[11] = np.nan
    assert [ANSWERS[name](model) for name in ("greedy", "temperature")] == expected


def test_a_nan_of_a_token_that_no_text_has_is_none(backend):
    """Shorter rows of a batch are padded, and attention multiplies the padding by 0."""
    model = npgpt.GPT(replace(CONFIG, tied=False), seed=3, ops=backend)
    model.params.wte.weight[0] = np.nan
    texts, options = [[1, 2, 3, 4, 5], [6], [7, 8]], dict(logit_bias={0: -1e9})
    together = np.array(list(npgpt.generate(model, texts, 3, **options))).T
    alone = [list(npgpt.generate(model, text, 3, **options)) for text in texts]
    assert together.tolist() == alone
    requests = [Request(text, [9, 10, 11][: len(text)]) for text in texts]
    found = score(model, requests)
    for request, row in zip(requests, found, strict=True):
        np.testing.assert_allclose(row, score(model, [request])[0], rtol=1e-5)


def test_logits_of_minus_infinity_are_allowed():
    logits = np.array([[0.0, -np.inf, 1.0], [-np.inf, 2.0, -np.inf]], np.float32)
    assert sampling.next_token(logits).tolist() == [2, 1]
    assert sampling.next_token(logits, temperature=1.0, rng=generator())[1] == 1
    theirs = torch.softmax(torch.tensor(logits), -1)
    np.testing.assert_allclose(sampling.probabilities(logits, 1.0), theirs, rtol=1e-6)
    for wrong, says in ((-np.inf, "-inf"), (np.inf, "inf"), (np.nan, "nan")):
        for settings in ({}, {"temperature": 1.0, "rng": generator(), "top_k": 1}):
            rows = np.array([[0.0, 1.0, 2.0], [wrong] * 3], np.float32)
            with pytest.raises(RunError, match=f"^the logits are {says}$"):
                sampling.next_token(rows, **settings)


def test_training_from_such_weights_blames_them_and_not_the_learning_rate(backend):
    model = npgpt.GPT(CONFIG, ops=backend, tokenizer="byte")
    model.params.h[0].mlp.c_fc.weight[2, 3] = np.nan
    ids = np.arange(40)
    training = npgpt.TrainingConfig(batch_size=1)
    trainer = npgpt.Trainer(model, ids, ids, training, npgpt.Generator(1, ops=backend))
    with pytest.raises(RunError, match=r"^the loss is nan: h\.0\.mlp\.c_fc\.weight holds nan"):
        list(trainer.events())


def test_training_names_the_file_it_starts_from_until_it_has_changed_the_numbers(tmp_path):
    path = tmp_path / "a.h5"
    npgpt.GPT(CONFIG, tokenizer="byte").save(path)
    ids, training = np.arange(40), npgpt.TrainingConfig(batch_size=1)
    settings = RunConfig(ops="numpy", config=CONFIG, training=training, init_from=str(path))
    model = run.initial_model(settings, npgpt.Generator(1, ops=backends.get("numpy")), "byte")
    assert model.path == path
    trainer = npgpt.Trainer(model, ids, ids, training, npgpt.Generator(1, ops=model.ops))
    next(event for event in trainer.events() if isinstance(event, Step))
    assert model.path is None


@pytest.mark.parametrize("loss", [0.0, 1.0, 700.0, 709.7])
def test_perplexity(loss):
    assert perplexity(loss) == np.exp(loss)


def test_the_perplexity_of_a_large_loss_is_infinite_and_no_error():
    assert perplexity(710) == np.inf


LINES = {
    "generate --prompt The --max-new-tokens 8 --temperature 0 --model": "the logits are nan: ",
    "generate --prompt The --top-k 5 --num-samples 2 --model": "the logits are nan: ",
    "generate --prompt The --weights bfloat16 --model": "the logits are nan: ",
    "generate --prompt The --weights int8 --model": "the logits are nan: ",
    "evaluate --data text.txt --model": "the loss is nan: ",
    "evaluate --data text.txt --weights int8 --model": "the loss is nan: ",
    "compare nan.h5": "the models cannot be compared, because parameters are nan or infinite: ",
    "compare good.h5": "the models cannot be compared, because parameters are nan or infinite: ",
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("The lamp is lit at dusk, and the keeper writes in the book.")
    model = npgpt.GPT(CONFIG, seed=3, tokenizer="byte")
    model.save("good.h5")
    model.params.ln_f.bias[[1, 2]] = np.nan, np.inf
    model.save("nan.h5")
    return model


def test_the_command_line_says_it_in_one_line(files, npgpt_, capsys):
    for line, says in LINES.items():
        said = npgpt_(f"{line} nan.h5", code=1)
        assert said.out == ""
        assert said.err == (
            f"npgpt: {says}ln_f.bias holds nan or infinite numbers. See npgpt inspect nan.h5\n"
        )
    shown = npgpt_("inspect nan.h5").out
    assert "1 nan!  1 inf!" in shown
    assert shown.endswith("28 tensors, 1 of them with nan or inf: ln_f.bias\n")


def test_training_does_not_start_from_such_weights(files, npgpt_):
    said = npgpt_("train --init-from nan.h5 --data text.txt --prompt a --out run", code=1)
    assert said.err == (
        "npgpt: nan.h5 cannot be trained: ln_f.bias holds nan or infinite numbers. "
        "See npgpt inspect nan.h5\n"
    )
    assert not Path("run").exists()


def test_a_text_that_was_started_ends_its_line(files, npgpt_):
    model = npgpt.load("good.h5")
    model.params.wpe.weight[6] = np.nan
    model.save("late.h5")
    said = npgpt_("generate --prompt The --temperature 0 --model late.h5", code=1)
    assert said.out.startswith("The") and said.out.endswith("\n") and len(said.out) > 5
    assert said.err.startswith("npgpt: the logits are nan: wpe.weight holds nan")


def test_a_perplexity_that_overflows_is_shown_as_such(files, npgpt_):
    model = npgpt.load("good.h5")
    model.params.ln_f.weight[...] *= 1e5
    model.save("large.h5")
    assert ", perplexity inf\n" in npgpt_("evaluate --data text.txt --model large.h5").out
    model.params.ln_f.weight[...] *= 1e-1
    model.save("large.h5")
    said = npgpt_("evaluate --data text.txt --model large.h5").out
    assert len(said.splitlines()[0]) < 60
