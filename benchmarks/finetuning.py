"""Time a step that trains a classifier's last block alone, beside a full step.

    python -m benchmarks.finetuning [--rounds 7] [--batch 8] [--length 120]

Chapter 6 of the book: the 124M shape with random weights, 8 texts of 120 tokens, forward, backward
and AdamW. All parameters, and the last block, ln_f and the head, in turn. The figure is CPU time,
which other programs on the machine disturb least.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

import npgpt
from benchmarks import harness
from npgpt.finetuning.classifier import Classifier
from npgpt.model import params, trainable
from npgpt.weights import classifier_file

AT_MOST = 0.35  # of a full step's time
TRAINED = {"full": ("*",), "last block": ("h.11", "ln_f", "lm_head")}


def make_step(patterns: tuple[str, ...], B: int, T: int) -> Callable[[], float]:
    """Return a function that makes one step as npgpt classify does, and returns its CPU seconds."""
    model, rng = npgpt.GPT(npgpt.Config(), seed=1), np.random.default_rng(0)
    settings = classifier_file.HeadSettings(("ham", "spam"), "last", T, 50256)
    classifier = Classifier.start(model, settings, npgpt.Generator(1))
    tree = classifier.params
    gradients = trainable.select(params.zeros_like(tree), trainable.names_of(tree, patterns))
    optimizer = npgpt.AdamW(tree, 5e-5, weight_decay=0.1)
    batch = rng.integers(50257, size=(B, T)), np.full(B, T), rng.integers(2, size=B)

    def step() -> float:
        started = time.process_time()
        classifier.loss_and_gradients(*batch, gradients)
        optimizer.step(trainable.with_zeros(gradients, tree))
        return time.process_time() - started

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=120)
    args = parser.parse_args()

    steps = {name: make_step(p, args.batch, args.length) for name, p in TRAINED.items()}
    for step in steps.values():
        step()  # compiles
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(args.rounds):
        for name in list(steps)[:: 1 if number % 2 else -1]:
            found[name].append(steps[name]())
    work = f"step of a classifier, {args.batch} x {args.length} tokens, last block"
    made = harness.comparison(
        work, "all parameters", found["last block"], found["full"], AT_MOST, unit="s"
    )
    print(harness.compared([made]))
    about = {"rounds": args.rounds, "batch": args.batch, "length": args.length}
    harness.write("finetuning", about | {"comparisons": [made]})


if __name__ == "__main__":
    main()
