"""copy.deepcopy and pickle: independent twins with the same bits."""

import copy
import io
import pickle

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.errors import InputError
from npgpt.model import params, quantize
from npgpt.training import optim

CONFIG = npgpt.Config(vocab_size=31, context_length=12, n_layer=2, n_head=2, n_embd=8, tied=False)
TOKENS = np.arange(16).reshape(2, 8)


def by_pickle(one):
    return pickle.loads(pickle.dumps(one))


def leaves(tree):
    """The arrays of a tree; of a quantized matrix, its values."""
    return [getattr(leaf, "values", leaf) for _, leaf in npgpt.named(tree)]


def assert_twins(one, twin):
    for a, b in zip(leaves(one), leaves(twin), strict=True):
        assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes())
        assert not np.shares_memory(a, b)
        assert b.flags.writeable


each_way = pytest.mark.parametrize("twin_of", [copy.deepcopy, by_pickle, copy.copy])


@each_way
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_models(twin_of, dtype):
    model = npgpt.GPT(CONFIG, seed=5, dtype=dtype, tokenizer="byte",
                      ops=None if dtype == "bfloat16" else ops)  # fmt: skip
    model.loss_and_gradients(TOKENS, TOKENS)
    twin = twin_of(model)
    assert (twin.config, twin.tokenizer, twin.ops) == (model.config, "byte", model.ops)
    assert repr(twin) == repr(model)
    loss, gradients = twin.loss_and_gradients(TOKENS, TOKENS)
    assert loss == model.loss(TOKENS, TOKENS)[0]
    if twin_of is copy.copy:
        assert twin.params is model.params
        return
    assert_twins(model.params, twin.params)
    base = {id(leaf.base) for leaf in leaves(twin.params)}
    assert len(base) == 1  # one flat array
    assert not np.shares_memory(
        gradients.wte.weight, model.loss_and_gradients(TOKENS, TOKENS)[1].wte.weight
    )
    twin.params.wte.weight[...] = 0
    assert model.params.wte.weight.any()


@pytest.mark.parametrize("twin_of", [copy.deepcopy, by_pickle])
def test_mapped_models_own_their_copies(twin_of, tmp_path):
    npgpt.GPT(CONFIG, seed=5, ops=ops).save(tmp_path / "model.h5")
    model = npgpt.load(tmp_path / "model.h5", ops=ops)
    twin = twin_of(model)
    assert_twins(model.params, twin.params)
    (tmp_path / "model.h5").write_bytes(b"")  # pages that were mapped would be gone
    assert np.isfinite(twin.evaluate(TOKENS, TOKENS))


@pytest.mark.parametrize("twin_of", [copy.deepcopy, by_pickle])
@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_quantized_models(twin_of, kind):
    tree = quantize.quantize(npgpt.GPT(CONFIG, seed=5, ops=ops).params, kind)
    model = npgpt.GPT.from_params(CONFIG, tree)
    twin = twin_of(model)
    assert_twins(model.params, twin.params)
    assert twin.ops is model.ops
    assert kind in repr(twin)
    assert twin.logits(TOKENS).tobytes() == model.logits(TOKENS).tobytes()
    scale, other = (one.params.lm_head.weight.scale for one in (model, twin))
    assert (scale is None) == (kind == "bfloat16")
    assert scale is None or not np.shares_memory(scale, other)


@pytest.mark.parametrize("twin_of", [copy.deepcopy, by_pickle])
def test_generators(twin_of, backend):
    rng = npgpt.Generator(7, ops=backend)
    rng.normal(5)
    twin = twin_of(rng)
    assert (twin.state.tobytes(), twin.ops) == (rng.state.tobytes(), backend)
    drawn = twin.normal(100)
    assert drawn.tobytes() == rng.normal(100).tobytes()
    rng.random64()
    assert twin.state.tobytes() != rng.state.tobytes()


def train(model, optimizer, steps):
    for _ in range(steps):
        _, gradients = model.loss_and_gradients(TOKENS, TOKENS + 1)
        optimizer.step(gradients)


@pytest.mark.parametrize("twin_of", [copy.deepcopy, by_pickle])
def test_a_model_and_its_optimizer(twin_of, backend):
    """Copied together, the copied optimizer updates the copied model."""
    model = npgpt.GPT(CONFIG, ops=backend)
    optimizer = npgpt.AdamW(model.params, lr=1e-2, betas=(0.8, 0.9), eps=1e-7, weight_decay=0.2,
                            decays=optim.matrices, ops=backend)  # fmt: skip
    train(model, optimizer, 2)
    twin, twin_optimizer = twin_of((model, optimizer))
    assert twin_optimizer.parameters is twin.params
    assert repr(twin_optimizer) == repr(optimizer)
    for one, other in ((optimizer.m, twin_optimizer.m), (optimizer.v, twin_optimizer.v)):
        assert_twins(one, other)
    assert twin_optimizer.decays is optim.matrices
    train(twin, twin_optimizer, 2)
    before = [a.tobytes() for a in leaves(model.params)]
    train(model, optimizer, 2)
    assert [a.tobytes() for a in leaves(twin.params)] == [a.tobytes() for a in leaves(model.params)]
    assert before != [a.tobytes() for a in leaves(model.params)]


def test_trees_and_configs():
    tree = npgpt.GPT(CONFIG, ops=ops).params
    for twin in (copy.deepcopy(tree), by_pickle(tree)):
        assert isinstance(twin, params.Params)
        assert_twins(tree, twin)
    assert by_pickle(CONFIG) == CONFIG


def saved(state):
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    return np.load(file)


@pytest.mark.parametrize("through", [dict, saved], ids=["dict", "npz"])
def test_the_state_of_an_optimizer(through, backend):
    model = npgpt.GPT(CONFIG, ops=backend)
    optimizer = npgpt.AdamW(model.params, lr=1e-2, betas=(0.8, 0.9), eps=1e-7, ops=backend)
    train(model, optimizer, 3)
    state, twin = through(optimizer.state), copy.deepcopy(model)
    train(model, optimizer, 2)  # `state` is a copy
    resumed = npgpt.AdamW(twin.params, ops=backend)
    resumed.load_state(state)
    assert (resumed.steps, resumed.lr, resumed.betas, resumed.eps) == (3, 1e-2, (0.8, 0.9), 1e-7)
    train(twin, resumed, 2)
    assert_twins(model.params, twin.params)
    assert_twins(optimizer.v, resumed.v)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": -1}, "steps is -1, but must be at least 0"),
        ({"steps": 1.5}, "steps is 1.5, but must be an integer"),
        ({"steps": "3"}, "steps is '3', but must be a number"),
        ({"lr": np.nan}, "lr is nan, but must be a finite number"),
        ({"beta1": 1.0}, "both must be in"),
        ({"weight_decay": [1, 2]}, r"weight_decay is \[1, 2\], but must be a number"),
        ({"m.wte.weight": np.zeros((31, 8))}, "m.wte.weight must be an array of float32"),
        ({"m.wte.weight": 3}, "m.wte.weight must be an array of float32"),
        ({"v.ln_f.bias": np.zeros(9, np.float32)}, r"v.ln_f.bias is \(9,\), but must be \(8,\)"),
        ({"m.wte.weight": None}, "state has no key 'm.wte.weight'"),
        ({"extra": 1}, "state has an unknown key 'extra'"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(changes, says):
    optimizer = npgpt.AdamW(npgpt.GPT(CONFIG, ops=ops).params, ops=ops)
    state = optimizer.state | {"steps": 7, "lr": 0.5} | changes
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(InputError, match=says):
        optimizer.load_state(state)
    assert (optimizer.steps, optimizer.lr) == (0, 1e-3)
    for wrong in (None, 3, "state", [1]):
        with pytest.raises(InputError, match="state must be a dict"):
            optimizer.load_state(wrong)


def test_what_objects_say_of_themselves():
    model = npgpt.GPT(CONFIG, ops="numpy")
    assert repr(model) == (
        "GPT(2,352 parameters, V=31 T_max=12 L=2 H=2 C=8 untied, float32, npgpt.ops)"
    )
    assert repr(npgpt.AdamW(model.params, ops="numpy")) == (
        "AdamW(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, steps=0, npgpt.ops)"
    )
    assert "n_layer=2" in repr(CONFIG)
    assert "n_layer=12" in repr(npgpt.presets["gpt2-small"])
