"""Models to quantize."""

import dataclasses

import numpy as np
import pytest

import npgpt
from npgpt.quantized_matrix import KINDS, QuantizedMatrix
from parity_tests.support.weight_files import CONFIG

each = pytest.mark.parametrize("kind", KINDS)
OWN_HEAD = dataclasses.replace(CONFIG, tied=False, qkv_bias=False)
TOKENS = np.arange(12)[None] * 7 % CONFIG.vocab_size


def model_of(config=CONFIG):
    """Return a float32 model whose numbers bfloat16 does not represent exactly."""
    return npgpt.GPT(config, seed=7, tokenizer="byte")


def same(one, other):
    """Return True if two parameters are bit-identical."""
    if not isinstance(one, QuantizedMatrix):
        return not isinstance(other, QuantizedMatrix) and np.array_equal(one, other)
    return (
        (one.kind, one.axis, one.shape) == (other.kind, other.axis, other.shape)
        and one.values.dtype == other.values.dtype
        and np.array_equal(one.values, other.values)
        and np.array_equal(one.scale, other.scale)  # None too
    )
