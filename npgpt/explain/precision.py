"""A model in float64: differences of losses are then those of the parameters, not of rounding."""

from typing import Any

import numpy as np

from npgpt import arrays
from npgpt.backends import Backend
from npgpt.gpt import GPT
from npgpt.model.params import Shape, map_leaves, named, total, views
from npgpt.model.quantize import require_float


def cast(model: GPT, dtype: Any = np.float64, *, ops: Backend | str | None = None) -> GPT:
    """Return a copy of the model with parameters of `dtype`. `ops`: by default, the model's own."""
    require_float(model.params)
    shapes = map_leaves(model.params, lambda leaf: Shape(leaf.shape))
    tree = views(shapes, arrays.zeros(total(shapes), dtype))
    for (_, copy), (_, leaf) in zip(named(tree), named(model.params), strict=True):
        np.copyto(copy, leaf)
    own = model.ops if ops is None else ops
    found = GPT.from_params(model.config, tree, ops=own, tokenizer=model.tokenizer)
    found.path = model.path
    return found
