"""Views 5 to 7 of npgpt play: backwards, one step, and a nudged number."""

import json

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.config import TrainingConfig
from npgpt.explain import gradients, nudge, precision, step
from npgpt.play.api import backward as api
from npgpt.play.api import step as step_api
from parity_tests.support.play_client import Client, decode

TEXT = "The sea, a rock!"
LONG = "0123456789 abcdefghij"  # the context is 16
STEP = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.1,
    "earlier": 1,
    "parameter": "ln_f.bias",
}


@pytest.fixture(scope="module")
def client():
    made = Client()
    yield made
    made.close()


def ids(text):
    return np.array(list(text.encode()))


@pytest.mark.parametrize("text", [TEXT, LONG])
def test_the_gradients_are_those_of_the_model(client, text):
    """Their sizes are in the answer, and the numbers themselves are kept."""
    model = client.session.model
    read = ids(text)[-17:]
    said = client.call("backward", prompt=text)
    loss, cache = model.loss([read[:-1]], [read[1:]])
    expected = model.backward(cache)
    assert (said["loss"], said["unread"]) == (loss, len(text) - len(read))
    sizes = list(gradients.sizes(model.params, expected))
    assert [one["gradient"] for one in said["sizes"]] == [one.gradient for one in sizes]
    assert [one["ratio"] for one in said["sizes"] if one["weight"]] == [
        one.ratio for one in sizes if one.weight
    ]
    found = client.session.backward[1]
    for (name, one), (_, other) in zip(
        npgpt.named(found.gradients), npgpt.named(expected), strict=True
    ):
        np.testing.assert_array_equal(one, other, err_msg=name)
    np.testing.assert_array_equal(said["dx"], [one.dx for one in found.steps])
    np.testing.assert_array_equal(said["norms"], found.stream.norms)
    assert said["tokens"].tolist() == read[:-1].tolist()


def test_every_step_has_its_source(client):
    said = client.call("backward", prompt=TEXT)
    assert len(said["steps"]) == len(said["dx"]) == 23
    for one in said["steps"]:
        source = said["sources"][one["source"]]
        assert source["op"] == one["op"] and source["formula"]
        assert all(part["text"].startswith("def ") for part in source["code"])
    assert said["backend"] == "npgpt.ops"
    assert {one["ran"] for one in said["steps"]} >= {"npgpt/ops/linear.py", "npgpt/model/block.py"}


def test_the_numbers_of_a_step(client):
    model = client.session.model
    traced = model.trace([ids(TEXT)[:-1]], [ids(TEXT)[1:]])
    steps = client.call("backward", prompt=TEXT)["steps"]
    for number in (0, 1, 3, 6, 22):
        name = steps[number]["name"] if number else "ln_f"
        said = client.call("backward-numbers", prompt=TEXT, step=number)
        np.testing.assert_array_equal(said["values"], traced[f"{name}.grad"][0])
        assert said["channels"] == traced[f"{name}.grad"].shape[-1]


def test_a_matrix_as_a_sum_over_tokens(client):
    name = "h.1.mlp.c_fc.weight"
    said = client.call("backward-outer", prompt=TEXT, parameter=name)
    found = client.session.backward[1].gradients.h[1].mlp.c_fc.weight
    np.testing.assert_allclose(said["x"].T @ said["dy"], found, atol=1e-7)
    np.testing.assert_array_equal(said["gradient"], found)
    assert said["error"] < 1e-6 and said["shares"].sum() == pytest.approx(1, abs=1e-5)
    assert (said["rows"], said["columns"]) == (8, 32)


def test_a_tied_matrix_is_a_sum_of_two_parts(client):
    """Its gradient as the output head, and as the embedding: two products per token."""
    said = client.call("backward-outer", prompt=TEXT, parameter="wte.weight")
    assert said["parts"] == ["outer(dlogits, x)", "outer(onehot(token), dx)"]
    assert said["axes"] == ["token of the vocabulary", "channel"]
    assert len(said["x"]) == len(said["dy"]) == len(said["shares"]) == 2 * (len(TEXT) - 1)
    assert said["error"] < 1e-6 and said["shares"].sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(said["x"].T @ said["dy"], said["gradient"], atol=1e-7)
    assert "wte.weight" in client.call("backward", prompt=TEXT)["matrices"]


def test_a_large_model_keeps_its_backend(client, monkeypatch):
    assert api.backend(client.session) is ops
    monkeypatch.setattr(api, "SMALL", 0)
    monkeypatch.setattr(client.session.model, "ops", "its own")
    assert api.backend(client.session) == "its own"


def test_progress_of_backward(client):
    client.session.backward = None
    frames = decode(client.post("backward", {"prompt": TEXT}).body)
    assert [frame["kind"] for frame in frames][:1] == ["progress"] and frames[0]["total"] == 48


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "rmsprop", "muon", "adamw"])
def test_one_step(client, optimizer):
    said = client.call("step", prompt=TEXT, **STEP | {"optimizer": optimizer})
    model = precision.cast(client.session.model)
    settings = {"nesterov": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
                "rmsprop": {"optimizer": "rmsprop", "beta2": 0.99}}  # fmt: skip
    own = settings.get(optimizer, {"optimizer": optimizer})
    training = TrainingConfig(**own, lr=1e-3, weight_decay=0.1, decay="matrices")
    found = step.take(model, ids(TEXT), training, earlier=1)
    assert (said["predicted"], said["measured"]) == (found.predicted, found.measured)
    assert said["dtype"] == "float64" and said["steps"] == 2
    np.testing.assert_array_equal(said["losses"], found.losses)
    np.testing.assert_array_equal(said["update"], found.update.ln_f.bias)
    rows = np.arange(len(found.targets))
    np.testing.assert_array_equal(said["after"], found.after[rows, found.targets])
    index = tuple(said["index"])
    assert abs(found.gradients.ln_f.bias[index]) == np.abs(found.gradients.ln_f.bias).max()
    assert said["entry"]["update"] == found.update.ln_f.bias[index]
    np.testing.assert_array_equal(said["errors"], step.errors(found))


def test_a_step_of_a_large_model_has_fewer_points(client, monkeypatch):
    """The error of half the step is among them."""
    monkeypatch.setattr(step_api, "SMALL", 0)
    said = client.call("step", prompt=TEXT, **STEP)
    assert said["dtype"] == "float32" and said["fractions"].tolist() == [0, 0.5, 1, 1.5, 2]
    assert len(said["losses"]) == len(said["errors"]) == 5


def test_a_number_is_nudged(client):
    name, index = "h.0.attn.c_attn.weight", [3, 20]
    said = client.call("nudge", prompt=TEXT, parameter=name, index=index)
    found = nudge.measure(client.session.model, ids(TEXT), name, tuple(index), points=17)
    assert said["agrees"] is True
    assert (said["slope"], said["gradient"]) == (found.slope, found.gradient)
    assert said["slope"] == pytest.approx(said["gradient"], rel=1e-5)
    np.testing.assert_array_equal(said["losses"], found.losses)
    kept = client.session.passes[1]
    client.call("nudge", prompt=TEXT, parameter="ln_f.bias", index=[0])
    assert client.session.passes[1] is kept
    other = client.call("nudge", prompt="Another text", parameter="ln_f.bias", index=[0])
    assert other["loss"] != said["loss"]


@pytest.mark.parametrize(
    ("name", "row", "column", "start", "shape"),
    [("wte.weight", 0, 0, [0, 0], (12, 8)), ("wte.weight", 256, 7, [245, 0], (12, 8)),
     ("h.1.mlp.c_fc.weight", 4, 20, [0, 16], (8, 8)),
     ("h.0.mlp.c_fc.bias", 0, 31, [0, 0], (1, 32))],
)  # fmt: skip
def test_a_part_of_a_parameter(client, name, row, column, start, shape):
    said = client.call("parameter", prompt=TEXT, parameter=name, row=row, column=column)
    assert said["start"] == start and said["values"].shape == shape
    part = tuple(slice(first, first + count) for first, count in zip(start, shape, strict=True))
    trees = {
        "values": client.session.model.params,
        "gradient": client.session.backward[1].gradients,
    }
    for key, tree in trees.items():
        np.testing.assert_array_equal(said[key], np.atleast_2d(dict(npgpt.named(tree))[name])[part])


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [("backward", {"prompt": "a"}, "at least two tokens"),
     ("backward-numbers", {"step": 23}, "step is 23, but must be from 0 to 22"),
     ("backward-outer", {"parameter": "ln_f.bias"}, "must be a matrix, such as"),
     ("parameter", {"parameter": "wte", "row": 0, "column": 0}, "must be a parameter"),
     ("parameter", {"parameter": "ln_f.bias", "row": 1, "column": 0}, "row is 1"),
     ("nudge", {"parameter": "ln_f.bias", "index": "0"}, "is not one of ln_f.bias"),
     ("nudge", {"parameter": "ln_f.bias", "index": [1e9]}, "must be an integer"),
     ("step", STEP | {"optimizer": "lion"}, "optimizer is 'lion'"),
     ("step", STEP | {"earlier": 101}, "from 0 to 100"),
     ("step", STEP | {"optimizer": "sgd", "lr": 1e6, "earlier": 100}, "loss is|finite|logits are"),
     ("step", STEP | {"parameter": "<script>"}, "must be a parameter")],
)  # fmt: skip
def test_requests_that_are_refused(client, name, fields, says):
    answer = client.post(name, {"prompt": TEXT} | fields)
    frame = decode(answer.body)[-1]
    assert frame["kind"] == "error"
    assert any(part in frame["message"] for part in says.split("|"))
    assert "\n" not in frame["message"] and "has failed" not in frame["message"]


def test_a_model_of_nans_is_said():
    client = Client()
    client.session.model.params.h[1].mlp.c_fc.weight[0, 0] = np.nan
    for name, fields in (
        ("backward", {}),
        ("step", STEP),
        ("nudge", {"parameter": "ln_f.bias", "index": [0]}),
    ):
        frame = decode(client.post(name, {"prompt": TEXT} | fields).body)[-1]
        assert "h.1.mlp.c_fc.weight holds nan" in frame["message"], json.dumps(frame)
    client.close()
