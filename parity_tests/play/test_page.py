"""The page in headless Chromium: numbers, keys, addresses, files, and nothing from elsewhere."""

import base64
import csv
import io
import re
from urllib.parse import urlencode
from xml.etree import ElementTree

import numpy as np
import pytest

import npgpt
from npgpt.inference import sampling
from npgpt.play.api import FUNCTIONS
from npgpt.play.computation import Reply
from parity_tests.support.play_client import IMAGE, SCRIPT, WORDS

pytestmark = pytest.mark.slow  # a browser
VIEWS = {  # by address: what is visible once the view has its numbers
    "next-token": ".next-token code",
    "writing": ".writing .chip-token",
    "attention": ".attention image",
    "logit-lens": ".logit-lens rect",
    "backwards": ".backwards .code-line",
    "step": ".step .facts dd",
    "nudge": ".nudge .verdict",
    "training": ".training .samples",
    "ravine": ".ravine path.update",
    "muon": ".muon path.forward",
}


def show(page, served, address):
    """Open an address, and wait until its picture is drawn."""
    page.goto(f"{served.url}#/{address}")
    page.wait_for_selector(VIEWS[address.partition("?")[0]])


def until(page, expression):
    """Wait until an expression is true. `wait_for_function` needs eval, which is not allowed."""
    for _ in range(1000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(15)
    raise AssertionError(f"never true: {expression}")


FOCUSED = """(({ tagName, type, textContent, ariaLabel }) =>
    `${tagName} ${type ?? ""} ${ariaLabel ?? textContent}`)(document.activeElement)"""


def settings_of(rng):
    """Random settings: temperatures from 0 to 10, with and without the two filters."""
    return {
        "temperature": float(rng.choice([0, 1e-3, rng.uniform(0, 2), rng.uniform(0, 10)])),
        "top_k": None if rng.random() < 0.4 else int(rng.integers(1, 300)),
        "top_p": None if rng.random() < 0.4 else float(rng.uniform(0.01, 1)),
    }


def test_probabilities_are_those_of_sampling(page, served, rng):
    """200 settings on five vocabularies, by the page's own module, against NumPy in float64."""
    show(page, served, "next-token")
    worst, checked = 0.0, 0
    for V, count in ((2, 20), (9, 40), (257, 80), (5000, 50), (50257, 10)):
        logits = (4 * rng.standard_normal(V)).astype(np.float32)
        logits[rng.integers(0, V, V // 10)] = logits[0]  # ties
        cases = [settings_of(rng) for _ in range(count)]
        answer = page.evaluate(
            """async ([logits, cases]) => {
                const { Distribution } = await import("/sampling.js");
                const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
                const made = new Distribution(new Float32Array(bytes(logits)));
                return cases.map((one) => {
                    const { temperature, top_k: topK, top_p: topP } = one;
                    const found = made.byToken({ temperature, topK, topP });
                    const codes = Array.from(new Uint8Array(found.buffer));
                    return btoa(codes.map((code) => String.fromCharCode(code)).join(""));
                });
            }""",
            [base64.b64encode(logits.tobytes()).decode(), cases],
        )
        for case, text in zip(cases, answer, strict=True):
            found = np.frombuffer(base64.b64decode(text))
            if case["temperature"] == 0:
                expected = np.eye(1, V, logits.argmax())[0]
            else:
                expected = sampling.probabilities(logits[None].astype(np.float64), **case)[0]
            worst, checked = max(worst, np.abs(found - expected).max()), checked + 1
            if case["top_p"] is None and case["temperature"]:  # and in float32, as it is drawn from
                single = sampling.probabilities(logits[None], **case)[0]
                worst = max(worst, np.abs(found - single).max())
    assert checked == 200
    assert worst <= 1e-6


def test_the_first_draw_is_the_token_of_generate(page, served):
    show(page, served, "next-token?prompt=ab&temperature=2&top_k=40&top_p=0.9&seed=5")
    page.wait_for_selector(".command .token")
    said = page.text_content(".command")
    rng = npgpt.Generator(5)
    prompt = served.server.session.encode("ab")
    settings = {"temperature": 2.0, "top_k": 40, "top_p": 0.9}
    (token,) = npgpt.generate(served.model, prompt, 1, **settings, rng=rng)
    assert page.text_content(".command .token") == label_of(page, token)
    assert "--temperature 2 --top-k 40 --top-p 0.9 --seed 5" in said


def label_of(page, token):
    """The page's text of a token."""
    return page.evaluate(
        """async ([text, lengths, token]) => {
            const { Vocabulary } = await import("/tokens.js");
            const bytes = Uint8Array.from(text);
            return new Vocabulary(bytes, Uint16Array.from(lengths), null).label(token);
        }""",
        [list(b"".join(WORDS)), list(map(len, WORDS)), int(token)],
    )


def test_writing_continues_the_stream_of_generate(page, served):
    """Three tokens one by one are those of one run."""
    show(page, served, "writing?prompt=ab&temperature=1.5&seed=9")
    for n in range(1, 4):
        page.get_by_role("button", name="Write a token").click()
        until(page, f"document.querySelectorAll('.chip-token').length === {2 + n}")
        until(page, f"location.hash.split('%2C').length === {n}")
    written = re.search(r"written=([\d%C]+)", page.url)[1].split("%2C")
    prompt = served.server.session.encode("ab")
    rng = npgpt.Generator(9)
    assert list(map(int, written)) == list(
        npgpt.generate(served.model, prompt, 3, temperature=1.5, rng=rng)
    )


def test_a_new_prompt_ends_what_is_being_written(page, served, monkeypatch):
    def write(body, session, job):
        job.emit({"token": 20})
        job.cancelled.wait(2)
        job.emit({"token": 21})
        return Reply({})

    monkeypatch.setitem(FUNCTIONS, "write", write)
    show(page, served, "writing?prompt=ab")
    page.get_by_role("button", name="Write 40").click()
    until(page, "document.querySelectorAll('.chip-token').length === 3")
    page.get_by_label("Prompt").fill("baab")
    until(page, "location.hash.includes('prompt=baab')")
    until(page, "document.querySelectorAll('.chip-token').length === 4")
    page.wait_for_timeout(200)  # the address changes late
    assert "written" not in page.url


def test_an_alternative_is_another_way_by_keys_alone(page, served):
    show(page, served, "writing?prompt=ab&written=20,21,22&seed=1")
    until(page, "document.querySelectorAll('.chip-token').length === 5")
    chip = page.locator(".chip-token").nth(3)
    chip.focus()
    page.keyboard.press("ArrowLeft")  # to the third token: the first that was written
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    picture = page.locator("figure svg").nth(0)
    picture.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert "Enter or a click writes it here" in page.locator(".readout").nth(0).text_content()
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.chip-token').length === 3")
    until(page, "location.hash.includes('chosen=1')")


def test_keys_alone_reach_every_control(page, served):
    show(page, served, "next-token")
    seen = []
    while len(seen) < 60:
        page.keyboard.press("Tab")
        now = page.evaluate(FOCUSED)
        if seen and now == seen[0]:
            break
        seen.append(now)
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        hidden = page.evaluate("document.activeElement.matches('[type=radio], body')")
        assert outline != "none" or hidden, now
    assert seen[0].endswith("Skip to the picture")
    kinds = [one.split(" ")[1] for one in seen]
    assert kinds.count("range") == 3
    assert {"radio", "textarea", "number"} <= set(kinds)
    assert sum(one.startswith("svg") for one in seen) == 2
    for what in ("Logit lens", "Theme: system", "Copy link", "Save the picture as PNG"):
        assert any(what in one for one in seen), what


def test_arrow_keys_move_sliders_and_the_cursor(page, served):
    show(page, served, "next-token")
    slider = page.get_by_label("Temperature")
    slider.focus()
    before = slider.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") != before
    until(page, "location.hash.includes('temperature=')")
    picture = page.locator("figure svg").nth(0)
    picture.focus()
    for key, rank in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowDown", 3), ("ArrowUp", 2)):
        page.keyboard.press(key)
        assert f"Rank {rank} of {len(WORDS)}" in page.locator(".readout").nth(0).text_content()


def test_a_link_is_the_whole_state(page, served):
    show(page, served, "next-token?prompt=ba&temperature=0.4&top_k=7&top_p=0.5&seed=77")
    assert page.get_by_label("Prompt").input_value() == "ba"
    assert page.get_by_label("Seed").input_value() == "77"
    told = [page.get_by_label(name).get_attribute("aria-valuetext")
            for name in ("Temperature", "Top-k", "Top-p")]  # fmt: skip
    assert told == ["0.4", "7", "0.5"]
    page.get_by_label("Prompt").fill("bab")
    until(page, "location.hash.includes('prompt=bab')")
    page.reload()
    page.wait_for_selector(VIEWS["next-token"])
    assert page.get_by_label("Prompt").input_value() == "bab"


def test_an_address_that_is_none(page, served):
    page.goto(f"{served.url}#/constructor?temperature=x&top_k=&seed=NaN&__proto__=1")
    page.wait_for_selector(VIEWS["next-token"])
    assert page.get_by_label("Seed").input_value() == "123"
    assert page.said == []


def test_files_of_a_picture(page, served):
    show(page, served, "next-token?prompt=ab")
    page.wait_for_selector(".command .token")
    figure = page.locator("figure").nth(0)
    files = {}
    for kind in ("SVG", "PNG", "CSV"):
        with page.expect_download() as waiting:
            figure.get_by_role("button", name=f"as {kind}").click()
        assert waiting.value.suggested_filename == f"npgpt-next-token.{kind.lower()}"
        with open(waiting.value.path(), "rb") as file:
            files[kind] = file.read()
    root = ElementTree.fromstring(files["SVG"])
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "softmax" in texts
    assert not any("class" in node.attrib for node in root.iter())
    assert files["PNG"].startswith(b"\x89PNG\r\n")
    assert len(files["PNG"]) > 5000
    rows = list(csv.DictReader(io.StringIO(files["CSV"].decode())))
    assert len(rows) == len(WORDS)
    assert sum(float(row["softmax"]) for row in rows) == pytest.approx(1)
    assert sum(int(row["draws"]) for row in rows) == 1000
    assert all(row["token"].startswith('"') for row in rows)  # no formula


def test_a_token_that_spells_markup_is_text(page, served):
    """In every view: as a token of the prompt, as an alternative, in the files."""
    for view in VIEWS:
        for text in (SCRIPT, IMAGE):
            show(page, served, f"{view}?{urlencode({'prompt': f'a{text}b{text}'})}")
            until(page, "!document.querySelector('.progress > div')")
            assert page.locator("main script, main img").count() == 0
            assert page.title().endswith("npgpt play")
    show(page, served, "writing?prompt=a&written=6,4,10,12")
    until(page, "document.querySelectorAll('.chip-token').length === 5")
    shown = page.locator(".chip-token").all_text_contents()
    shown = [text.replace("\u2039", "<").replace("\u203a", ">") for text in shown[1:]]
    assert shown == [SCRIPT, "<e2 80>", "<1b>[31m", "<202e>"]
    assert page.said == []


def test_nothing_from_elsewhere_and_no_complaint(page, served):
    """Requests of every view, and what Chromium says about them: the policy is kept."""
    for view in VIEWS:
        show(page, served, view)
    until(page, "!document.querySelector('.progress > div')")
    asked = len(page.asked)
    page.get_by_role("button", name="Theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.wait_for_timeout(100)
    assert len(page.asked) == asked > 0  # nothing is computed anew
    assert all(url.startswith((served.url, "data:image/")) for url in page.asked)
    assert page.said == []


def test_one_line_about_what_is_wrong(page, served):
    show(page, served, "next-token?prompt=" + "ab" * 30)
    page.wait_for_selector(".notes p")
    assert page.text_content(".notes") == (
        "The prompt has 60 tokens. The model reads the last 24 of them."
    )
    page.get_by_label("Prompt").fill("")
    page.wait_for_selector(".alert p")
    assert page.locator(".alert p").all_text_contents() == [
        "the prompt is empty: write at least one character",
        "The pictures below are those of before.",
    ]
    assert page.locator(".view.stale").count() == 1
    page.get_by_label("Prompt").fill("a")
    until(page, "!document.querySelector('.alert p, .stale')")
    page.goto(f"{served.url}#/attention")  # where nothing is drawn yet, nothing is stale
    page.goto(f"{served.url}#/attention?prompt=")
    page.reload()
    page.wait_for_selector(".alert p")
    assert page.locator(".stale, .stale-note").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_axe_finds_no_violation(page, served, theme, width):
    from importlib.resources import files

    # Contrast is the slowest rule: once per theme, and once per width
    has_contrast = (width, theme) in {(390, "light"), (1400, "dark")}
    options = {"rules": {"color-contrast": {"enabled": has_contrast}}}
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    page.goto(served.url)
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    for view in VIEWS:
        page.evaluate("(view) => { location.hash = `#/${view}`; }", view)
        page.wait_for_selector(VIEWS[view])
        found = page.evaluate(
            "(options) => axe.run({ resultTypes: ['violations'], ...options })", options
        )
        assert [
            (one["id"], [node["html"][:200] for node in one["nodes"]])
            for one in found["violations"]
        ] == [], view
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
