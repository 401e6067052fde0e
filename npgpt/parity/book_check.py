"""Reproduction checks: the numbers in chapter 5 of the book beside those of this machine.

Each check depends on the ones before it, so the first one that differs locates the mistake: the
random stream, the parameters drawn from it, the forward pass, the loader, one step, or many.
Expected values: "Build a Large Language Model (from Scratch)", chapter 5, with seed 123; those that
the book does not print were taken from PyTorch 2.13 running the book's program.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from npgpt import backends
from npgpt.arrays import Array
from npgpt.config import RunConfig
from npgpt.data.dataset import Tokens, read_tokens
from npgpt.gpt import GPT
from npgpt.inference.generate import generate
from npgpt.model.params import named
from npgpt.preset import defaults
from npgpt.rng import Generator
from npgpt.training.events import Evaluation, Step
from npgpt.training.run import start

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


@dataclass(frozen=True)
class Check:
    """One check: the value in the book beside the value computed here."""

    name: str
    expected: str
    actual: str
    difference: float  # of values compared exactly: 0 if they are equal, else inf
    tolerance: float  # the rounding of printed digits, or of float32 sums in another order

    @property
    def holds(self) -> bool:
        """True if the difference is within the tolerance."""
        return self.difference <= self.tolerance


def run_checks(
    data: str, steps: int, *, ops: Literal["fused", "numpy"] = "fused"
) -> Iterator[Check | Step]:
    """Run the checks. Yield each of them, and every training Step in between.

    `data`: The Verdict, as for `npgpt train --data`. `steps`: number of steps of the training log
    to compare. `ops`: "fused" or "numpy".
    """
    settings = replace(defaults("book"), data=data, ops=ops)
    tokens, module = read_tokens(settings), backends.get(settings.ops, dtype=settings.dtype)
    stream = Generator(SEED, ops=module).uniform(3)
    yield check_numbers("torch.rand(3)", (0.2961, 0.5166, 0.2517), stream, digits=4)

    model = GPT(settings.config, seed=SEED, scheme="book", ops=module)
    yield check_equal("parameters (sha256)", PARAMETERS[:16], digest(model)[:16])
    new = generate(model, PROMPT, len(UNTRAINED))
    ids = tuple(new)
    shown = (", ".join(map(str, some[:4])) for some in (UNTRAINED, ids))
    yield check_equal("untrained text, first ids", *shown, equal=ids == UNTRAINED)
    loss = model.evaluate(INPUTS, TARGETS)
    yield check_numbers("loss of the small batch", (10.7940,), (loss,), digits=4)
    yield from check_losses(settings, model, tokens)
    del model
    yield from check_log(settings, steps, tokens)


def check_losses(settings: RunConfig, model: GPT, tokens: Tokens) -> Iterator[Check]:
    """Check the losses before training: all batches of both loaders, after a new manual_seed."""
    training = replace(settings.training, eval_batches=None)
    trainer = start(replace(settings, training=training), tokens, model=model)
    # 1e-6 is one float32 ulp at 11: PyTorch adds in another order
    for name, expected, actual in zip(
        ("training loss, untrained", "validation loss, untrained"),
        (10.98758347829183, 10.98110580444336),
        trainer.split_losses(),
        strict=True,
    ):
        yield Check(name, f"{expected:.6f}", f"{actual:.6f}", abs(actual - expected), 2e-6)


def check_log(settings: RunConfig, steps: int, tokens: Tokens) -> Iterator[Check | Step]:
    """Check the training log of the first `steps` steps."""
    training = replace(settings.training, steps=min(steps, STEPS))
    for event in start(replace(settings, training=training), tokens).events():
        if isinstance(event, Evaluation):
            actual = event.train_loss, event.val_loss
            yield check_numbers(f"log, step {event.step:06d}", LOG[event.step], actual, digits=3)
        elif isinstance(event, Step):
            yield event


def check_numbers(
    name: str, expected: Sequence[float], actual: Sequence[float] | Array, *, digits: int
) -> Check:
    """Compare printed numbers. The tolerance is the rounding to the printed digits."""
    difference = max(abs(float(a) - e) for e, a in zip(expected, actual, strict=True))
    here, book = (
        ", ".join(f"{float(x):.{digits}f}" for x in values) for values in (actual, expected)
    )
    return Check(name, book, here, difference, 0.5 * 10.0**-digits * (1 + 1e-6))


def check_equal(name: str, expected: str, actual: str, *, equal: bool | None = None) -> Check:
    """Compare two texts exactly. `equal`: the result of comparing the values they abbreviate."""
    equal = expected == actual if equal is None else equal
    return Check(name, expected, actual, 0.0 if equal else float("inf"), 0.0)


def digest(model: GPT) -> str:
    """Return the SHA-256 of all parameters, ordered by name, as little-endian float32."""
    total = hashlib.sha256()
    for _, array in named(model.params):
        total.update(np.ascontiguousarray(array, "<f4"))
    return total.hexdigest()
