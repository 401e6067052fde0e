"""Time PyTorch's random numbers: drawing the book's model, and dropout in its step.

    python -m benchmarks.book_run [--rounds 7]

`init`: 162 million parameters of the book's model (context 256, untied head) with seed 123, beside
PyTorch drawing the same layers. `dropout`: one training step of that model on 2 x 256 tokens with
dropout 0.1, beside the same step without.
"""

import argparse
import hashlib
import statistics
import sys

import numpy as np

from benchmarks import harness
from benchmarks.harness import Runner, alternate, once, ratio, serve, table

VOCABULARY, CONTEXT, WIDTH, LAYERS = 50257, 256, 768, 12


def npgpt_init():
    import npgpt
    from npgpt.preset import PRESETS

    def build():
        return npgpt.GPT(PRESETS["book"].config, seed=123, scheme="book").params

    tree = build()
    blocks = [tree.h[i].mlp.c_fc.weight.T for i in range(LAYERS)]
    return digest([tree.wte.weight, *blocks, tree.lm_head.weight]), lambda: {"init": once(build)}


def torch_init():
    from benchmarks.baselines import book

    def build():
        return book.draw_layers(VOCABULARY, CONTEXT, WIDTH, LAYERS, seed=123)

    (wte, _), blocks, head = build()
    drawn = [wte.weight, *(block[1].weight for block in blocks), head.weight]
    return digest([t.detach().numpy() for t in drawn]), lambda: {"init": once(build)}


def digest(arrays) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()


def step(dropout: float):
    from dataclasses import replace

    import npgpt
    from benchmarks.training_step import BOOK_ADAMW, stepping
    from npgpt.preset import PRESETS

    config = replace(PRESETS["book"].config, dropout=dropout)
    rng = npgpt.Generator(123)
    model = npgpt.GPT(config, seed=rng, scheme="book")
    tokens = np.random.default_rng(1).integers(VOCABULARY, size=(2, CONTEXT + 1))

    batch = tokens[:, :-1], tokens[:, 1:]
    run = stepping(model, batch, rng, BOOK_ADAMW)
    run()
    return model.evaluate(*batch), lambda: {"step": once(run)}


IMPLEMENTATIONS = {
    "npgpt-init": npgpt_init,
    "torch-init": torch_init,
    "dropout-0.1": lambda: step(0.1),
    "dropout-0": lambda: step(0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*IMPLEMENTATIONS[options.serve]())
        return

    figures, rows = {}, [["what", "seconds", "beside", "seconds", "ratio"]]
    for ours, theirs, part in (
        ("npgpt-init", "torch-init", "init"),
        ("dropout-0.1", "dropout-0", "step"),
    ):
        runners = [Runner("benchmarks.book_run", name) for name in (ours, theirs)]
        same = runners[0].result == runners[1].result
        if part == "init" and not same:
            sys.exit(f"not the same parameters: {runners[0].result}, {runners[1].result}")
        if part == "step" and same:
            sys.exit("dropout changed nothing")
        found = alternate(runners, options.rounds)
        seconds = {name: [m[part] for m in measured] for name, measured in found.items()}
        share = ratio(seconds[ours], seconds[theirs])
        middle = {name: statistics.median(taken) for name, taken in seconds.items()}
        figures[part] = {"seconds": middle, "ratio": share}
        shown = f"{share['median']:.3f} ({share['low']:.3f} to {share['high']:.3f})"
        rows.append([ours, f"{middle[ours]:.3f}", theirs, f"{middle[theirs]:.3f}", shown])
    print(table(rows))
    harness.write("book_run", {"rounds": options.rounds, **figures})


if __name__ == "__main__":
    main()
