"""Lower bounds (roofline): the seconds that a training step's matrix products take in NumPy's BLAS,
that reading all weights takes for every token, and that a prompt's products take.

Each function returns a function that measures once.
"""

from collections.abc import Callable

import numpy as np

from benchmarks.harness import once
from benchmarks.products import operations, products
from npgpt.config import Config
from npgpt.performance import flops

Measure = Callable[[], float]


def step_products(config: Config, B: int, T: int) -> Measure:
    """Return a function that measures the matrix products of a training step.

    It multiplies those of the linear layers, each as often as a step does; attention's are added at
    the same rate.
    """
    made = list(products(config, B * T))
    scale = flops.training_step(config, B, T) / operations(config, B * T)

    def measure():
        seconds = (once(lambda a=a, b=b, out=out: np.matmul(a, b, out=out))
                   for count, a, b, out in made for _ in range(count))  # fmt: skip
        return scale * sum(seconds)

    return measure


def weights_read(config: Config, tokens: int, itemsize: int = 4) -> Measure:
    """Return a function that measures reading all weights once for every new token.

    itemsize: bytes of a weight.
    It reads for as long as the tokens need: no machine sustains the rate of its best 0.1 s.
    """
    from npgpt.performance import roofline

    wanted = tokens * flops.token_bytes(config, itemsize)
    size, read = roofline.memory_reader()
    times = round(wanted / size)
    return lambda: once(lambda: [read() for _ in range(times)]) * wanted / (times * size)


def prompt_products(config: Config, T: int) -> Measure:
    """Return a function that measures the matrix products of a prompt of T tokens."""
    from npgpt.performance import roofline

    *blocks, _ = flops.linears(config)
    wanted = flops.forward(config, 1, T, scored=1)
    return lambda: wanted / roofline.matmul_throughput(blocks, T, backward=False)
