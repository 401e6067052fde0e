"""16 bits at one point are a mistake, which has a name; products in 16 bits are an arithmetic."""

import numpy as np
import pytest

from npgpt.parity import diagnosis, dump
from npgpt.parity.compute import compute
from npgpt.parity.port import RIGHT
from npgpt.parity.rounding import ROUND, round_products
from parity_tests.support.causes import SHORT, Bench, port_of


@pytest.fixture(scope="module")
def bench():
    return Bench()


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["gradients", "logits"])
def test_numbers_rounded_at_one_point_are_a_mistake(bench, name, kind):
    kinds = (*SHORT, "logits") if name == "logits" else SHORT
    said = bench.diagnose(kinds, port_of(f"{name}-in-{kind}"))
    assert said.arithmetic == "float32"
    assert [[one.name for one in chain] for chain in said.causes] == [[f"{name}-in-{kind}"]]


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_products_in_16_bits_are_an_arithmetic(bench, kind):
    """Their gradients are numbers of 16 bits too, with larger errors."""
    numbers = compute(round_products(RIGHT, kind), bench.probe, SHORT, dtype=np.float32)
    numbers = {name: ROUND[kind](np.atleast_1d(x)).reshape(x.shape) for name, x in numbers.items()}
    said = diagnosis.diagnose(dump.make(numbers), bench.probe)
    assert said.agrees
    assert said.arithmetic == kind
