"""The backward pass, step by step: its gradients are the model's, and its code is what ran."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.errors import InputError, RunError
from npgpt.explain import backward, blocks, gradients, op_source
from npgpt.model.params import leaves

CONFIG = npgpt.Config(
    vocab_size=31, context_length=12, n_layer=3, n_head=2, n_embd=16, dropout=0.1, tied=False
)
TIED = npgpt.Config(
    vocab_size=31, context_length=12, n_layer=2, n_head=2, n_embd=16, qkv_bias=False
)
TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9]  # one more than the context
ROOT = Path(npgpt.__file__).parents[1]


def model_of(config=CONFIG, backend=ops, dtype="float32"):
    return npgpt.GPT(config, seed=5, scheme="book", dtype=dtype, ops=backend)


@pytest.fixture(scope="module")
def found():
    return backward.run(model_of(), TEXT)


@pytest.mark.filterwarnings("ignore::npgpt.errors.DropoutWarning")
@pytest.mark.parametrize(
    ("config", "backend"),
    [(CONFIG, "numpy"), (TIED, "numpy"), pytest.param(TIED, "fused", marks=pytest.mark.slow)],
    ids=["untied", "tied", "tied-fused"],
)
def test_gradients_are_those_of_the_model_to_the_bit(config, backend):
    model = model_of(config, backend)
    loss, cache = model.loss([TEXT[:-1]], [TEXT[1:]])
    expected = model.backward(cache)
    found = backward.run(model, TEXT)
    assert found.loss == loss
    for (name, one), (_, other) in zip(
        npgpt.named(found.gradients), npgpt.named(expected), strict=True
    ):
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_another_backend_than_the_models(found):
    model = model_of(backend="numpy")
    model.ops = None  # is not called
    again = backward.run(model, TEXT, ops=ops)
    np.testing.assert_array_equal(again.gradients.wte.weight, found.gradients.wte.weight)


def test_every_op_is_a_step_in_reverse_order(found):
    block = ("linear", "gelu", "linear", "layernorm", "residual",
             "linear", "attention", "linear", "layernorm", "residual")  # fmt: skip
    expected = ["linear_cross_entropy", "layernorm", *block * 3, "embedding"]
    assert [step.op for step in found.steps] == expected
    assert [step.layer for step in found.steps] == [None] * 2 + [2] * 10 + [1] * 10 + [0] * 10 + [
        None
    ]
    assert [step.name for step in found.steps[:8]] == [
        "loss", "ln_f", "h.2.mlp.c_proj", "h.2.mlp.gelu", "h.2.mlp.c_fc", "h.2.ln_2",
        "h.2.after_attn", "h.2.attn.c_proj",
    ]  # fmt: skip
    assert found.steps[-2].name == "embedding"


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["untied", "tied"])
def test_every_gradient_is_written_by_a_step(config):
    model = model_of(config)
    steps = backward.run(model, TEXT).steps
    written = Counter(itertools.chain.from_iterable(step.parameters for step in steps))
    expected = Counter(name for name, _ in npgpt.named(model.params))
    assert written == expected + Counter({"wte.weight": int(config.tied)})  # as the head, too


def test_the_gradients_that_arrive_are_those_of_trace(found):
    traced = model_of().trace([TEXT[:-1]], [TEXT[1:]])
    for row, name in zip(found.stream.norms, found.stream.names, strict=True):
        np.testing.assert_array_equal(row, np.linalg.norm(traced[f"{name}.grad"][0], axis=-1))
    for step in found.steps[1:]:
        arrives = np.linalg.norm(traced[f"{step.name}.grad"][0], axis=-1)
        np.testing.assert_array_equal(step.dx if step.op == "residual" else step.dout, arrives)
    assert found.stream.names[:3] == ["embedding", "h.0.after_attn", "h.0.after_mlp"]
    np.testing.assert_array_equal(found.activations["h.1.mlp.gelu"], traced["h.1.mlp.gelu"])
    np.testing.assert_array_equal(found.dactivations["h.1.ln_2"], traced["h.1.ln_2.grad"])


def test_a_gradient_that_leaves_a_step_arrives_at_the_next(found):
    for before, after in itertools.pairwise(found.steps):
        if "residual" not in (before.op, after.op) and before.name != "ln_f":
            np.testing.assert_array_equal(before.dx, after.dout)


def test_losses_are_those_of_the_tokens(found):
    assert np.mean(found.losses) == pytest.approx(found.loss, rel=1e-6)
    log_probs = np.log(ops.attention.softmax(model_of().logits([TEXT[:-1]])[0]))
    np.testing.assert_allclose(found.losses, -log_probs[np.arange(12), TEXT[1:]], rtol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["untied", "tied"])
def test_the_sum_of_outer_products_is_the_gradient(config):
    """Matrices are those of the blocks, of both embeddings, and of the output head."""
    found = backward.run(model_of(config, dtype="float64"), TEXT)
    names = gradients.sums(found)
    assert names == gradients.matrices(found) + ["wte.weight", "wpe.weight"] + (
        [] if config.tied else ["lm_head.weight"]
    )
    assert len(names) == len([one for one in leaves(found.gradients) if one.ndim == 2])
    for name in names:
        x, dy, gradient, shares, parts, _ = gradients.outer(found, name)[1:]
        assert len(x) == len(dy) == 12 * len(parts)
        assert len(parts) == (2 if config.tied and name == "wte.weight" else 1)
        total = sum(np.outer(x[t], dy[t]) for t in range(len(x)))
        assert np.linalg.norm(total - gradient) < 1e-5 * np.linalg.norm(gradient)
        assert shares.sum() == pytest.approx(1)
        parts = [np.vdot(np.outer(x[t], dy[t]), gradient) for t in range(len(x))]
        np.testing.assert_allclose(shares, parts / np.vdot(gradient, gradient))


def test_a_matrix_that_is_none(found):
    with pytest.raises(
        InputError, match=r"name is 'ln_f\.weight', but must be a matrix, such as h\.0\.attn"
    ):
        gradients.outer(found, "ln_f.weight")


def test_sizes_of_gradients(found):
    model = model_of()
    model.params.ln_f.weight[...] = 0
    sizes = {one.name: one for one in gradients.sizes(model.params, found.gradients)}
    assert list(sizes) == [name for name, _ in npgpt.named(model.params)]
    one, array = sizes["h.1.mlp.c_fc.weight"], found.gradients.h[1].mlp.c_fc.weight
    assert one.shape == (16, 64)
    assert one.gradient == pytest.approx(np.sqrt(np.mean(array**2)))
    weight = np.sqrt(np.mean(model.params.h[1].mlp.c_fc.weight ** 2))
    assert (one.weight, one.ratio) == pytest.approx((weight, one.gradient / weight))
    assert abs(array[one.largest]) == np.abs(array).max()
    assert np.isnan(sizes["ln_f.weight"].ratio)


def test_the_code_is_what_stands_in_the_file(found):
    for step in found.steps:
        for code in step.code:
            lines = (ROOT / code.file).read_text("utf-8").splitlines()[code.line - 1 :]
            assert code.text.splitlines() == lines[: code.text.count("\n")]
            assert code.text.startswith("def ")
    by_op = {step.op: step for step in found.steps}
    assert {op: step.code[-1].file for op, step in by_op.items()} == {
        op: "npgpt/model/block.py" if op == "residual" else f"npgpt/ops/{op}.py" for op in by_op
    }
    assert all(step.ran == step.code[-1].file for step in found.steps)
    assert "dv = dropped.mT @ dy" in by_op["attention"].code[0].text
    assert [code.text.split("(")[0] for code in by_op["linear_cross_entropy"].code] == [
        "def forward", "def backward",
    ]  # fmt: skip


def test_the_sums_of_the_stream_are_highlighted(found):
    for step in found.steps:
        if step.op == "residual":
            [code], [number] = step.code, step.code[0].highlighted
            line = code.text.splitlines()[number - code.line]
            assert "np.add(dx, dh, out=dh)" in line
            assert ("MLP" in line) == step.name.endswith("after_attn")


def test_formulas_are_those_of_the_docstrings(found):
    formulas = {step.op: step.formula for step in found.steps}
    assert formulas["gelu"].splitlines()[1] == "out   = 0.5 * x * (1 + tanh(inner))"
    assert "probs  = softmax(scores)" in formulas["attention"]
    assert "x = x + layer(x)" in formulas["residual"]
    assert formulas["linear"] == "out = x @ weight + bias"
    assert all(formulas.values())
    assert op_source.formula(ops.muon).count("\n\n") == 1  # two of them


def test_progress_and_the_end_that_it_asks_for():
    calls = []
    backward.run(model_of(), TEXT, progress=lambda done, of: calls.append((done, of)))
    assert calls == [(i, len(calls)) for i in range(1, len(calls) + 1)]

    def leave(done, of):
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backward.run(model_of(), TEXT, progress=leave)


@pytest.mark.parametrize(
    ("text", "says"),
    [([1], "the text has 1 tokens, but must have at least 2"), ([*TEXT, 1], "longer than"),
     ([*TEXT[:-1], 31], "outside the vocabulary")],
)  # fmt: skip
def test_texts_without_a_backward(text, says):
    with pytest.raises(InputError, match=says):
        backward.run(model_of(), text)


def test_a_model_of_nans():
    broken = model_of()
    broken.params.h[1].mlp.c_fc.weight[2, 3] = np.nan
    with pytest.raises(RunError, match=r"the loss is nan: h\.1\.mlp\.c_fc\.weight holds nan"):
        backward.run(broken, TEXT)


def test_a_matrix_is_seen_by_the_means_of_its_blocks():
    values = np.arange(35.0).reshape(5, 7)
    found = blocks.means(values, 2, 3)
    parts = [np.hsplit(rows, [2, 4]) for rows in np.vsplit(values, [2])]
    assert found.tolist() == [[block.mean() for block in row] for row in parts]
    assert blocks.means(values, 9, 9) is values


def test_means_of_an_outer_product_are_those_of_its_factors():
    x, dy = np.random.default_rng(1).normal(size=(2, 1, 50))
    whole = blocks.means(x.T @ dy, 7, 9)
    np.testing.assert_allclose(whole, blocks.means(x, 1, 7).T @ blocks.means(dy, 1, 9))
