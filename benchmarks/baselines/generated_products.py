"""Lower bound of generation: its matrix products, each shape in the fastest of three libraries."""

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.harness import once
from npgpt.config import Config
from npgpt.performance import flops

TRIES = 3
SLOW = 4  # times the fastest library: PyTorch's bfloat16 on a CPU that does not multiply it


def generated_products(
    config: Config, B: int, T: int, count: int, weights: str
) -> Callable[[], float]:
    """Return a function that measures the matrix products of `count` tokens after B prompts of T.

    Each shape is multiplied by the fastest of NumPy's BLAS (float32), PyTorch (oneDNN) and npgpt,
    with the matrices of all layers in turn. Attention's products of the prompt are added at the
    rate of the layers'. Elementwise work, and attention of the later tokens, is left out.
    """
    *blocks, head = layers = flops.linears(config)
    matrices = {layer: random_matrices(layer, weights) for layer in layers}
    wanted = flops.forward(config, B, T, scored=1) - 2 * B * head.inputs * head.outputs
    scale = wanted / sum(2 * B * T * count * i * o for count, i, o in blocks)

    def measure():
        seconds = scale * sum(fastest(B * T, matrices[layer], weights) for layer in blocks)
        seconds += fastest(B, matrices[head], weights)
        if count > 1:
            seconds += (count - 1) * sum(fastest(B, matrices[layer], weights) for layer in layers)
        return seconds

    return measure


def random_matrices(layer: flops.Linear, weights: str) -> list:
    """Return a matrix for each layer of this shape: float32, or a QuantizedMatrix."""
    from npgpt import quantized_matrix

    rng, (count, inputs, outputs) = np.random.default_rng(0), layer
    drawn = (rng.standard_normal((inputs, outputs), np.float32) for _ in range(count))
    if weights == "float32":
        return list(drawn)
    if weights == "bfloat16":
        return [quantized_matrix.bfloat16(one) for one in drawn]
    return [quantized_matrix.int8(one, axis=1) for one in drawn]


def fastest(rows: int, matrices: list, weights: str) -> float:
    """Return the seconds of one product with each matrix, in the fastest library and try."""
    x = np.random.default_rng(1).standard_normal((rows, matrices[0].shape[0]), np.float32)
    out, seconds = np.empty((rows, matrices[0].shape[1]), np.float32), []
    for library in LIBRARIES[weights]:
        products = [library(x, b, out) for b in matrices]
        if seconds and min(map(once, products[:1] * 2)) * len(products) > SLOW * min(seconds):
            continue
        seconds += [once(lambda some=products: [one() for one in some]) for _ in range(TRIES)]
    return min(seconds)


# Each returns a function that computes x @ b. PyTorch gets x as bfloat16 or int8, and returns
# bfloat16 or int32; npgpt rounds x itself.


def numpy_product(x, b, out):
    return partial(np.matmul, x, b, out=out)


def npgpt_product(x, b, out):
    from npgpt.kernels import gemm, gemm_bf16

    multiply = gemm.matmul if isinstance(b, np.ndarray) else gemm_bf16.matmul
    return partial(multiply, x, b, out=out)


def torch_float32(x, b, out):
    import torch

    return partial(torch.matmul, *map(torch.from_numpy, (x, b)), out=torch.from_numpy(out))


def torch_bfloat16(x, b, out):
    import torch

    x, b = torch.from_numpy(x).bfloat16(), torch.from_numpy(b.values).view(torch.bfloat16)
    return partial(torch.matmul, x, b, out=torch.empty(out.shape, dtype=torch.bfloat16))


def torch_int8(x, b, out):
    import torch

    x, b = torch.from_numpy(np.rint(20 * x).astype(np.int8)), torch.from_numpy(b.values)
    return partial(torch._int_mm, x, b, out=torch.empty(out.shape, dtype=torch.int32))


LIBRARIES = {  # the first is measured in any case, the others unless they are SLOW
    "float32": (npgpt_product, numpy_product, torch_float32),
    "bfloat16": (npgpt_product, torch_bfloat16),
    "int8": (npgpt_product, torch_int8),
}
