"""Speculation: several tokens are read in one pass, and neither text nor bits change."""

import numpy as np
import pytest

import npgpt
from npgpt.inference.window import FEW, Reader, Window, advance
from npgpt.model import quantize
from parity_tests.inference.test_generate import model_of

KINDS = "numpy", "fused", "mixed", "bfloat16", "int8"
SHAPE = dict(context_length=300, n_head=3, n_embd=48)  # widths that no cache line divides


def model_as(kind, dtype=np.float32, **changes):
    """Return a model of a backend, or a quantized one."""
    if kind in ("numpy", "fused", "mixed"):
        return model_of(kind, dtype, **SHAPE | changes)
    model = model_as("fused", **changes)
    return npgpt.GPT.from_params(model.config, quantize.quantize(model.params, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [1, 250], ids="after {}".format)
def test_logits_of_several_positions_are_those_of_one_after_the_other(kind, start, rng):
    """250 and more: the cache grows on the way."""
    reader = Reader(model_as(kind))
    tokens = rng.integers(17, size=start + FEW).tolist()
    window = Window(tokens[:start], reader.empty_cache())
    next(reader.logits([window]))
    window.append(tokens[start])
    other = window.fork()
    expected = [next(reader.logits([window]))]
    for token in tokens[start + 1 :]:
        window.append(token)
        expected.append(next(reader.logits([window])))
    found = reader.logits_ahead(other, tokens[start + 1 :])
    np.testing.assert_array_equal(found, expected)
    assert other.unread == 0
    for token in tokens[start + 1 :]:
        other.append(token)
        advance(other)
    for one, two in zip(window.caches, other.caches, strict=True):
        S = len(tokens)
        np.testing.assert_array_equal(one.k[:, :, :S], two.k[:, :, :S])
        np.testing.assert_array_equal(one.v[:, :, :S], two.v[:, :, :S])
