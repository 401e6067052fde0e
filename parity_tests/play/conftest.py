"""One server and one browser for all tests of a module."""

import shutil
import threading
from types import SimpleNamespace

import pytest

import npgpt
from parity_tests.support.play_client import WORDS, WordTokenizer

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


@pytest.fixture(scope="module")  # tests of other modules set the clock, by which its loop sleeps
def served():
    """The page of a small model, on the NumPy backend, whose tokens spell odd things."""
    from npgpt.play import server

    config = npgpt.Config(vocab_size=len(WORDS), context_length=24, n_layer=2, n_head=2, n_embd=16)
    model = npgpt.GPT(config, ops="numpy", seed=3)
    listening = server.bind("127.0.0.1", 0)
    made = server.Server(lambda report: (model, WordTokenizer(), "runs/tiny-1"))
    thread = threading.Thread(target=made.serve_on, args=(listening,))
    thread.start()
    yield SimpleNamespace(
        url=f"http://127.0.0.1:{listening.getsockname()[1]}/", model=model, server=made
    )
    made.should_exit = True
    thread.join()


@pytest.fixture(scope="module")  # while it runs, other tests cannot use asyncio
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
    if found is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*FLAGS])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, served):
    """A page whose errors and requests are kept: `page.said`, `page.asked`. Its storage is new."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light")
    context.set_default_timeout(15_000)
    made = context.new_page()
    made.said, made.asked = [], []
    made.on("console", lambda line: made.said.append(line.text))
    made.on("pageerror", lambda error: made.said.append(str(error)))
    made.on("request", lambda request: made.asked.append(request.url))
    yield made
    context.close()
