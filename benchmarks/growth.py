"""How do a step's and a token's time grow with length, batch, layers, width, position, threads?

    python -m benchmarks.growth [--rounds 3] [--draw]

npgpt alone, float32, no dropout, tied head. Every point of a curve is measured in a process of its
own: so is its peak memory. Figures are written to benchmarks/results/growth.json, curves to
docs/images/; --draw only draws the existing figures.
"""

import argparse
import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.harness import RESULTS, Runner, on_threads, once, serve, table
from npgpt.config import Config

IMAGES = Path(__file__).parent.parent / "docs" / "images"
HEAD_SIZE = 64  # D, for every width
PROMPT = 32  # tokens before those whose latency is measured
BIN = 32  # positions in one point of the curve, which is their median


class Curve(NamedTuple):
    """A training step over one of its sizes; the other sizes are the 124M shape's and B x T."""

    label: str  # of the axis
    B: int
    T: int
    values: tuple[int, ...]
    threads: tuple[int, ...] = (2,)

    def point(self, name: str, value: int) -> tuple[Config, int, int]:
        """Return config, B and T of one point."""
        config, B, T = Config(), self.B, self.T
        if name == "length":
            T = value
        if name == "batch":
            B = value
        if name == "layers":
            config = replace(config, n_layer=value)
        if name == "width":
            config = replace(config, n_embd=value, n_head=value // HEAD_SIZE)
        return config, B, T


CURVES = {
    "length": Curve("tokens T of one sequence", 1, 0, (64, 128, 256, 512, 768, 1024), (1, 2)),
    "batch": Curve("sequences B of 128 tokens", 0, 128, (1, 2, 4, 6, 8)),
    "layers": Curve("layers, 2 x 128 tokens", 2, 128, (1, 2, 4, 6, 8, 10, 12)),
    "width": Curve("width C of 12 layers, 2 x 128 tokens", 2, 128, (256, 384, 512, 768, 1024)),
}


def step(name: str, value: int) -> None:
    """Serve one point of a curve: its loss, then seconds and memory of a step."""
    import npgpt
    from benchmarks.training_step import batch, stepping

    config, B, T = CURVES[name].point(name, value)
    run = stepping(npgpt.GPT(config, seed=1), batch(B, T))
    serve(run(), lambda: {"seconds": once(run), "bytes": harness.peak_memory()})


def tokens() -> None:
    """Serve the seconds of every token from the end of a prompt to the end of the context."""
    import npgpt
    from npgpt.inference.generate import generate

    model = npgpt.GPT(Config(), seed=1)
    prompt = np.arange(PROMPT)

    def measure():
        made = generate(model, prompt, model.config.context_length - PROMPT)
        next(made)  # reads the prompt
        return [once(lambda: next(made)) for _ in range(model.config.context_length - PROMPT - 1)]

    serve(len(measure()), measure)


def measured(name: str, rounds: int) -> list[dict]:
    """Measure the points of a curve."""
    points = []
    for threads in CURVES[name].threads:
        for value in CURVES[name].values:
            environment = on_threads(threads)
            runner = Runner("benchmarks.growth", name, str(value), environment=environment)
            if not abs(runner.result - math.log(Config().vocab_size)) < 1:
                sys.exit(
                    f"{name} {value}: an untrained model's loss must be near ln V: {runner.result}"
                )
            found = [runner.measure() for _ in range(rounds)]
            runner.close()
            seconds = statistics.median(one["seconds"] for one in found)
            peak = max(one["bytes"] for one in found)
            points.append(
                {"value": value, "threads": threads, "seconds": seconds, "peak_bytes": peak}
            )
            print(f"{name} {value}, {threads} threads: {seconds:.3f} s, {peak / 1e9:.2f} GB")
    return points


def measured_tokens(rounds: int) -> list[dict]:
    """Measure latency over position: the median of every bin, of the rounds' medians."""
    points = []
    for threads in (1, 2):
        runner = Runner("benchmarks.growth", "tokens", environment=on_threads(threads))
        seconds = np.median([runner.measure() for _ in range(rounds)], axis=0)
        runner.close()
        for start in range(0, len(seconds) - BIN + 1, BIN):
            middle = float(np.median(seconds[start : start + BIN]))
            position = PROMPT + start + BIN // 2
            points.append({"value": position, "threads": threads, "seconds": middle})
        print(f"tokens, {threads} threads: {points[-1]['seconds']:.4f} s at the end")
    return points


# Drawing


def draw(figures: dict) -> None:
    """Draw every curve into docs/images/."""
    for name, curve in CURVES.items():
        title = {"seconds": "seconds a step", "peak_bytes": "peak memory, GB"}
        picture(figures[name], curve.label, title, IMAGES / f"step-over-{name}.png")
    latency = {"seconds": "milliseconds a token"}
    picture(figures["tokens"], "position of the token", latency, IMAGES / "token-latency.png")


def picture(points: list[dict], label: str, panels: dict[str, str], path: Path) -> None:
    """Draw one panel per entry of `panels`, {key of the points: title}; one line per threads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.8 * len(panels) + 0.4, 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    scales = {"seconds a step": 1, "peak memory, GB": 1e-9, "milliseconds a token": 1e3}
    for i, (key, title) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), i)
        for threads in sorted({point["threads"] for point in points}):
            some = [point for point in points if point["threads"] == threads]
            x, y = [p["value"] for p in some], [p[key] * scales[title] for p in some]
            axes.plot(x, y, "o-", markersize=3, color=f"C{threads - 1}",
                      label=f"{threads} thread" + "s" * (threads > 1))  # fmt: skip
        axes.set_xlabel(label)
        axes.set_ylabel(title)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.savefig(path, format="png", metadata={"Software": None})


# Summary


def at(points: list[dict], value: int, threads: int = 2) -> dict:
    """Return one point of a curve."""
    return next(p for p in points if (p["value"], p["threads"]) == (value, threads))


def sayings(figures: dict) -> dict[str, float]:
    """Return a summary of the curves in numbers."""
    length, layers, latency = figures["length"], figures["layers"], figures["tokens"]
    memory = {T: at(length, T)["peak_bytes"] for T in (256, 512, 1024)}
    few, some, all_of_them = (at(layers, count)["seconds"] for count in (1, 4, 12))
    first, *_, last = (point for point in latency if point["threads"] == 2)
    return {
        "bytes_per_token_to_512": (memory[512] - memory[256]) / 256,
        "bytes_per_token_to_1024": (memory[1024] - memory[512]) / 512,
        # the line through 1 and 4 layers, as npgpt estimate draws it, against 12 measured layers
        "line_miss": (few + 11 * (some - few) / 3) / all_of_them - 1,
        "two_threads": at(length, 512, 1)["seconds"] / at(length, 512)["seconds"],
        "latency_growth": last["seconds"] / first["seconds"],
        "first_position": first["value"],
        "last_position": last["value"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draw", action="store_true", help="only draw the existing figures")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("value", type=int, nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve == "tokens":
        return tokens()
    if options.serve:
        return step(options.serve, options.value)
    if options.draw:
        return draw(json.loads((RESULTS / "growth.json").read_text("utf-8")))

    figures = {name: measured(name, options.rounds) for name in CURVES}
    figures["tokens"] = measured_tokens(options.rounds)
    figures["sayings"] = sayings(figures)
    print(table([["what", ""], *([k, f"{v:.3f}"] for k, v in figures["sayings"].items())]))
    draw(figures)
    harness.write("growth", {"rounds": options.rounds, **figures})


if __name__ == "__main__":
    main()
