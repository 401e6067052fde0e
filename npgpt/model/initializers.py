"""Initial parameters. Each scheme fills a tree from one generator.

All draws are float32: a float64 model of the same seed starts from the same numbers.
"""

import math
from collections.abc import Callable

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError, show
from npgpt.model.backend import Distributions
from npgpt.model.params import Params, named
from npgpt.ops import layernorm


def book(p: Params, config: Config, rng: Distributions) -> None:
    """Draw PyTorch's defaults of nn.Embedding and nn.Linear, in the order of the book's GPTModel.

    One seed thus gives the book's model. Embeddings are normal(0, 1). A linear layer of I inputs is
    uniform(-1/sqrt(I), 1/sqrt(I)), first the weight, then the bias. PyTorch's weights are
    (out, in): they are drawn in that shape and transposed into GPT-2's (in, out). Query, key and
    value are three layers, drawn one after the other into c_attn.
    """
    C = config.n_embd
    fill_normal(p.wte.weight, 1.0, rng)
    fill_normal(p.wpe.weight, 1.0, rng)
    for block in p.h:
        fill_norm(block.ln_1)
        qkv = block.attn.c_attn
        for part in (slice(0, C), slice(C, 2 * C), slice(2 * C, 3 * C)):
            fill_dense(qkv.weight[:, part], None if qkv.bias is None else qkv.bias[part], rng)
        fill_dense(*block.attn.c_proj, rng)
        fill_norm(block.ln_2)
        fill_dense(*block.mlp.c_fc, rng)
        fill_dense(*block.mlp.c_proj, rng)
    fill_norm(p.ln_f)
    if p.lm_head is not None:
        fill_dense(p.lm_head.weight.T, None, rng)


def gpt2(p: Params, config: Config, rng: Distributions) -> None:
    """Draw GPT-2's own distribution: normal(0, 0.02), biases zero.

    The two matrices of a block that write into the residual stream are divided by sqrt(2 L),
    because 2 L of them add up (Radford et al. 2019, section 2.3).
    """
    for name, array in named(p):
        layer, kind = name.rsplit(".", 1)
        if kind == "bias":
            array[...] = 0
        elif layer.rsplit(".", 1)[-1].startswith("ln_"):
            array[...] = 1
        else:
            std = 0.02 / math.sqrt(2 * config.n_layer) if layer.endswith("c_proj") else 0.02
            fill_normal(array, std, rng)


def fill_normal(array: Array, std: float, rng: Distributions) -> None:
    """Fill `array`, of any shape, with normal(0, std)."""
    draw(array, lambda out: rng.normal(array.shape, 0.0, std, out=out))


def fill_dense(weight: Array, bias: Array | None, rng: Distributions) -> None:
    """Fill an (in, out) `weight` and its bias with the default of torch.nn.Linear."""
    inputs = weight.shape[0]
    # kaiming_uniform(a=sqrt 5) computes the bound of the weight in these steps; 1/sqrt(I) rounds
    # differently in the last bit for some I
    bound = math.sqrt(3) * (math.sqrt(2 / (1 + 5)) / math.sqrt(inputs))
    fill_uniform(weight.T, bound, rng)
    if bias is not None:
        fill_uniform(bias, 1 / math.sqrt(inputs), rng)


def fill_uniform(array: Array, bound: float, rng: Distributions) -> None:
    """Fill `array`, of any shape, with uniform(-bound, bound)."""
    draw(array, lambda out: rng.uniform(array.shape, -bound, bound, out=out))


def draw(array: Array, sample: Callable[[Array | None], Array]) -> None:
    """Fill `array` with the float32 numbers of `sample(out)`: directly if it is float32 itself."""
    if array.dtype == np.float32:
        sample(array)
    else:
        array[...] = sample(None)


def fill_norm(norm: layernorm.Params) -> None:
    """Set a LayerNorm's scale to one and its shift to zero."""
    norm.weight[...] = 1
    norm.bias[...] = 0


SCHEMES = {"book": book, "gpt2": gpt2}


def get(scheme: str) -> Callable[[Params, Config, Distributions], None]:
    """Return the scheme of this name. Raise InputError if there is none."""
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise InputError(f"scheme is {show(scheme)}, but must be one of {sorted(SCHEMES)}")
    return SCHEMES[scheme]
