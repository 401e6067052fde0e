"""Measure the page of npgpt play: its size, the time until it is usable, a slider, and its answers.

    python -m benchmarks.play [--rounds 5] [--steps 200]

In headless Chromium, but for the answers.

Size: all files that the server has. Usable: from the line that names the address to the first
picture, for the newest run below ./runs (the first round compiles its kernels). Slider: from the
event to the frame after the drawing, at random temperatures from 0 to 10, with GPT-2's vocabulary
of random logits; top-k and top-p on. Answers: from a request to the end of its answer, for texts of
33 tokens, each a new one, and random weights of the bundled model's shape and of GPT-2 small's. The
first of each kind is not counted. The nudged number is in the lowest block.
"""

import argparse
import contextlib
import http.client
import json
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time

import numpy as np

from benchmarks import harness
from npgpt.data.tokenizer import Tokenizer

V = 50_257
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run")
T = 33  # tokens of a text
LIMITS = {"bytes": 500_000, "usable": 1.5, "slider": 0.033, "backward": {"tiny": 0.3, "124M": 2.0}}
CALLS = {
    "backward": {},
    "step": {
        "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.1, "earlier": 0,
        "parameter": "ln_f.bias",
    },
    "nudge": {"parameter": "h.0.mlp.c_fc.weight", "index": [0, 0]},
}  # fmt: skip
MOVE = """async (steps) => {
    const input = document.querySelector("input[type=range]");
    const found = [];
    for (let i = 0; i < steps; i++) {
        input.value = Math.floor(Math.random() * 1001);
        const start = performance.now();
        input.dispatchEvent(new Event("input", { bubbles: true }));
        const drawn = performance.now();
        await new Promise((resolve) => requestAnimationFrame(() => {
            const channel = new MessageChannel();
            channel.port1.onmessage = resolve;
            channel.port2.postMessage(0);
        }));
        found.push([(drawn - start) / 1000, (performance.now() - start) / 1000]);
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 30));
    }
    return found;
}"""


class Numbered(Tokenizer):
    """A tokenizer with GPT-2's number of tokens."""

    origin, n_vocab, eot_token = "numbered", V, None

    def _encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def _bytes_of(self, token: int) -> bytes:
        return f" token{token}".encode()


def time_until_usable(browser) -> float:
    """Return the seconds from the address in the terminal to the first picture."""
    command = [sys.executable, "-m", "npgpt", "play", "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[3]
        started = time.perf_counter()
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector(".next-token rect.bar", timeout=300_000)
        seconds = time.perf_counter() - started
        page.close()
        process.terminate()
    return seconds


@contextlib.contextmanager
def serve(model, tokenizer):
    """Serve the page of a model from a thread; yield its address."""
    from npgpt.play import server

    listening = server.bind("127.0.0.1", 0)
    made = server.Server(lambda report: (model, tokenizer, "random"))
    thread = threading.Thread(target=made.serve_on, args=(listening,))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    made.should_exit = True
    thread.join()


def time_slider(browser, steps: int) -> list[tuple[float, float]]:
    """Return seconds until the picture is drawn, and until its frame, of each step."""
    import npgpt

    config = npgpt.Config(vocab_size=V, context_length=64, n_layer=1, n_head=1, n_embd=8)
    model = npgpt.GPT(config, ops="numpy")
    model.params.wte.weight[:] = np.random.default_rng(1).standard_normal((V, 8))
    with serve(model, Numbered()) as address:
        page = browser.new_page(viewport={"width": 1400, "height": 1200})
        page.goto(f"{address}#/next-token?top_k=40000&top_p=0.95")
        page.wait_for_selector(".next-token .command .token")
        found = page.evaluate(MOVE, steps)
        page.close()
    return found


def time_answers(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of each call, by the model's shape."""
    import npgpt
    from npgpt import preset

    tiny = npgpt.GPT(preset.defaults("tiny").config, seed=1)
    models = {"tiny": (tiny, npgpt.tokenizer("byte")), "124M": (None, Numbered())}
    found = {}
    for name, (model, tokenizer) in models.items():
        with serve(model or npgpt.GPT(npgpt.Config(), seed=1), tokenizer) as address:
            found[name] = {call: time_call(address, call, rounds) for call in CALLS}
            for call, seconds in found[name].items():
                print(f"{call:10} {name:5} {statistics.median(seconds):.2f} s")
    return found


def time_call(address: str, name: str, rounds: int) -> list[float]:
    """Return the seconds from a request to the end of its answer, without the first."""
    host = address.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(host, timeout=600)
    connection.request("GET", "/")
    page = connection.getresponse().read().decode()
    headers = {
        "Content-Type": "application/json",
        "X-Npgpt-Token": re.search(r'name="token" content="([^"]+)"', page)[1],
    }
    seconds = []
    for i in range(rounds + 1):
        text = "".join(chr(ord("A") + (i + k * k) % 26) for k in range(T))
        started = time.perf_counter()
        connection.request(
            "POST", f"/api/{name}", json.dumps({"prompt": text} | CALLS[name]), headers
        )
        answer = connection.getresponse().read()
        seconds.append(time.perf_counter() - started)
        if b'"kind":"result"' not in answer:
            raise SystemExit(f"{name} has failed: {answer[-300:]!r}")
    connection.close()
    return seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    from npgpt.play import static_files

    size = sum(len(file.content) for file in static_files.read("").values())
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        time_until_usable(browser)  # compiles
        usable = [time_until_usable(browser) for _ in range(arguments.rounds)]
        moves = np.array(time_slider(browser, arguments.steps))
        browser.close()
    answers = time_answers(arguments.rounds)
    drawn, shown = np.percentile(moves, 95, axis=0).tolist()
    print(f"size       {size:,} bytes")
    print(f"usable     {statistics.median(usable):.2f} s ({min(usable):.2f} to {max(usable):.2f})")
    print(f"slider     drawn {1e3 * drawn:.1f} ms, shown {1e3 * shown:.1f} ms (95th percentile)")
    figures = {
        "bytes": size, "usable": usable, "drawn": drawn, "shown": shown, "answers": answers,
    }  # fmt: skip
    harness.write("play", {"limits": LIMITS, "steps": arguments.steps, **figures})


if __name__ == "__main__":
    main()
