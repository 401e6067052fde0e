"""16 bits at one point are a mistake, which has a name; products in 16 bits are an arithmetic."""

import numpy as np
import pytest

from npgpt.parity import coarser, diagnosis, dump
from npgpt.parity.compute import compute
from npgpt.parity.mistakes import dropout
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


def test_a_small_mistake_is_not_called_products_in_16_bits(bench):
    """LayerNorm takes out the factor of a residual stream but for its eps: within the budgets."""
    port, exact = RIGHT, bench.lab(dict.fromkeys(bench.compute(SHORT, RIGHT))).run(())
    for edit in dropout.in_evaluation(("embedding", "branches"), "1 - {}", "0.1"):
        port = port.edit(*edit)
    own = bench.compute(SHORT, port)
    run = exact.rounded("float16", exact.task.names)
    assert all(run.factor(name, own[name]) < 1 for name in own)
    assert coarser.arithmetic(exact, own, "loss") == ""
    products = bench.compute(SHORT, port_of("matmul-in-float16"))
    assert coarser.arithmetic(exact, products, "loss") == "float16"
