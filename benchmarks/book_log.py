"""How far does the log of the book's chapter 5 differ from PyTorch's, and is it rounding?

    python -m benchmarks.book_log [--steps 90] [--steps64 31] [--data PATH]

The book's training run (preset `book`: 162 million parameters on The Verdict, seed 123) in npgpt
and in PyTorch, in float32; the first `--steps64` steps again in float64. Both have the same
parameters and the same masks. Rounding errors shrink with the machine epsilon, mistakes do not:
where the two agree in float64, their difference in float32 is rounding. float64 also shows how far
each of the two is from the exact result.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace

from benchmarks import harness
from benchmarks.harness import Runner, serve, table
from npgpt.config import RunConfig
from npgpt.parity.book_check import LOG, STEPS
from npgpt.preset import defaults

Line = tuple[int, float, float]  # a step, training and validation loss after it

COMPARED = {
    "npgpt - book": ("npgpt float32", "book"),
    "npgpt - PyTorch": ("npgpt float32", "torch float32"),
    "npgpt64 - PyTorch64": ("npgpt float64", "torch float64"),
    "npgpt - npgpt64": ("npgpt float32", "npgpt float64"),
    "PyTorch - PyTorch64": ("torch float32", "torch float64"),
}


def npgpt_log(settings: RunConfig, tokens) -> Iterator[Line]:
    """Yield the log of npgpt's run; `tokens` as from npgpt.data.dataset.read_tokens."""
    from npgpt.training import run
    from npgpt.training.events import Evaluation

    for event in run.start(settings, tokens).events():
        if isinstance(event, Evaluation):
            yield event.step, event.train_loss, event.val_loss


def torch_log(settings: RunConfig, tokens) -> Iterator[Line]:
    """Yield the log of the book's program. Parameters are drawn in float32 in any dtype."""
    import torch

    from benchmarks.baselines import book

    c, t = settings.config, settings.training
    torch.manual_seed(t.seed)
    shape = c.vocab_size, c.context_length, c.n_embd, c.n_head, c.n_layer
    model = book.chapter5(*shape, c.dropout).to(getattr(torch, settings.dtype))
    train, val = (
        book.loader(torch.tensor(split), c.context_length, t.batch_size, train=train)
        for split, train in ((tokens.train, True), (tokens.val, False))
    )
    of_training = "epochs", "lr", "weight_decay", "eval_every", "eval_batches"
    chosen = {name: getattr(t, name) for name in of_training}
    yield from book.training(model, train, val, **chosen)


PROGRAMS = {"npgpt": npgpt_log, "torch": torch_log}


def differences(line: dict) -> dict[str, float]:
    """Return the larger difference of the two losses by the names in COMPARED, if both exist."""
    return {
        name: max(abs(a - b) for a, b in zip(line[one], line[other], strict=True))
        for name, (one, other) in COMPARED.items()
        if one in line and other in line
    }


def largest(lines: list[dict]) -> dict[str, float]:
    """Return the largest value of each difference over all lines."""
    found = [differences(line) for line in lines]
    return {name: max(d[name] for d in found if name in d) for name in COMPARED}


def as_printed(line: dict, whose: str) -> bool:
    """Return True if both losses have the digits that the book prints."""
    return all(f"{a:.3f}" == f"{b:.3f}" for a, b in zip(line[whose], line["book"], strict=True))


def rows(lines: list[dict]) -> list[list[str]]:
    """Return the rows of a table: losses (training / validation) and their differences by line.

    lines: the step, and the two losses of "book", "npgpt float32", ...
    """

    def losses(line, whose, digits):
        return " / ".join(f"{value:.{digits}f}" for value in line[whose])

    def shown(found):
        return [f"{found[name]:.1e}" if name in found else "" for name in COMPARED]

    made = [["step", "the book", "PyTorch", "npgpt", *COMPARED]]
    for line in lines:
        both = (losses(line, f"{who} float32", 5) for who in ("torch", "npgpt"))
        seen = [str(line["step"]), losses(line, "book", 3), *both]
        made.append(seen + shown(differences(line)))
    made.append(["largest", "", "", "", *shown(largest(lines))])
    return made


def collect(name: str, dtype: str, steps: int, data: str) -> dict[int, list[float]]:
    """Return the losses of one program by step, computed in a process of its own."""
    runner = Runner("benchmarks.book_log", name, "--dtype", dtype, "--data", data)
    found = {}
    for expected in range(0, steps, defaults("book").training.eval_every):
        step, *losses = runner.measure()
        if step != expected:
            sys.exit(f"{name} evaluated after step {step}, not {expected}")
        found[step] = losses
        print(f"{name} {dtype}: step {step}, {losses[0]:.9f} / {losses[1]:.9f}", flush=True)
    runner.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS, help=f"1 to {STEPS}")
    parser.add_argument("--steps64", type=int, default=31, help="1 to --steps")
    parser.add_argument("--data", default="verdict", help="as of npgpt train")
    parser.add_argument(
        "--dtype", choices=("float32", "float64", "bfloat16"), help=argparse.SUPPRESS
    )
    parser.add_argument("--serve", choices=PROGRAMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        from npgpt.data import dataset

        settings = replace(defaults("book"), data=options.data, dtype=options.dtype)
        log = PROGRAMS[options.serve](settings, dataset.read_tokens(settings))
        serve("ready", lambda: next(log))
        return
    if not 1 <= options.steps64 <= options.steps <= STEPS:
        parser.error(f"the book makes {STEPS} steps: 1 <= steps64 <= steps <= {STEPS}")

    found = {
        f"{name} {dtype}": collect(name, dtype, steps, options.data)
        for dtype, steps in (("float32", options.steps), ("float64", options.steps64))
        for name in PROGRAMS
    }
    lines = [
        {"step": step, "book": LOG[step]}
        | {whose: log[step] for whose, log in found.items() if step in log}
        for step in LOG
        if step < options.steps
    ]
    print(f"\n{table(rows(lines))}")
    figures = {"steps": options.steps, "steps64": options.steps64}
    harness.write("book_log", {**figures, "lines": lines, "largest": largest(lines)})


if __name__ == "__main__":
    main()
