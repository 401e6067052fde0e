"""Views 5 to 7 in headless Chromium: what the pictures say is what npgpt computes."""

import re

import numpy as np
import pytest

import npgpt
from npgpt.explain import backward
from npgpt.ops import attention
from parity_tests.play.test_page import show, until
from parity_tests.support.sources import ROOT

pytestmark = pytest.mark.slow  # a browser
TEXT = "abbaabab"


@pytest.fixture(scope="module")
def found(served):
    return backward.run(served.model, served.server.session.encode(TEXT))


def test_the_steps_by_keys_alone(page, served, found):
    show(page, served, f"backwards?prompt={TEXT}&step=0")
    picture = page.locator("figure svg").nth(0)
    picture.focus()
    readout = page.locator(".readout").nth(0)
    for _ in range(9):
        page.keyboard.press("ArrowDown")
    one = found.steps[8]
    assert one.op == "attention"
    assert "Step 9, block 1, attention of h.1.attn.heads." in readout.text_content()
    said = [float(x) for x in re.findall(r"of (?:length )?([\d.e-]+\d)", readout.text_content())]
    np.testing.assert_allclose(said, [one.dout[0], one.dx[0]], rtol=1e-3)
    until(page, "location.hash.includes('step=8')")
    lines = page.locator(".code-line").all_text_contents()
    path = ROOT / "npgpt" / "ops" / "attention.py"
    number = int(page.locator(".code-line").nth(0).get_attribute("data-line"))
    source = path.read_text("utf-8").splitlines()[number - 1 :][: len(lines)]
    assert [line.rstrip("\n") for line in lines] == source
    assert source[0].startswith("def backward") and "dv = dropped.mT @ dy" in "".join(source)
    assert "probs  = softmax(scores)" in page.text_content(".formula")
    assert attention.__doc__.count("probs  = softmax(scores)") == 1
    assert page.said == []


def test_the_gradient_flows_while_one_watches(page, served):
    show(page, served, f"backwards?prompt={TEXT}&step=0&pace=100")
    page.get_by_role("button", name="Play").click()
    until(page, "document.querySelector('.step-card p').textContent.startsWith('Step 23 of 23')")
    until(
        page, "[...document.querySelectorAll('button')].some((one) => one.textContent === 'Play')"
    )
    page.get_by_role("button", name="One step back").click()
    assert page.text_content(".step-card p").startswith("Step 22 of 23: block 0, the two paths")
    assert page.locator(".code-line.marked").count() == 1
    assert "np.add(dx, dh, out=dh)" in page.text_content(".code-line.marked")


def test_parameters_lead_to_the_nudge(page, served, found):
    show(page, served, f"backwards?prompt={TEXT}&step=22")
    picture = page.get_by_role("img", name=re.compile("parameters: root mean square"))
    picture.focus()
    page.keyboard.press("ArrowDown")  # the first
    page.keyboard.press("ArrowDown")
    name, array = list(npgpt.named(found.gradients))[1]
    page.keyboard.press("Enter")
    page.wait_for_selector(".nudge .verdict")
    assert page.get_by_label("Parameter").input_value() == name == "wpe.weight"
    largest = np.unravel_index(np.abs(array).argmax(), array.shape)
    names = ("Row", "Column")
    shown = [int(page.get_by_role("spinbutton", name=one).input_value()) for one in names]
    assert shown == list(map(int, largest))
    assert page.text_content(".verdict").startswith("They agree.")


def test_any_number_is_nudged(page, served, found):
    show(page, served, f"nudge?prompt={TEXT}&parameter=h.1.mlp.c_fc.weight&index=3,5")

    def claimed():
        return float(page.locator(".facts dd").nth(0).text_content())

    array = found.gradients.h[1].mlp.c_fc.weight
    assert claimed() == pytest.approx(array[3, 5], rel=1e-3)
    page.locator(".number").nth(0).click()
    until(page, "location.hash.includes('index=0%2C1')")
    until(page, "document.activeElement.className === 'number'")
    page.keyboard.press("ArrowDown")
    until(page, "location.hash.includes('index=1%2C1')")
    until(page, "!document.querySelector('.progress > div')")
    for _ in range(100):
        if claimed() == pytest.approx(array[1, 1], rel=1e-3):
            break
        page.wait_for_timeout(20)
    assert claimed() == pytest.approx(array[1, 1], rel=1e-3)
    slope = float(page.locator(".facts dd").nth(1).text_content())
    assert slope == pytest.approx(claimed(), rel=1e-5)


def test_a_key_that_is_held_passes_every_number(page, served, found):
    """Beyond the edge of the table too. The last number is measured."""
    show(page, served, f"nudge?prompt={TEXT}&parameter=h.1.mlp.c_fc.weight&index=3,5")
    page.locator(".number[aria-pressed=true]").focus()
    for _ in range(20):
        page.keyboard.down("ArrowRight")
    page.keyboard.up("ArrowRight")
    until(page, "location.hash.includes('index=3%2C25')")
    until(page, "document.activeElement.title.startsWith('h.1.mlp.c_fc.weight[3, 25]')")
    until(page, "document.querySelector('.facts').textContent.includes('c_fc.weight[3, 25].')")
    claimed = float(page.locator(".facts dd").nth(0).text_content())
    assert claimed == pytest.approx(found.gradients.h[1].mlp.c_fc.weight[3, 25], rel=1e-3)
    assert page.locator(".number[aria-pressed=true]").count() == 1
    assert page.said == []


def test_an_address_of_no_number(page, served):
    """The first parameter takes its place, or the first number, when the view is open too."""
    show(page, served, f"nudge?prompt={TEXT}&parameter=ln_f.bias&index=3")
    for address, parameter, index in (
        ("parameter=h.9.ln_1.bias&index=3", "wte.weight", None),
        ("parameter=ln_f.bias&index=99", "ln_f.bias", "0"),
        ("parameter=ln_f.weight&index=x,y", "ln_f.weight", "0"),
    ):
        page.goto(f"{served.url}#/nudge?prompt={TEXT}&{address}")
        number = f"{parameter}[{'' if index is None else index + ']'}"
        until(page, f"document.querySelector('.facts').textContent.includes('Of {number}')")
        assert page.get_by_label("Parameter").input_value() == parameter
    assert page.said == []


def test_an_answer_that_comes_before_the_layout(page, served):
    """Pictures measure their width themselves, and do not draw into none."""
    page.add_init_script("window.ResizeObserver = class { observe() {} };")
    show(page, served, f"attention?prompt={TEXT}")
    assert page.locator(".attention rect").count() > 0
    assert page.said == []


def test_the_names_of_parameters_are_not_cut(page, served):
    for view in ("nudge", "step", "muon", "backwards"):
        show(page, served, f"{view}?prompt={TEXT}")
        box = page.get_by_role("combobox").last
        wide = box.evaluate("(node) => node.clientWidth")
        assert wide > 7.5 * len("h.11.attn.c_attn.weight") + 30, view


def test_one_step_and_its_error(page, served):
    show(page, served, f"step?prompt={TEXT}&optimizer=sgd&lr=0.01")
    facts = page.locator(".facts dd")

    def ratio():
        return float(facts.nth(5).text_content())

    assert 3.5 < ratio() < 4.5
    assert page.locator(".formula").count() == 1
    page.get_by_label("Optimizer").select_option("muon")
    until(page, "document.querySelectorAll('.formula').length === 2")
    assert "optimizer=muon" in page.url
    assert page.said == []
