"""One new position through all blocks, in one parallel loop. The formula is in npgpt/ops/decode.py.

Every block has five stages (stages.py). A few rows read every weight at the rate of memory
(few.py), a batch multiplies them at the rate of the processor (batch.py). The bits of a row are the
same.
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, rows
from npgpt.fused.decode import batch, few
from npgpt.fused.layernorm import EPS
from npgpt.kernels.gemv_microkernel import GROUP
from npgpt.kernels.launch import num_threads
from npgpt.kernels.pointers import address
from npgpt.ops import decode, lora
from npgpt.ops.gelu import CUBIC, SCALE


class Matrix(NamedTuple):
    """A linear layer for the kernels. Its weight has x's dtype, or is quantized: bfloat16 (its bits
    in uint16) or int8."""

    weight: Array  # (I, O)
    bias: Array | None  # (O,)
    scale: Array | None  # (O,), factors of the product's columns


class Addresses(NamedTuple):
    """The addresses of the parameters of L blocks; 0 for None."""

    matrices: Array  # (L, 4, 3)
    norms: Array  # (L, 2, 2)
    kind: Array  # (0,), of the matrices' dtype


def forward(x: Array, blocks, *, n_head: int, past, out: Array | None = None):
    """(B, 1, C) -> (B, 1, C). `blocks`: the parameters of every block (npgpt/model/params.py).
    `past`: one cache per block (npgpt/model/kv_cache.py), extended by this position. Of rows of
    unequal length: one RowCaches per block."""
    return forward_with(matrix, x, blocks, n_head, past, out)


def matrix(p) -> Matrix:
    """Return a linear layer's parameters as a Matrix."""
    return Matrix(p.weight, p.bias, None)


def forward_with(matrix, x: Array, blocks, n_head: int, past, out: Array | None):
    """Run `forward`, with `matrix` to convert the parameters of a layer."""
    if any(isinstance(p, lora.Params) for one in blocks for p in (*one.attn, *one.mlp)):
        return decode.forward(x, blocks, n_head=n_head, past=past, out=out)
    (B, _, C), number = x.shape, x.dtype.type
    if not len(blocks):
        raise ValueError("there are no blocks")
    addresses = addresses_of(matrix, blocks, past, x.dtype)
    stored = np.empty(0, getattr(past[0], "rows", past)[0].k.dtype)
    caches, starts, capacities = reserve(past, stored.dtype)
    texts = first_rows(past[0], B)
    out = np.empty_like(x) if out is None else out
    kernel = few if B <= (1 if addresses.kind.dtype == np.int8 else GROUP) else batch
    kernel.forward(addresses.matrices, addresses.norms, addresses.kind, caches, stored, n_head,
                   texts, capacities, starts, number((C // n_head) ** -0.5), number(EPS),
                   number(SCALE), number(CUBIC), num_threads(), np.ascontiguousarray(rows(x)),
                   rows(out))  # fmt: skip
    return out


def reserve(past, dtype) -> tuple[Array, Array, Array]:
    """Reserve a position of every row. Return the addresses of keys and values, (L, B, 2), the
    reserved positions (B,), and the capacities (L, B): a failed pass may have grown some layers."""
    if hasattr(past[0], "rows"):
        starts = np.array([[row.reserve(1) for row in layer.rows] for layer in past])
        caches = np.array([[row_addresses(row, dtype) for row in layer.rows] for layer in past])
        capacities = np.array([[row.k.shape[-2] for row in layer.rows] for layer in past])
    else:
        B = len(past[0].k)
        starts = np.array([[layer.reserve(1)] * B for layer in past])
        first = np.array([[address(layer.k, dtype), address(layer.v, dtype)] for layer in past])
        strides = np.array([layer.k.strides[0] for layer in past])
        caches = first[:, None] + (np.arange(B) * strides[:, None])[..., None]
        capacities = np.array([[layer.k.shape[-2]] * B for layer in past])
    if (starts != starts[0]).any():
        raise ValueError(
            "all layers must have the same number of cached positions, not "
            f"{sorted(set(starts.ravel().tolist()))}"
        )
    return caches, starts[0], capacities


def first_rows(past, B: int) -> Array:
    """Return the first row of each text, and B. A text of several rows has one cache for all."""
    rows = getattr(past, "rows", None)
    return np.array([b for b in range(B) if not (b and rows and rows[b] is rows[b - 1])] + [B])


def row_addresses(row, dtype) -> tuple[int, int]:
    """Return the addresses of a row's keys and values, cached until it grows."""
    if row.backend_state is None or row.backend_state[0] is not row.k:
        row.backend_state = row.k, (address(row.k, dtype), address(row.v, dtype))
    return row.backend_state[1]


def addresses_of(matrix, blocks, past, dtype) -> Addresses:
    """Return the blocks' parameter addresses, cached in the key/value cache."""
    if past[0].backend_state is None or past[0].backend_state[0] is not blocks:
        past[0].backend_state = blocks, collect_addresses(matrix, blocks, dtype)
    return past[0].backend_state[1]


def collect_addresses(matrix, blocks, dtype) -> Addresses:
    """Return the blocks' parameter addresses."""
    layers = [[matrix(layer) for layer in (*p.attn, *p.mlp)] for p in blocks]
    kind = layers[0][0].weight.dtype
    return Addresses(
        np.array([
            [[address(p.weight, kind), address(p.bias, dtype), address(p.scale, dtype)]
             for p in block] for block in layers
        ]),
        np.array([
            [[address(norm.weight, dtype), address(norm.bias, dtype)] for norm in (p.ln_1, p.ln_2)]
            for p in blocks
        ]),
        np.empty(0, kind),
    )  # fmt: skip
