"""Products in 16 bits: recognized in a port's numbers, and computed by rounding their operands."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.model.params import Params, named
from npgpt.parity.port import Port
from npgpt.quantized_matrix import from_bfloat16, to_bfloat16

EPS = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-12}  # half an ulp of 1
LINEARS = {"attn.c_attn": "ln_1", "attn.c_proj": "attn.heads", "mlp.c_fc": "ln_2",
           "mlp.c_proj": "mlp.gelu"}  # and the activations that they multiply  # fmt: skip
RESULTS = (*LINEARS, "attn.heads")
ENOUGH = 16  # numbers: fewer can end in zero bits by chance
EXACT = 2.0**-18  # of the sum of |x| |weight|: a sum in float32 is closer, one in 16 bits is not


def recognize(tensors: Mapping[str, Array], parameters: Params) -> str:
    """Return the arithmetic of matrix products: "float32", "bfloat16" or "float16".

    It is that of 16 bits if more than half of the products show it. Either their results are
    numbers of that format, or they are sums in float32 of operands that were rounded to it. A
    single op in 16 bits is a mistake, and no arithmetic.

    tensors : the port's, by canonical names.
    """
    outputs = [x for name, x in tensors.items() if is_output(name) and has_enough(x)]
    gradients = [x for name, x in tensors.items() if is_gradient(name, x) and has_enough(x)]
    results = outputs or gradients
    products = list(linear_products(tensors, dict(named(parameters))))
    for kind, rounds in ROUND.items():
        shown = sum(bool((rounds(x) == x).all()) for x in results)
        used = sum(multiplies(rounds, *product) for product in products)
        if 2 * shown > len(results) or 2 * used > len(products):
            return kind
    return "float32"


def is_output(name: str) -> bool:
    """Return True for an activation that a matrix product makes."""
    return name == "logits" or (name.startswith("act/") and name.endswith(RESULTS))


def is_gradient(name: str, x: Array) -> bool:
    """Return True for the gradient of a block's matrix."""
    return name.startswith("grad/h.") and x.ndim == 2


def has_enough(x: Array) -> bool:
    """Return True for a tensor with enough numbers that are not 0."""
    return int(np.count_nonzero(x)) >= ENOUGH


def linear_products(
    tensors: Mapping[str, Array], parameters: Mapping[str, Array]
) -> Iterator[tuple[Array, Array, Array]]:
    """Yield input, weight, and output without bias of each linear layer whose input is dumped."""
    for name, out in tensors.items():
        block, _, layer = name.removeprefix("act/h.").partition(".")
        x = tensors.get(f"act/h.{block}.{LINEARS.get(layer)}")
        if name.startswith("act/h.") and x is not None:
            weight = parameters[f"h.{block}.{layer}.weight"].astype(np.float64)
            bias = parameters.get(f"h.{block}.{layer}.bias")
            yield x, weight, out if bias is None else out - bias


def multiplies(rounds: Callable[[Array], Array], x: Array, weight: Array, out: Array) -> bool:
    """Return True if `out` is the product of the rounded operands, and not that of the operands."""
    size = EXACT * (np.abs(x) @ np.abs(weight))
    return bool(
        (np.abs(rounds(x) @ rounds(weight) - out) <= size).all()
        and (np.abs(x @ weight - out) > size).any()
    )


def round_bfloat16(x: Array) -> Array:
    """Round to the nearest bfloat16; dtype and shape stay."""
    return from_bfloat16(to_bfloat16(x)).astype(x.dtype)


def round_float16(x: Array) -> Array:
    """Round to the nearest float16; dtype and shape stay."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(x.dtype)


ROUND = {"bfloat16": round_bfloat16, "float16": round_float16}


def round_products(port: Port, arithmetic: str) -> Port:
    """Return a port whose linear layers and output head have inputs and outputs in 16 bits.

    Those of attention's products are of the same size: queries, keys and values are outputs.
    """
    if arithmetic == "float32":
        return port
    rounds = ROUND[arithmetic]

    def both(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Array, *args: Any, **options: Any) -> Any:
            found = function(rounds(x) if isinstance(x, np.ndarray) else x, *args, **options)
            if not isinstance(found, tuple):
                return rounds(found)
            return (rounds(found[0]) if found[0].ndim else found[0]), *found[1:]

        return call

    for name in ("linear", "linear_cross_entropy"):
        op = getattr(port.ops, name)
        port = port.replace_op(name, forward=both(op.forward), backward=both(op.backward))
    return port
