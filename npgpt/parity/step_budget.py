"""The parameters after optimizer steps whose gradients are uncertain by their rounding budgets.

Adam divides a gradient by its own size. Where the exact gradient is 0, as that of the key bias is,
the rounding error of a port decides between +lr and -lr. Such an element has the budget of both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.model.params import Params, copy, named
from npgpt.parity.compute import Masks, cast, config_of
from npgpt.parity.order import step_of
from npgpt.parity.port import Port, backend
from npgpt.parity.probe import Probe

SAFETY = 1.5  # errors that grow from step to step make Adam's steps longer than lr


def spreads(
    port: Port,
    probe: Probe,
    exact: Mapping[str, Array],
    budgets: Mapping[str, Array],
    masks: Mapping[str, Array] | None,
) -> dict[str, Array]:
    """Return the largest change of each element of "after<k>/*" that the gradients' budgets allow.

    exact : the parameters after each step, in float64
    budgets : of the gradients, "grad/*"
    """
    found = {name: np.zeros_like(x) for name, x in exact.items()}
    settings = replace(probe.settings, steps=max(map(step_of, exact)))
    probe = replace(probe, settings=settings)
    for signs in patterns(probe):
        for k, tree in enumerate(train(port, probe, budgets, signs, masks), 1):
            for name, leaf in named(tree):
                full = f"after{k}/{name}"
                if full in found:
                    np.fmax(found[full], np.abs(leaf - exact[full]), out=found[full])
    return {name: SAFETY * x for name, x in found.items()}


def patterns(probe: Probe) -> Iterator[Sequence[Mapping[str, Array]]]:
    """Yield the signs of all errors in each step: constant and alternating, and the opposite."""
    rng = np.random.default_rng(0)
    signs = {name: rng.choice((-1.0, 1.0), leaf.shape) for name, leaf in named(probe.params)}
    opposite = {name: -one for name, one in signs.items()}
    steps = probe.settings.steps
    yield [signs] * steps
    yield [opposite] * steps
    yield [(signs, opposite)[k % 2] for k in range(steps)]
    yield [(opposite, signs)[k % 2] for k in range(steps)]


def train(
    port: Port,
    probe: Probe,
    errors: Mapping[str, Array],
    signs: Sequence[Mapping[str, Array]],
    masks: Mapping[str, Array] | None,
) -> Iterator[Params]:
    """Yield the parameters after each step, with an error of this sign added to each gradient."""
    modules = port.modules()
    steps, model = modules["npgpt.parity.steps"], modules["npgpt.model.transformer"]
    settings, config = probe.settings, config_of(probe, masks)
    calls = count()

    class Model:
        """The port's model, whose gradients are off."""

        loss, logits = staticmethod(model.loss), staticmethod(model.logits)

        @staticmethod
        def backward(cache: Any, g: Params, **options: Any) -> None:
            model.backward(cache, g, **options)
            step = min(next(calls) // settings.accumulation, settings.steps - 1)
            for name, leaf in named(g):
                if name in signs[step]:  # not that of a head of its own, of a port with tied ones
                    leaf += signs[step][name] * errors[f"grad/{name}"]

    rng = Masks(masks, config, parts=settings.accumulation, repeat=True) if masks else None
    ops = backend(modules, port.replaced)
    tree = steps.tie(cast(probe.params, np.float64), config.n_head)
    yield from steps.train(
        Model, copy(tree), probe.tokens, probe.targets, config, settings,
        rng=rng, ops=ops,
    )  # fmt: skip
