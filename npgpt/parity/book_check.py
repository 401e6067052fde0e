"""The ladder: what chapter 5 of the book prints, rung by rung, beside what this machine prints.

Each rung stands on the ones before it. Where the first one differs is where to look: the random
stream, the parameters drawn from it, the forward pass, the loader, one training step, many.
Expected values: "Build a Large Language Model (from Scratch)", chapter 5, with seed 123; those that
the book does not print were taken from PyTorch 2.13 running the book's program.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from npgpt import backends
from npgpt.config import RunConfig, defaults
from npgpt.data.dataset import Tokens, read_tokens
from npgpt.gpt import GPT
from npgpt.inference.generate import generate
from npgpt.model.params import named
from npgpt.rng import Generator
from npgpt.training.run import start
from npgpt.training.trainer import Evaluation, Step

SEED = 123
PROMPT = (6109, 3626, 6100, 345)  # "Every effort moves you"
UNTRAINED = (34245, 5139, 2492, 25405, 17434, 17853, 5308, 3398, 13174, 43071)
INPUTS = ((16833, 3626, 6100), (40, 1107, 588))  # "every effort moves", "I really like"
TARGETS = ((3626, 6100, 345), (1107, 588, 11311))  # " effort moves you", " really like chocolate"
PARAMETERS = "c39154078e1ffbe6a0d06649b2462a959e9346082c87dbe11e8587f5f6a95771"
LOG = {  # step -> training and validation loss, to the digits printed
    0: (9.781, 9.933),
    5: (8.111, 8.339),
    10: (6.661, 7.048),
    15: (5.961, 6.616),
    20: (5.726, 6.600),
    25: (5.201, 6.348),
    30: (4.417, 6.278),
    35: (4.069, 6.226),
    40: (3.732, 6.160),
    45: (2.850, 6.179),
    50: (2.427, 6.141),
    55: (2.104, 6.134),
    60: (1.882, 6.233),
    65: (1.320, 6.238),
    70: (0.985, 6.242),
    75: (0.717, 6.293),
    80: (0.541, 6.393),
    85: (0.391, 6.452),
}
STEPS = 90


class Check(NamedTuple):
    """One line of the ladder."""

    what: str
    expected: str
    got: str
    difference: float  # 0 where both are the same words or the same bits, inf where they are not
    allowed: float  # what the printed digits, or float32 sums in another order, account for

    @property
    def holds(self) -> bool:
        """Is the difference within what is allowed?"""
        return self.difference <= self.allowed


def run_checks(data: str, steps: int, *, ops: str = "fused") -> Iterator[Check | Step]:
    """Yields the rungs as they are reached, and every training Step in between.

    `data`: The Verdict, as for `npgpt train --data`. `steps`: how much of the log to walk.
    `ops`: "fused" or "numpy".
    """
    settings = replace(defaults("book"), data=data, ops=ops)
    tokens, module = read_tokens(settings), backends.get(settings.ops, dtype=settings.dtype)
    stream = Generator(SEED, ops=module).uniform(3)
    yield numbers("torch.rand(3)", (0.2961, 0.5166, 0.2517), stream, digits=4)

    model = GPT(settings.config, seed=SEED, scheme="book", ops=module)
    yield words("parameters (sha256)", PARAMETERS[:16], digest(model)[:16])
    new = generate(model, PROMPT, len(UNTRAINED))
    got = tuple(int(token[0]) for token in new)
    first_ids = (", ".join(map(str, ids[:4])) for ids in (UNTRAINED, got))
    yield words("untrained text, first ids", *first_ids, same=got == UNTRAINED)
    loss = model.evaluate(INPUTS, TARGETS)
    yield numbers("loss of the small batch", (10.7940,), (loss,), digits=4)
    yield from losses(settings, model, tokens)
    del model
    yield from log(settings, steps, tokens)


def losses(settings: RunConfig, model: GPT, tokens: Tokens) -> Iterator[Check]:
    """The losses before training: all batches of both loaders, after a fresh manual_seed."""
    every = replace(settings.training, eval_batches=None)
    run = start(replace(settings, training=every), tokens, model=model)
    got = run.evaluate()
    # 1e-6 of 11 is one step of float32: PyTorch adds in another order
    for what, expected, value in zip(
        ("training loss, untrained", "validation loss, untrained"),
        (10.98758347829183, 10.98110580444336),
        got,
        strict=True,
    ):
        yield Check(what, f"{expected:.6f}", f"{value:.6f}", abs(value - expected), 2e-6)


def log(settings: RunConfig, steps: int, tokens: Tokens) -> Iterator[Check | Step]:
    """The training log, as far as `steps` go."""
    training = replace(settings.training, steps=min(steps, STEPS))
    run = start(replace(settings, training=training), tokens)
    for event in run.events():
        if isinstance(event, Evaluation):
            got = event.train_loss, event.val_loss
            yield numbers(f"log, step {event.step:06d}", LOG[event.step], got, digits=3)
        elif isinstance(event, Step):
            yield event


def numbers(what: str, expected, got, *, digits: int) -> Check:
    """A rung of printed numbers: what rounding to the printed digits accounts for is allowed."""
    difference = max(abs(float(g) - e) for e, g in zip(expected, got, strict=True))
    shown = (", ".join(f"{float(x):.{digits}f}" for x in values) for values in (expected, got))
    return Check(what, *shown, difference, 0.5 * 10.0**-digits * (1 + 1e-6))


def words(what: str, expected: str, got: str, *, same: bool | None = None) -> Check:
    """A rung that is the same or not."""
    same = expected == got if same is None else same
    return Check(what, expected, got, 0.0 if same else float("inf"), 0.0)


def digest(model: GPT) -> str:
    """sha256 over all parameters in the order of their names, little-endian float32."""
    total = hashlib.sha256()
    for _, array in named(model.params):
        total.update(np.ascontiguousarray(array, "<f4"))
    return total.hexdigest()
