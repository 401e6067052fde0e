"""Pictures for a notebook: they draw the numbers of npgpt.explain, on axes with labels."""

import numpy as np
import pytest
from matplotlib.figure import Figure

import npgpt
from npgpt import ops, show
from npgpt.errors import InputError
from npgpt.explain import (
    attention,
    backward,
    gradients,
    logit_lens,
    muon_steps,
    ravine,
    step,
    writing,
)
from npgpt.show import canvas
from parity_tests.docs.test_docstrings import faults

CONFIG = npgpt.Config(
    vocab_size=257, context_length=24, n_layer=2, n_head=2, n_embd=16, dropout=0.1, tied=False
)
TEXT = "The $x$ of\n\u2603 \u4e2d"  # a formula to TeX, a line end, characters of several bytes
TRAINING = npgpt.TrainingConfig(optimizer="muon", lr=1e-3)


@pytest.fixture(scope="module")
def model():
    return npgpt.GPT(CONFIG, seed=5, scheme="book", ops=ops, tokenizer="byte")


@pytest.fixture(scope="module")
def ids():
    return np.array(npgpt.tokenizer("byte").encode(TEXT))


PICTURES = {
    "attention": lambda model: show.attention(model, TEXT),
    "backward": lambda model: show.backward(model, TEXT),
    "gradients": lambda model: show.gradients(model, TEXT),
    "logit_lens": lambda model: show.logit_lens(model, TEXT),
    "muon": lambda model: show.muon(np.random.default_rng(1).normal(size=(5, 8))),
    "next_token": lambda model: show.next_token(model, TEXT, top_k=30, top_p=0.9, draws=50),
    "nudge": lambda model: show.nudge(model, TEXT, "ln_f.weight", (3,)),
    "outer": lambda model: show.outer(model, TEXT),
    "ravine": lambda model: show.ravine(steps=5),
    "step": lambda model: show.step(model, TEXT, TRAINING),
    "surprise": lambda model: show.surprise(model, TEXT),
}


def test_a_tied_matrix_has_two_products_per_token():
    config = npgpt.Config(vocab_size=257, context_length=24, n_layer=1, n_head=2, n_embd=8)
    model = npgpt.GPT(config, seed=5, ops=ops, tokenizer="byte")
    figure = show.outer(model, TEXT, "wte.weight")
    bars, panel, *_ = panels(figure)
    assert bars.get_title() == "wte.weight: outer(dlogits, x), then outer(onehot(token), dx)"
    found = gradients.outer(backward.run(model, canvas.read_tokens(model, TEXT)), "wte.weight")
    assert [bar.get_height() for bar in bars.patches] == found.shares.tolist()
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("channel", "token of the vocabulary")


def panels(figure: Figure) -> list:
    """The axes of a figure, without those of colour bars."""
    return [axes for axes in figure.get_axes() if axes.get_label() != "<colorbar>"]


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_has_labels(model, name):
    """No picture warns: warnings are errors here."""
    figure = PICTURES[name](model)
    assert figure._repr_png_().startswith(b"\x89PNG")
    if name != "surprise":  # a text
        said = [figure.get_supxlabel(), *(axes.get_xlabel() for axes in panels(figure))]
        assert any(said)
        said = [figure.get_supylabel(), *(axes.get_ylabel() for axes in panels(figure))]
        assert any(said)
    bars = set(figure.get_axes()) - set(panels(figure))
    assert all(bar.get_ylabel() for bar in bars)


def test_every_picture_is_here():
    assert sorted(PICTURES) == show.__all__
    assert npgpt.show is show
    with pytest.raises(AttributeError, match="has no attribute 'pie'"):
        getattr(show, "pie")  # noqa: B009


@pytest.mark.parametrize("name", PICTURES)
def test_docstrings_have_sections(name):
    assert faults(getattr(show, name)) == []


def image_of(axes):
    return np.asarray(axes.get_images()[0].get_array())


def test_attention_draws_the_weights(model, ids):
    expected = list(attention.every_layer(model, ids))
    drawn = [image_of(axes) for axes in panels(show.attention(model, TEXT))]
    np.testing.assert_array_equal(drawn, np.concatenate(expected))
    [single] = panels(show.attention(model, ids, layer=1, head=0))
    np.testing.assert_array_equal(image_of(single), expected[1][0])
    with pytest.raises(InputError, match="head is 2, but must be from 0 to 1"):
        show.attention(model, TEXT, head=2)


def test_backward_draws_the_gradient_of_the_stream(model, ids):
    found = backward.run(model, ids)
    bars, stream = panels(show.backward(model, TEXT))
    np.testing.assert_array_equal(image_of(stream), found.stream.norms[::-1])
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], found.losses)
    assert [label.get_text() for label in stream.get_yticklabels()][-1] == "embedding"


def test_the_lens_has_the_output_on_top(model, ids):
    [axes] = panels(show.logit_lens(model, TEXT))
    found = logit_lens.lens(model, ids, count=1)
    np.testing.assert_array_equal(image_of(axes), found.probs[::-1, :, 0])
    assert len(axes.texts) == 3 * len(ids)


def test_next_token_draws_the_distributions(model, ids):
    first, *_, last = panels(show.next_token(model, TEXT, top_k=4, count=10))
    probs = np.exp(model.logits(ids[None])[0, -1].astype(np.float64))
    probs /= probs.sum()
    drawn = [bar.get_width() for bar in first.patches]
    np.testing.assert_allclose(drawn, np.sort(probs)[::-1][:10], rtol=1e-5)
    assert sum(bar.get_width() > 0 for bar in last.patches) == 4


def test_surprise_colours_every_token(model, ids):
    axes = panels(show.surprise(model, TEXT))[0]
    found = writing.reading(model, ids, count=1)
    boxes = [patch.get_facecolor() for patch in axes.patches]
    assert len(boxes) == len(axes.texts) == len(ids)
    brightest = np.argmax([sum(color[:3]) for color in boxes[1:]])
    assert brightest == np.nanargmax(found.surprise[1:])


def test_the_step_is_drawn_along_the_update(model, ids):
    left, right = panels(show.step(model, TEXT, TRAINING))
    found = step.take(npgpt.explain.precision.cast(model), ids, TRAINING)
    measured, predicted = (line.get_ydata() for line in left.lines[:2])
    np.testing.assert_array_equal(measured, found.losses)
    np.testing.assert_allclose(predicted, found.loss + found.fractions * found.predicted)
    before, after = (line.get_ydata() for line in right.lines[:2])
    assert len(before) == len(after) == len(ids) - 1


def test_optimizers_on_the_ravine_and_muons_steps():
    left, right = panels(show.ravine({"one": TRAINING}, steps=7))
    found = ravine.race(TRAINING, 7)
    np.testing.assert_array_equal(np.array(left.lines[0].get_data()).T, found.path)
    np.testing.assert_array_equal(right.lines[0].get_ydata(), found.losses)
    matrix = np.random.default_rng(1).normal(size=(5, 8))
    left, _ = panels(show.muon(matrix))
    drawn = [line.get_ydata() for line in left.lines[:5]]
    np.testing.assert_array_equal(drawn, muon_steps.steps(matrix).singular.T)


def test_labels_of_tokens(model):
    assert canvas.labels(model, [65, 32, 10, 0xE4]) == ["A", "·", "\\n", "\\xe4"]
    other = npgpt.GPT(CONFIG, ops=ops)
    assert canvas.labels(other, [65]) == ["<65>"]
    with pytest.raises(InputError, match="the tokenizer of this model is unknown"):
        show.surprise(other, "abc")


@pytest.mark.parametrize("name", ["backward", "gradients", "ravine", "step"])
def test_logarithmic_axes_have_plain_labels(model, name):
    """Formulas are off, for "$" in tokens: a label that is one would show its source."""
    figure = PICTURES[name](model)
    figure.canvas.draw()
    texts = [
        label.get_text()
        for axes in figure.get_axes()
        for axis in (axes.xaxis, axes.yaxis)
        for label in axis.get_ticklabels(which="both")
    ]
    assert any("e-" in text or "." in text for text in texts)
    assert not any("math" in text for text in texts)
