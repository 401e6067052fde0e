"""Mistakes in Python: each is an InputError that says what is wrong, never NumPy's own error."""

import inspect
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.errors import ConfigError, DropoutWarning, InputError
from npgpt.model import kv_cache
from npgpt.model.params import Matrix

CONFIG = npgpt.Config(vocab_size=31, context_length=12, n_layer=1, n_head=2, n_embd=8)
OTHER = replace(CONFIG, n_layer=2)
X = np.arange(8).reshape(2, 4)
Y = X + 1


def model():
    return npgpt.GPT(CONFIG, ops=ops)


def tree(config=CONFIG, dtype="float32"):
    return npgpt.GPT(config, dtype=dtype, ops=ops).params


def read_only():
    out = npgpt.zeros_like(tree())
    out.ln_f.bias.flags.writeable = False
    return out


def generator():
    return npgpt.Generator(1, ops=ops)


def optimizer():
    return npgpt.AdamW(tree(), ops=ops)


def trainer(**changes):
    ids, rng = np.arange(40) % 31, generator()
    chosen = dict(train_tokens=ids, val_tokens=ids, training=npgpt.TrainingConfig(), rng=rng)
    return npgpt.Trainer(**dict(model=model()) | chosen | changes)


def loader(**changes):
    chosen = dict(inputs=X, targets=Y, batch_size=1, shuffle=False, drop_last=False)
    return npgpt.Loader(**chosen | changes)


TEXT = np.array([["a", "b"]])
TOKENS = {
    "text": "must be token ids, not text",
    "a list of text": "must be token ids, not text",
    "numbers": "tokens must be integers",
    "booleans": "tokens must be integers",
    "None": "tokens must be integers",
    "objects": "tokens must be integers",
    "one row": r"tokens must be integers of shape \(B, T\)",
    "nothing": "are empty: B and T must be at least 1",
    "ragged": "all rows of one length",
    "too long": "13 tokens are longer than the context of 12; crop them",
    "too large": "token id 31 is outside the vocabulary of 31",
    "negative": "token id -1 is outside",
    "huge": "token id 18446744073709551615 is outside",
}
VALUES = {
    "text": "text", "a list of text": TEXT, "numbers": [[0.5]], "booleans": [[True]], "None": None,
    "objects": np.array([[object()]]), "one row": [1, 2], "nothing": [[]], "ragged": [[1, 2], [3]],
    "too long": [[1] * 13], "too large": [[31]], "negative": [[-1]],
    "huge": np.array([[2**64 - 1]], np.uint64),
}  # fmt: skip
METHODS = {
    "logits": lambda x: model().logits(x),
    "next_logits": lambda x: model().next_logits(x),
    "loss": lambda x: model().loss(x, Y),
    "loss_and_gradients": lambda x: model().loss_and_gradients(x, Y),
    "evaluate": lambda x: model().evaluate(x, Y),
    "log_probs": lambda x: model().log_probs(x, Y),
    "trace": lambda x: model().trace(x),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", TOKENS)
def test_tokens(method, wrong):
    with pytest.raises(InputError, match=TOKENS[wrong]):
        METHODS[method](VALUES[wrong])


@pytest.mark.parametrize("wrong", TOKENS)
def test_targets(wrong):
    says = TOKENS[wrong].replace("tokens", "targets")
    for use in (model().loss, model().loss_and_gradients, model().evaluate, model().log_probs,
                model().trace):  # fmt: skip
        with pytest.raises(InputError, match=says):
            use(X, VALUES[wrong] if VALUES[wrong] is not None else np.array(None))


def test_ignored_targets():
    some, none = np.where(Y % 2, Y, -100), np.full_like(Y, -100)
    for use in (model().loss, model().loss_and_gradients, model().evaluate, model().log_probs,
                model().trace):  # fmt: skip
        use(X, some)
        use(X, some.tolist())
        with pytest.raises(InputError, match="all 8 targets are -100, which is ignored: none is"):
            use(X, none)
        with pytest.raises(InputError, match=r"token id -99 .* \(0 to 30\); only -100 is ignored"):
            use(X, np.where(Y == 3, -99, some))
        with pytest.raises(InputError, match="token id -100 is outside the vocabulary of 31"):
            use(some, Y)


MISTAKES = {
    # models
    "a config of text": (lambda: npgpt.GPT("gpt2-small"), "config must be an npgpt.Config"),
    "a preset": (lambda: npgpt.GPT(npgpt.presets["tiny"]), "config must be an npgpt.Config"),
    "a seed of text": (lambda: npgpt.GPT(CONFIG, seed="x", ops=ops), "seed = 'x': it must be an"),
    "a negative seed": (lambda: npgpt.GPT(CONFIG, seed=-1, ops=ops), "seed = -1: it must lie"),
    "a scheme": (lambda: npgpt.GPT(CONFIG, scheme="x", ops=ops), "scheme is 'x', but must be one"),
    "a scheme that is a list": (lambda: npgpt.GPT(CONFIG, scheme=["book"], ops=ops), "scheme is"),
    "a dtype": (lambda: npgpt.GPT(CONFIG, dtype="int8", ops=ops), "dtype is 'int8', but must be"),
    "a dtype that is none": (lambda: npgpt.GPT(CONFIG, dtype=3, ops=ops), "dtype is 3, but must"),
    "a dtype of None": (lambda: npgpt.GPT(CONFIG, dtype=None, ops=ops), "dtype is None"),
    "a backend's name": (lambda: npgpt.GPT(CONFIG, ops="cuda"), "ops is 'cuda', but must be"),
    "a backend": (lambda: npgpt.GPT(CONFIG, ops=np), "which has no adam: it must be npgpt.fused"),
    "no backend": (lambda: npgpt.Generator(1, ops=3), "ops is 3, which has no adam"),
    "no tree": (lambda: npgpt.GPT.from_params(CONFIG, {}, ops=ops), "parameters must be a tree"),
    "another tree": (lambda: npgpt.GPT.from_params(CONFIG, tree(OTHER), ops=ops), "have a h.1"),
    "another shape": (
        lambda: npgpt.GPT.from_params(replace(CONFIG, vocab_size=30), tree(), ops=ops),
        r"wte.weight is \(31, 8\), but its config makes it \(30, 8\)",
    ),
    "two dtypes": (
        lambda: npgpt.GPT.from_params(CONFIG, tree()._replace(wpe=tree(dtype="float64").wpe)),
        "wpe.weight is float64, but all parameters must be float32, or all float64",
    ),
    "integers": (
        lambda: npgpt.GPT.from_params(
            CONFIG, tree()._replace(wte=Matrix(np.zeros((31, 8), np.int32))), ops=ops
        ),
        "wte.weight is int32",
    ),
    # gradients
    "two shapes": (lambda: model().loss(X, Y[:, :3]), r"tokens are \(2, 4\) and targets \(2, 3\)"),
    "too many targets": (lambda: model().evaluate(X[:, :2], Y), "at most as many columns"),
    "too many to score": (lambda: model().log_probs(X[:, :2], Y), "at most as many columns"),
    "a seed for a generator": (lambda: model().loss(X, Y, 123), "rng must be an npgpt.Generator"),
    "NumPy's generator": (
        lambda: model().loss_and_gradients(X, Y, np.random.default_rng(1)),
        "rng must be an npgpt.Generator or None",
    ),
    "out of another config": (
        lambda: model().loss(X, Y, out=npgpt.zeros_like(tree(OTHER))),
        "out has not the names of the parameters: make it with npgpt.zeros_like",
    ),
    "out of another dtype": (
        lambda: model().loss_and_gradients(X, Y, out=npgpt.zeros_like(tree(dtype="float64"))),
        "out: wte.weight is float64",
    ),
    "out of another size": (
        lambda: model().loss(X, Y, out=npgpt.zeros_like(tree(replace(CONFIG, n_embd=16)))),
        r"wte.weight is float32 \(31, 16\), but must be float32 \(31, 8\)",
    ),
    "out is an array": (lambda: model().loss(X, Y, out=np.zeros(3)), "out must be a tree like"),
    "out is read-only": (lambda: model().loss(X, Y, out=read_only()), "ln_f.bias must be writable"),
    "out for backward": (
        lambda: (m := model()).backward(m.loss(X, Y)[1], out={}),
        "out must be a tree like model.params",
    ),
    "out is the parameters": (
        lambda: (m := model()).loss(X, Y, out=m.params),
        "out shares memory with the parameters",
    ),
    "dloss": (lambda: model().loss_and_gradients(X, Y, dloss="1"), "dloss is '1', but must be"),
    "zeros like nothing": (lambda: npgpt.zeros_like(None), "zeros_like takes a tree"),
    "names of nothing": (lambda: list(npgpt.named(3)), "named takes a tree"),
    # optimizer
    "lr of text": (lambda: npgpt.AdamW(tree(), lr="x", ops=ops), "lr is 'x', but must be a finite"),
    "a negative lr": (lambda: npgpt.AdamW(tree(), lr=-1, ops=ops), "lr is -1, but must be at"),
    "lr of a step": (lambda: optimizer().step(tree(), lr="x"), "lr is 'x', but must be a finite"),
    "lr of nan": (lambda: optimizer().step(tree(), lr=np.nan), "lr is nan, but must be a finite"),
    "betas": (lambda: npgpt.AdamW(tree(), betas=0.9, ops=ops), "betas is 0.9, but must be two"),
    "a large beta": (lambda: npgpt.AdamW(tree(), betas=(0.9, 1), ops=ops), r"must be in \[0, 1\)"),
    "eps": (lambda: npgpt.AdamW(tree(), eps=None, ops=ops), "eps is None, but must be a finite"),
    "decays": (lambda: npgpt.AdamW(tree(), decays="all", ops=ops), "decays is 'all', but must be"),
    "a model to optimize": (lambda: npgpt.AdamW(model(), ops=ops), "must be model.params"),
    "other gradients": (lambda: optimizer().step(tree(OTHER)), "gradients has not the names"),
    "no gradients": (lambda: optimizer().step(3), "gradients must be a tree like model.params"),
    # generation
    "no model": (lambda: npgpt.generate("gpt2", [1], 3), "model must be an npgpt.GPT"),
    "a prompt of text": (lambda: npgpt.generate(model(), "text", 3), "tokens must be token ids"),
    "no prompt": (lambda: npgpt.generate(model(), None, 3), "tokens must be integers"),
    "a negative count": (lambda: npgpt.generate(model(), [1], -1), "max_new_tokens is -1"),
    "a count of text": (lambda: npgpt.generate(model(), [1], "3"), "max_new_tokens is '3', but"),
    "half a count": (lambda: npgpt.generate(model(), [1], 1.5), "max_new_tokens is 1.5, but must"),
    "temperature": (lambda: npgpt.generate(model(), [1], 1, "hot"), "temperature is 'hot', but"),
    "top_k": (lambda: npgpt.generate(model(), [1], 1, top_k=1.5), "top_k is 1.5, but must be an"),
    "top_p": (lambda: npgpt.generate(model(), [1], 1, top_p="1"), "top_p is '1', but must be"),
    "eos": (lambda: npgpt.generate(model(), [1], 1, eos_id="<eos>"), "eos_id is '<eos>', but must"),
    "rng": (lambda: npgpt.generate(model(), [1], 1, 1.0, rng=3), "rng must be one or more npgpt"),
    # random numbers
    "half a seed": (lambda: npgpt.Generator(1.5, ops=ops), "seed = 1.5: it must be an integer"),
    "True for a seed": (lambda: npgpt.Generator(True, ops=ops), "seed = True: it must be an int"),
    "a shape of text": (lambda: generator().normal("3"), "it must be an integer"),
    "a bound of text": (lambda: generator().uniform(3, "0"), "low = '0': it must be a number"),
    "a probability": (lambda: generator().bernoulli("x", 3), "p = 'x': it must be a number"),
    "out of numbers": (lambda: generator().normal(3, out=[1, 2, 3]), "out must be a NumPy array"),
    "a dtype of numbers": (lambda: generator().normal(3, dtype="x"), "dtype 'x': it must be"),
    "probabilities": (lambda: generator().multinomial([[1.0], [0.5, 0.5]]), "rows of one length"),
    "a state": (lambda: generator().set_state("state"), "state has shape"),
    "an empty state": (lambda: generator().set_state(b""), "state has shape"),
    # files
    "no path": (lambda: npgpt.load(3), "path is 3, but must be a string or a Path"),
    "no file": (lambda: npgpt.load("/nowhere/at/all.h5"), "/nowhere/at/all.h5"),
    "weights": (lambda: npgpt.load("x", weights="int4"), "weights is 'int4', but must be float32"),
    "weights that are a list": (lambda: npgpt.load("x", weights=["int8"]), "weights is"),
    "a path with a zero": (lambda: npgpt.load("a\0b"), "must be a string or a Path"),
    "nowhere to save": (lambda: model().save(3), "path is 3, but must be a string or a Path"),
    "no cache": (lambda: model().next_logits([[1]], past=3), "past must be a list of LayerCache"),
    "a longer cache": (
        lambda: model().next_logits([[1]], past=kv_cache.empty_cache(1, OTHER)),
        "past has 2 layers, the model has 1",
    ),
    "a fork of no cache": (lambda: model().fork(None, 2), "past must be a list of LayerCache"),
    "no copies": (lambda: model().fork(model().kv_cache(), 0), "copies is 0, but must be at least"),
    "a cache of no sequence": (lambda: model().kv_cache(0), "batch is 0, but must be at least 1"),
    "a tokenizer": (lambda: npgpt.tokenizer(3), "unknown tokenizer 3"),
    "bytes to encode": (lambda: npgpt.tokenizer("byte").encode(b"a"), "must be a string, not b'a'"),
    "an unknown id": (lambda: npgpt.tokenizer("byte").decode([999]), "byte has no token 999, only"),
    "a text to decode": (lambda: npgpt.tokenizer("byte").decode("a"), "id must be an integer, not"),
    "one id": (lambda: npgpt.tokenizer("byte").decode(3), "tokens must be token ids, not 3"),
    # training
    "no model to train": (lambda: trainer(model="m"), "model must be an npgpt.GPT"),
    "settings in a dict": (lambda: trainer(training={}), "must be an npgpt.TrainingConfig"),
    "a seed to train": (lambda: trainer(rng=3), "rng must be an npgpt.Generator"),
    "a text to train": (lambda: trainer(train_tokens="text"), "training tokens must be token ids"),
    "a list to train": (lambda: trainer(val_tokens=[1.5] * 40), "validation tokens must be int"),
    "numbers to train": (lambda: trainer(train_tokens=np.ones(40)), "must be integers of shape"),
    "large tokens": (lambda: trainer(train_tokens=np.arange(40)), "39 is outside the vocabulary"),
    "a text to continue": (lambda: trainer(prompt="text"), "prompt must be token ids, not text"),
    "too few": (lambda: trainer(train_tokens=np.arange(5)), "the training split has 5 tokens"),
    "one array": (lambda: loader(targets=X[:1]), "two arrays of one shape"),
    "no arrays": (lambda: loader(inputs=[[1]]), "two arrays of one shape"),
    "a batch of none": (lambda: loader(batch_size=0), "batch_size is 0, but must be at least 1"),
    "a batch of text": (lambda: loader(batch_size="2"), "batch_size is '2', but must"),
    # evaluation
    "a model of text": (lambda: npgpt.evaluate("m", [1, 2]), "model must be an npgpt.GPT"),
    "a stride of text": (lambda: npgpt.evaluate(model(), [1, 2], stride="1"), "stride is '1', but"),
    "half a batch": (lambda: npgpt.evaluate(model(), [1, 2], batch_size=1.5), "batch_size is 1.5"),
    "other ids": (lambda: npgpt.evaluate(model(), [1, 2, 99]), "token id 99 is outside"),
    "text for ids": (lambda: npgpt.evaluate(model(), ["a", "b"]), "must be token ids"),
    "no text": (lambda: npgpt.evaluate(model(), None), "must be integers of shape"),
    "tokens of evaluate": (lambda: npgpt.evaluate(model(), [1]), "2 tokens"),
    "stride of evaluate": (lambda: npgpt.evaluate(model(), np.arange(9), stride=0), "stride is 0"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    use, says = MISTAKES[mistake]
    with pytest.raises(InputError, match=says) as caught:
        use()
    assert len(str(caught.value)) < 300


CONFIGS = {
    "vocab_size": (npgpt.Config, ["x", 0, 1.5, True, None]),
    "n_layer": (npgpt.Config, ["x", 0, -1]),
    "dropout": (npgpt.Config, ["x", 1.0, -0.1, np.nan, None]),
    "tied": (npgpt.Config, ["x", 1, None]),
    "lr": (npgpt.TrainingConfig, ["x", -1, np.inf, None]),
    "train_fraction": (npgpt.TrainingConfig, ["x", 0, 1.1, None]),
    "grad_clip": (npgpt.TrainingConfig, ["x", 0, np.nan]),
    "steps": (npgpt.TrainingConfig, ["x", 0, 1.5]),
    "decay": (npgpt.TrainingConfig, ["x", ["all"], None]),
    "seed": (npgpt.TrainingConfig, ["x", -1, 1.5]),
    "prompt": (npgpt.TrainingConfig, [3, None]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(name):
    kind, values = CONFIGS[name]
    for value in values:
        with pytest.raises(ConfigError, match=f"^{name} is {re.escape(repr(value))}, but must be"):
            kind(**{name: value})


def test_the_kinds_of_errors():
    assert issubclass(npgpt.ConfigError, npgpt.InputError)
    assert issubclass(npgpt.WeightFileError, npgpt.InputError)
    assert issubclass(npgpt.InputError, ValueError)
    assert issubclass(npgpt.DownloadError, npgpt.RunError)
    assert issubclass(npgpt.RunError, RuntimeError)
    assert issubclass(npgpt.DropoutWarning, UserWarning)


def test_dropout_without_a_generator_is_said_once():
    config = replace(CONFIG, dropout=0.1)
    for name in ("loss", "loss_and_gradients"):
        model = npgpt.GPT(config, ops=ops)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.evaluate(X, Y)
            model.logits(X)
            model.trace(X, Y)
            list(npgpt.generate(model, [1], 2))
            getattr(model, name)(X, Y, generator())
        with pytest.warns(DropoutWarning, match=r"dropout=0.1, .* pass rng=npgpt") as caught:
            getattr(model, name)(X, Y)
            line = inspect.currentframe().f_lineno - 1
        assert [(one.filename, one.lineno) for one in caught] == [(__file__, line)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            getattr(model, name)(X, Y)  # once for each model
            npgpt.GPT(CONFIG, ops=ops).loss(X, Y)
