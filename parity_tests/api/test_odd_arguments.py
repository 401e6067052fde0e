"""Odd arguments of every public function: the right result or one InputError, and nothing else.

A value of the right kind in an odd form (a NumPy scalar, a big-endian array) may be accepted; what
NumPy, Python or the system raise by themselves may not reach the caller.
"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.errors import InputError, RunError, show
from npgpt.model import kv_cache

CONFIG = npgpt.Config(vocab_size=31, context_length=12, n_layer=1, n_head=2, n_embd=8)
X = np.arange(8).reshape(2, 4)
Y = X + 1
IDS = np.arange(40) % 31
MODEL = npgpt.GPT(CONFIG, ops=ops, tokenizer="byte")
TRAINED = npgpt.GPT(CONFIG, ops=ops, tokenizer="byte")  # with any numbers: it is trained on the way
TRAINING = npgpt.TrainingConfig(batch_size=1)
HUGE = 10**5000  # which Python does not even print
ODD = [
    None, True, 0, -1, 3, 2**70, -(10**400), HUGE, 0.0, 2.0, 1e-320, np.nan, -np.inf, 1j,
    np.int64(3), np.uint16(3), np.bool_(True), np.float32(2), np.float64(np.nan),
    np.array(3), np.array(0.5), np.array([3]), np.array([]), np.zeros(0, int), X[:0],
    X, X.astype(np.uint16), X.astype(">i8"), X.astype(float), X > 2, X.astype(object), X[None],
    np.zeros((2, 4), [("a", int)]), np.array([["2020"]], "M8[D]"), np.ma.masked_array(X, X > 3),
    [], [[]], [1, 2], [[1, 2]], [[1], [2, 3]], [np.int64(1), np.uint16(2)], [np.array(1)], [True],
    [1.0, 2.0], [None], ["a"], [[2**70]], [1] * 13, [[[1]]], (), (0.1, 0.2),
    "", "text", ".", "a" * 2000, "a\0b", "\udcff", b"ab", {}, {"a": 1}, {1, 2}, range(3), iter([1]),
    int, np, ..., Path(), CONFIG, MODEL, MODEL.params, TRAINING,
]  # fmt: skip


def generator():
    return npgpt.Generator(1, ops=ops)


def trainer(**changes):
    ids = dict(train_tokens=IDS, val_tokens=IDS)
    chosen = dict(model=TRAINED, training=TRAINING, rng=generator()) | ids
    return npgpt.Trainer(**chosen | changes)


def loader(**changes):
    chosen = dict(inputs=X, targets=Y, batch_size=1, shuffle=True, drop_last=False)
    found = npgpt.Loader(**chosen | changes)
    return list(itertools.islice(found.batches(found.order(generator())), 2))


def optimizer():
    return npgpt.AdamW(TRAINED.params, ops=ops)


def restored(**changes):
    optimizer().load_state(optimizer().state | changes)


def generated(**changes):
    chosen = dict(model=MODEL, tokens=[[1, 2], [3]], max_new_tokens=2, temperature=1.0, top_k=2,
                  top_p=0.5, eos_id=3, rng=generator())  # fmt: skip
    return list(itertools.islice(npgpt.generate(**chosen | changes), 2))


PARAMETERS = dict(parameters=TRAINED.params, lr=1e-3, betas=(0.9, 0.9), eps=1e-8, weight_decay=0.1)
# the function, and its arguments by name: each is replaced by every odd value in turn
FUNCTIONS = {
    "Config": (npgpt.Config, vars(CONFIG)),
    "TrainingConfig": (npgpt.TrainingConfig, vars(TRAINING)),
    "GPT": (npgpt.GPT, dict(config=CONFIG, seed=1, dtype="float32", scheme="gpt2", ops=ops)),
    "from_params": (npgpt.GPT.from_params, dict(config=CONFIG, tree=MODEL.params, ops=ops)),
    "logits": (MODEL.logits, dict(tokens=X)),
    "next_logits": (MODEL.next_logits, dict(tokens=X, past=None)),
    "loss": (MODEL.loss, dict(tokens=X, targets=Y, rng=None, out=None)),
    "loss_and_gradients": (
        MODEL.loss_and_gradients, dict(tokens=X, targets=Y, rng=None, out=None, dloss=1.0)
    ),
    "backward": (MODEL.backward, dict(cache=None)),
    "GPT.evaluate": (MODEL.evaluate, dict(tokens=X, targets=Y)),
    "log_probs": (MODEL.log_probs, dict(tokens=X, targets=Y, past=None)),
    "kv_cache": (MODEL.kv_cache, dict(batch=1)),
    "fork": (MODEL.fork, dict(past=MODEL.kv_cache(), copies=1)),
    "trace": (MODEL.trace, dict(tokens=X, targets=Y)),
    "save": (MODEL.save, dict(path="model.h5")),
    "load": (npgpt.load, dict(path="model.h5", weights=None, ops=ops)),
    "generate": (
        generated, dict.fromkeys(["model", "tokens", "max_new_tokens", "temperature", "top_k",
                                  "top_p", "eos_id", "rng"]),
    ),
    "evaluate": (
        npgpt.evaluate,
        dict(model=MODEL, text=[1, 2, 3], context_length=3, stride=2, batch_size=2),
    ),
    "tokenizer": (npgpt.tokenizer, dict(name="byte")),
    "zeros_like": (npgpt.zeros_like, dict(tree=MODEL.params)),
    "named": (lambda **a: list(npgpt.named(**a)), dict(node=MODEL.params, prefix="")),
    "Loader": (loader, dict.fromkeys(["inputs", "targets", "batch_size", "shuffle", "drop_last"])),
    "order": (npgpt.Loader(X, Y, batch_size=1, shuffle=True, drop_last=True).order, dict(rng=None)),
    "batches": (
        lambda **a: list(
            npgpt.Loader(X, Y, batch_size=1, shuffle=True, drop_last=True).batches(**a)
        ),
        dict(order=np.arange(2), start=0),
    ),
    "Trainer": (
        trainer, dict.fromkeys(["model", "train_tokens", "val_tokens", "training", "rng", "prompt",
                                "progress"]),
    ),
    "update": (trainer().update, dict(tokens=X, targets=Y, lr=1e-3)),
    "learning_rate": (trainer().learning_rate, dict(index=1)),
    "AdamW": (npgpt.AdamW, PARAMETERS | dict(decays=lambda name, array: True, ops=ops)),
    "step": (
        optimizer().step,
        dict(gradients=npgpt.zeros_like(MODEL.params), lr=1e-3, scale=1.0),
    ),
    "load_state": (lambda **a: optimizer().load_state(**a), dict(state={})),
    "a state": (restored, dict.fromkeys(["steps", "lr", "m.wte.weight"])),
    "global_norm": (npgpt.global_norm, dict(gradients=npgpt.zeros_like(MODEL.params), ops=ops)),
    "clip_gradients": (
        npgpt.clip_gradients,
        dict(gradients=npgpt.zeros_like(MODEL.params), max_norm=1.0, ops=ops),
    ),
    "curve": (
        npgpt.learning_rate, dict(step=1, total=9, warmup=2, peak=1.0, initial=0.0, lowest=0.1)
    ),
    "probabilities": (
        npgpt.Sampling(0.5, repetition_penalty=1.5).probabilities,
        dict(logits=np.arange(31.0), text=[1, 2]),
    ),
    "Generator": (npgpt.Generator, dict(seed=1, ops=ops)),
    "uniform": (generator().uniform, dict(shape=3, low=0.0, high=1.0, dtype="float32", out=None)),
    "normal": (generator().normal, dict(shape=3, mean=0.0, std=1.0, dtype="float32", out=None)),
    "bernoulli": (generator().bernoulli, dict(p=0.5, shape=3, out=None)),
    "exponential": (generator().exponential, dict(shape=3, dtype="float32")),
    "multinomial": (generator().multinomial, dict(probs=[[0.5, 0.5]])),
    "randint": (generator().randint, dict(low=0, high=3, shape=3)),
    "randperm": (generator().randperm, dict(n=3)),
    "set_state": (lambda **a: generator().set_state(**a), dict(state=b"")),
    "from_state": (npgpt.Generator.from_state, dict(state=generator().state, ops=ops)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where files are saved


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_but_an_input_error(name):
    function, arguments = FUNCTIONS[name]
    given = {key: value for key, value in arguments.items() if value is not None}
    for key, odd in itertools.product(arguments, ODD):
        try:
            with np.errstate(all="ignore"):  # a learning rate of 2**70 overflows
                function(**given | {key: odd})
        except (InputError, RunError) as error:
            assert "\n" not in str(error), (key, odd)
            assert len(str(error)) < 300 or key == "path", (key, odd)
        except Exception as error:
            error.add_note(f"{name}({key}={show(odd)})")
            raise


LAYERS = replace(CONFIG, n_layer=2)
MISTAKES = {
    "a cache of one sequence": (
        lambda: MODEL.next_logits([[1], [2]], past=kv_cache.empty_cache(1, CONFIG)),
        "past has 1 sequences, but the tokens have 2",
    ),
    "of other heads": (
        lambda: MODEL.next_logits([[1]], past=kv_cache.empty_cache(1, replace(CONFIG, n_head=4))),
        "past is of another model: 4 heads of 2, float32",
    ),
    "of another dtype": (
        lambda: MODEL.next_logits([[1]], past=kv_cache.empty_cache(1, CONFIG, np.float64)),
        "past is of another model: 2 heads of 4, float64",
    ),
    "of a shorter context": (
        lambda: MODEL.next_logits(
            [[1, 2, 3]], past=kv_cache.empty_cache(1, replace(CONFIG, context_length=2))
        ),
        "past has room for 2 positions, not for 3",
    ),
    "layers of different caches": (
        lambda: npgpt.GPT(LAYERS).next_logits(
            [[1], [2]], past=[kv_cache.empty_cache(n, CONFIG)[0] for n in (2, 1)]
        ),
        "past has layers of different caches",
    ),
    "too large an array": (
        lambda: generator().normal((2**40, 2**40)), "is too large for an array"
    ),
    "an empty array that is too large": (
        lambda: generator().normal((2**62, 0, 2**62)), "is too large for an array"
    ),
    "another order": (
        lambda: list(npgpt.Loader(X, Y, batch_size=1, shuffle=True, drop_last=True).batches(
            np.array([0, 2]))), "order must be numbers of windows, 0 to 1",
    ),
    "no context": (
        lambda: npgpt.evaluate(MODEL, IDS, context_length=0), "context_length is 0, but must be"
    ),
    "no function": (lambda: npgpt.evaluate(MODEL, IDS, track=3), "track is 3, but must be"),
    "no tokens": (lambda: npgpt.evaluate(MODEL, []), "at least 2 tokens to predict one, got 0"),
    "an ignored token": (
        lambda: npgpt.evaluate(MODEL, [1, 2, -100]), "tokens: token id -100 is outside the voc"
    ),
    "no prompt": (lambda: npgpt.generate(MODEL, [], 2), "the prompt is empty"),
    "no prompts": (lambda: npgpt.generate(MODEL, [[]], 2), "the prompt is empty"),
    "an empty prompt among others": (
        lambda: npgpt.generate(MODEL, [[1], []], 2), "the prompt is empty"
    ),
    "no batch": (lambda: MODEL.logits(X[:0]), r"tokens of shape \(0, 4\) are empty"),
    "no positions": (lambda: MODEL.logits(X[:, :0]), r"tokens of shape \(2, 0\) are empty"),
    "booleans": (lambda: MODEL.logits(X > 1), "these are bool of shape"),
    "floats with integral values": (lambda: MODEL.logits(X * 1.0), "these are float64 of shape"),
    "a path of nothing": (lambda: MODEL.save(""), "path is '', but must be"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    use, says = MISTAKES[mistake]
    with pytest.raises(InputError, match=says):
        use()


def test_a_directory_is_no_file_to_save_to(tmp_path):
    for path in (".", "..", "/", tmp_path, Path()):
        with pytest.raises(RunError, match="could not be written: it is a directory, not a file"):
            MODEL.save(path)
    assert list(tmp_path.iterdir()) == []


def test_numpys_scalars_are_numbers():
    config = npgpt.Config(
        vocab_size=np.int64(31), context_length=np.array(12), n_layer=np.uint8(1),
        n_head=np.int16(2), n_embd=np.uint16(8), dropout=np.float32(0), tied=np.bool_(True),
    )  # fmt: skip
    assert repr(config) == repr(CONFIG)
    assert type(npgpt.TrainingConfig(lr=np.float64(1), seed=np.uint64(3)).seed) is int
    expected = list(npgpt.generate(MODEL, [1, 2], 3))
    for tokens in (
        [np.int64(1), np.uint16(2)], (1, 2), range(1, 3), np.array([1, 2], np.uint16),
        np.array([1, 2], ">i4"), [np.array(1), np.array(2)],
    ):  # fmt: skip
        assert list(npgpt.generate(MODEL, tokens, np.array(3), top_k=np.uint8(200))) == expected
    for kind in (np.int8, np.uint8, np.uint16, np.int32, np.uint64, ">i2"):
        assert MODEL.evaluate(X.astype(kind), Y.astype(kind)) == MODEL.evaluate(X, Y)
        assert npgpt.evaluate(MODEL, IDS.astype(kind)) == npgpt.evaluate(MODEL, IDS.tolist())
    assert loader(batch_size=np.uint16(3))[0][0].shape == (2, 4)


@pytest.mark.parametrize("eos_id", [-1, 31, 2**70])
def test_a_token_that_the_model_does_not_know_ends_nothing(eos_id):
    expected = list(npgpt.generate(MODEL, [1, 2], 5))
    assert list(npgpt.generate(MODEL, [1, 2], 5, eos_id=eos_id)) == expected


def test_a_nucleus_of_almost_nothing_is_the_most_likely_token():
    for new in zip(generated(top_p=1e-320, top_k=None), generated(temperature=0.0), strict=True):
        np.testing.assert_array_equal(*new)
