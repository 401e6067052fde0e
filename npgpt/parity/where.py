"""The place of an error that no known mistake explains: a sentence for each stage."""

import math
from collections.abc import Sequence

from npgpt.config import Config
from npgpt.model.params import named, shapes
from npgpt.parity import graph
from npgpt.parity.order import kind_of, step_of


def describe(name: str) -> str:
    """Return a canonical name in words: "gradient of ln_f.bias" for "grad/ln_f.bias"."""
    kind, _, rest = name.partition("/")
    match kind:
        case "act":
            return rest
        case "param":
            return f"parameter {rest}"
        case "grad":
            return f"gradient of {rest}"
        case "dact":
            return f"gradient of activation {rest}"
    if k := step_of(name):
        return f"{rest} after {k} step{'s' * (k > 1)}"
    return kind.replace("_", " ")


def sentence(
    name: str, at: Sequence[int], number: float, right: Sequence[str], config: Config
) -> str:
    """Return where the error of the first wrong tensor is.

    at, number : the first wrong element
    right : tensors before it, in the order of computation
    """
    kind, wrong = kind_of(name), describe(name)
    if name == "cached_logits":
        position = f", from position {at[1]} on" if len(at) == 3 else ""
        if "logits" in right or "loss" in right:
            return ("the forward pass of whole sequences is right: the error is in the loop that "
                    f"feeds tokens through the cache{position}")  # fmt: skip
        return f"the error is in the forward pass or in its loop through the cache{position}"
    if step_of(name):
        roots = (
            ""
            if math.isfinite(number)
            else ": a root of a negative number, as of moments in one array, or 0 / 0?"
        )
        return of_step(name, right, config) + roots
    if name == "logits_again":
        return ("the first forward pass is right, a second one of the same tokens is not: one has "
                "changed the parameters, or keeps a state")  # fmt: skip
    if name == "loss" and "logits" in right:
        return ("the logits are right: the error is in the loss, its targets, those that it "
                "ignores, or its mean")  # fmt: skip
    if last := last_before(name, right, config):
        return f"the error is between {describe(last)} and {wrong}"
    if kind in ("grad", "dact") and "loss" in right:
        return f"forward and loss are right: the error is in backward, between the loss and {wrong}"
    if name == "act/embedding":
        return "the error is in the embedding, or before it: all else is computed from it"
    return f"the error is at or before {wrong}"


def of_step(name: str, right: Sequence[str], config: Config) -> str:
    """Return where the error of a parameter after an optimizer step is."""
    k, leaves = step_of(name), [leaf for leaf, _ in named(shapes(config))]
    if k > 1 and all(f"after{k - 1}/{leaf}" in right for leaf in leaves):
        steps = "first step is" if k == 2 else f"first {k - 1} steps are"
        return (f"the {steps} right: the error is in what the optimizer keeps between steps, in "
                "gradients that are not set to 0, or in a schedule")  # fmt: skip
    if all(f"grad/{leaf}" in right for leaf in leaves):
        return ("the gradients are right: the error is in clipping, in the optimizer or in its "
                "settings (settings.json)")  # fmt: skip
    return (f"the error is in the gradient of {name.partition('/')[2]}, in clipping, or in the "
            "optimizer")  # fmt: skip


def last_before(name: str, right: Sequence[str], config: Config) -> str:
    """Return the last right tensor from which a tensor is computed, "" if there is none."""
    feeding = graph.ancestors(name, config)
    return next((one for one in reversed(right) if one in feeding), "")
