"""Bugs planted into the two ports: each is a few lines of a port's text, as a slip changes them.

`plant(port, *names)` returns the port as a module with these bugs. They were written before their
author had seen the catalogue of npgpt.parity.
"""

import importlib
import types
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bug:
    """One bug.

    name : by which it is selected
    port : "torch_port" or "numpy_port"
    edits : pairs of the right text, which occurs once in the port, and the wrong one
    says : one line, what is wrong
    first : tensors, by npgpt's names, any of which may be the first that is wrong
    settings : of the probe, without which it does not show
    """

    name: str
    port: str
    edits: tuple[tuple[str, str], ...]
    says: str
    first: tuple[str, ...]
    settings: tuple[tuple[str, object], ...] = ()


COMBINATIONS = (
    ("scores_unscaled", "gelu_erf"),
    ("norm_unbiased", "mean_over_all"),
    ("softmax_back_without_sum", "gelu_back_factor_three"),
    ("norm_back_no_mean", "bias_gradient_mean"),
    ("position_gradient_mean", "decay_in_gradient"),
    ("gelu_erf", "label_smoothing", "adam_l2"),
    ("gelu_constant", "embedding_gradient_assigned", "adam_eps_inside"),
)


def every() -> dict[str, Bug]:
    """Return all planted bugs by name, the odd ones and the harmless edits last."""
    from parity_tests.ports import (
        numpy_backward_bugs,
        numpy_bugs,
        numpy_training_bugs,
        odd_bugs,
        torch_bugs,
        torch_training_bugs,
    )

    files = torch_bugs, torch_training_bugs, numpy_bugs, numpy_backward_bugs, numpy_training_bugs
    found = [bug for file in files for bug in file.BUGS]
    return {bug.name: bug for bug in (*found, *odd_bugs.BUGS, *odd_bugs.HARMLESS)}


def plant(port: str, *names: str) -> types.ModuleType:
    """Return the port with these bugs; without names, the clean one."""
    if not names:
        return importlib.import_module(f"parity_tests.ports.{port}")
    text = Path(__file__).with_name(f"{port}.py").read_text()
    known = every()
    for name in names:
        if known[name].port != port:
            raise ValueError(f"{name} is a bug of {known[name].port}")
        for right, wrong in known[name].edits:
            if text.count(right) != 1:
                raise ValueError(f"{name}: {text.count(right)} times in {port}: {right}")
            text = text.replace(right, wrong)
    module = types.ModuleType(f"{port}_with_{'_and_'.join(names)}")
    exec(compile(text, module.__name__, "exec"), vars(module))
    return module
