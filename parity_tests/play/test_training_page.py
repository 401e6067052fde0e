"""Views 8 to 10 in headless Chromium: a run that starts and stops, a race, and Muon's steps."""

import csv
import re
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest

import npgpt
from npgpt.explain import backward, live, muon_steps
from npgpt.play.api import ravine
from npgpt.play.api import training as api
from parity_tests.play.test_page import show, until

pytestmark = pytest.mark.slow  # a browser
SMALL = npgpt.Config(vocab_size=257, context_length=16, n_layer=1, n_head=2, n_embd=8, tied=False)


@pytest.fixture
def small(monkeypatch):
    """Runs train a smaller model than that of the preset."""
    preset = api.defaults("tiny")
    monkeypatch.setattr(api, "defaults", lambda name: replace(preset, config=SMALL))


def table(page, title):
    """The rows of a picture's CSV."""
    with page.expect_download() as waiting:
        page.get_by_role("button", name=f"Save the numbers as CSV: {title}").click()
    with open(waiting.value.path(), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_starts_and_stops(page, served, small):
    show(page, served, "training?steps=60&optimizer=sgd&lr=1000&seed=5")
    told = "document.querySelector('.training [role=status].small-text').textContent"
    go = page.get_by_role("button", name="Start a run")
    go.click()
    until(page, f"{told}.startsWith('The run ended early')")
    assert "became" in page.text_content(".alert")
    page.goto(f"{served.url}#/training?steps=2000&optimizer=sgd&lr=0.02&seed=5")
    until(page, "document.querySelector('.training input[max=\"2000\"]').value === '2000'")
    go.focus()
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.samples pre').length >= 1")
    page.get_by_role("button", name="Stop").click()
    until(page, f"{told}.startsWith('The run was stopped after')")
    assert page.text_content(".alert") == ""
    page.get_by_role("spinbutton", name="Steps").fill("7")
    page.get_by_role("combobox", name="Optimizer").select_option("adamw")
    go.click()
    until(page, f"{told}.startsWith('The run has ended after 7 steps')")
    rows = table(page, "Loss")
    labels = [f'"{run}, seed 5"' for run in ("SGD, 1000", "SGD, 0.02", "AdamW, 0.02")]
    assert list(dict.fromkeys(row["run"] for row in rows)) == labels
    body = {"optimizer": "adamw", "lr": 0.02, "steps": 7, "seed": 5}
    points = [event for event in events(served, body) if isinstance(event, live.Point)]
    own = [row for row in rows if row["run"] == labels[2]]
    assert [float(row["loss"]) for row in own] == [one.loss for one in points]
    assert [row["step"] for row in own if row["validation_loss"]] == ["0", "5"]
    ticks = page.locator(".axis-left .tick text").all_text_contents()
    assert max(map(float, ticks)) < 15  # the run that has diverged does not set the scale
    sizes = table(page, "Every parameter's gradient: root mean square")
    assert [row["step"] for row in sizes] == ["0", "5"]
    assert float(sizes[0]["lm_head.weight"]) == np.float32(points[0].sizes[-1])
    page.get_by_role("img", name="7 steps").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert f"Step 1: loss {points[1].loss:.4f}" in page.locator(".readout").nth(0).text_content()
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run('.training', { resultTypes: ['violations'] })")
    assert [one["id"] for one in found["violations"]] == []
    assert page.said == []


def test_the_learning_rate_of_a_run_that_is_under_way(page, served, small):
    show(page, served, "training?steps=2000&optimizer=sgd&lr=0.02&seed=5")
    told = "document.querySelector('.training [role=status].small-text').textContent"
    page.get_by_role("button", name="Start a run").click()
    until(page, "document.querySelectorAll('.samples pre').length >= 1")
    page.get_by_role("slider", name="Learning rate").press("Home")
    until(page, f"{told}.startsWith('The learning rate is 1.00e-5 from step')")
    step = int(re.search(r"from step ([\d,]+)", page.evaluate(told))[1].replace(",", ""))
    made = "document.querySelector('.training [role=status] + .small-text').textContent"
    until(page, f"Number({made}.match(/Step ([\\d,]+)/)[1].replace(',', '')) > {step}")
    page.get_by_role("button", name="Stop").click()
    until(page, f"{told}.startsWith('The run was stopped after')")
    assert "SGD, 0.02 to 1.00e-5, seed 5" in page.evaluate(told)
    rates = [float(row["learning_rate"]) for row in table(page, "Loss")]
    assert rates[step] <= 1e-5 < rates[step - 1]
    assert page.locator(".changes path").count() == 1
    assert page.said == []


def events(served, body):
    from npgpt.play.api.body import Body

    run = api.settings(Body(body), served.server.session)
    return list(live.Live(run, sample_every=run.training.eval_every).events())


def test_the_race_is_in_the_address(page, served):
    show(page, served, "ravine?step=3")
    picture = page.get_by_role("img", name="Paths of 6 optimizers after 3 steps")
    picture.focus()
    page.keyboard.press("End")
    assert page.locator(".readout").nth(0).text_content().startswith("Step 120. Nesterov")
    page.keyboard.press("Home")
    until(page, "location.hash.includes('step=0')")
    page.get_by_role("button", name="Race").click()
    until(page, "document.querySelector('.ravine .step').textContent === 'step 4 of 120'")
    page.get_by_role("button", name="Pause").click()
    until(page, "/step=[4-9]/.test(location.hash)")
    page.get_by_role("slider", name="Learning rates, times").press("End")  # SGD beyond 2 / b
    until(page, "document.querySelector('.ravine .legend').textContent.includes('diverged')")
    rows = table(page, "Their losses")
    said = page.evaluate("location.hash")
    assert "factor=10" in said and float(rows[0]["sgd"]) == float(rows[0]["muon"])
    assert len(rows) == ravine.STEPS + 1
    assert page.said == []


def test_muons_steps_of_a_matrix(page, served):
    show(page, served, "muon?prompt=abbaab&matrix=h.1.attn.c_proj.weight")
    found = backward.run(served.model, served.server.session.encode("abbaab"))
    steps = muon_steps.steps(found.gradients.h[1].attn.c_proj.weight).singular
    rows = table(page, "Singular values of a gradient after each step")
    shown = [[float(row[f"after_{s}"]) for row in rows] for s in range(6)]
    np.testing.assert_array_equal(shown, steps)
    assert "11 of them are 0" in page.locator(".muon > p").text_content()
    page.locator("figure svg").focus()
    page.keyboard.press("End")
    readout = page.locator(".readout").text_content()
    low, high = map(float, re.search(r"from ([\d.e-]+) to ([\d.]+),", readout).groups())
    assert [low, high] == pytest.approx([steps[5, :5].min(), steps[5, :5].max()], rel=1e-3)
    page.get_by_role("radio", name="logarithmic").check()
    until(page, "location.hash.includes('scale=log')")
    page.get_by_role("combobox").select_option("h.0.mlp.c_proj.weight")
    until(page, "location.hash.includes('h.0.mlp')")
    assert page.said == []
