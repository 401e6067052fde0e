"""Lower bounds (roofline): the least seconds of a training step, and of reading all weights for
every token.

A function returns a function that measures once. The parts of a step's bound are measured in
processes of their own, and put together by `step_bound`.
"""

from collections.abc import Callable

import numpy as np

from benchmarks.harness import once
from benchmarks.products import multiplication, operations, products
from npgpt import arrays
from npgpt.config import Config
from npgpt.model import params
from npgpt.performance import flops, roofline

Measure = Callable[[], float]
ADAMW_SIZE = 1 << 25  # numbers of each array that AdamW updates: far more than caches hold


def step_products(config: Config, rows: int, name: str, dtype: str) -> Callable[[], dict]:
    """Return a function that measures a program's products of a step on `rows` tokens.

    name: "numpy", "torch" or "npgpt", which also measures the rate of memory. It returns
    {"products": seconds of each product, times the layers that have it; "rate": bytes per second}.
    PyTorch multiplies operands that are of the dtype already. npgpt's are float32, as in a step.
    """
    made = list(products(config, rows))
    if name == "torch":
        matmul, made = torch_products(made, dtype)
    else:
        matmul = multiplication("npgpt-bfloat16" if dtype == "bfloat16" else name)
    rate = memory_rate() if name == "npgpt" else float  # 0.0

    def measure():
        seconds = [sum(once(lambda a=a, b=b, out=out: matmul(a, b, out=out)) for _ in range(count))
                   for count, a, b, out in made]  # fmt: skip
        return {"products": seconds, "rate": rate()}

    return measure


def torch_products(made: list[tuple], dtype: str) -> tuple[Callable, list[tuple]]:
    """Return torch.matmul, and the operands of these products as tensors."""
    import torch

    kind = getattr(torch, dtype)
    tensors = [
        (count, *(torch.from_numpy(array).to(kind) for array in arrays)) for count, *arrays in made
    ]
    return torch.matmul, tensors


def memory_rate() -> Measure:
    """Return a function that measures the bytes per second that all threads move.

    It is the higher rate of reading alone, and of AdamW, which reads four arrays and writes three.
    """
    from npgpt.fused import adamw

    size, read = roofline.memory_reader()
    p, *others = (arrays.zeros(ADAMW_SIZE, np.float32) for _ in range(4))
    adam = dict(lr=0.0, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8, step=1)

    def measure():
        updated = 7 * p.nbytes / roofline.fastest(lambda: adamw.update(p, *others, **adam))
        return max(size / roofline.fastest(read), updated)

    return measure


def step_bound(config: Config, B: int, T: int, measured: list[dict]) -> dict[str, float]:
    """Return the least seconds of a step: each product at the best of the measured rates,
    attention's at the mean rate of all others, and other arrays at the rate of memory."""
    best = sum(map(min, zip(*(one["products"] for one in measured), strict=True)))
    multiplying = best * flops.training_step(config, B, T) / operations(config, B * T)
    moving = other_bytes(config, B * T) / max(one["rate"] for one in measured)
    return {"products": multiplying, "memory": moving, "seconds": multiplying + moving}


def other_bytes(config: Config, rows: int) -> int:
    """Return the bytes that the other ops of a step read and write.

    AdamW moves seven arrays of all parameters. Each LayerNorm and GELU moves two arrays of its size
    in forward and three in backward, and the embedding likewise. Residuals and biases are counted
    as a part of the products.
    """
    L, C = config.n_layer, config.n_embd
    widths = (2 * L + 1) * C + L * 4 * C + C  # LayerNorms, GELUs and the embedding
    return 4 * (7 * params.size(config) + 5 * rows * widths)


def weights_read(config: Config, tokens: int, itemsize: int = 4) -> Measure:
    """Return a function that measures reading all weights once for every new token.

    itemsize: bytes of a weight.
    It reads for as long as the tokens need: no machine sustains the rate of its best 0.1 s.
    """
    wanted = tokens * flops.token_bytes(config, itemsize)
    size, read = roofline.memory_reader()
    times = round(wanted / size)
    return lambda: once(lambda: [read() for _ in range(times)]) * wanted / (times * size)
