"""What a GPT-2 costs: the operations of its matrix products, and the bytes that have to be read.

A product (M, K) @ (K, N) is 2 M K N operations, a multiplication and an addition for each term.
Counted is what the maths asks for: the half of attention's scores that is masked away is not, nor
what is computed a second time instead of being kept.
"""

from typing import NamedTuple

from npgpt.config import Config
from npgpt.model import params


class Linear(NamedTuple):
    """Linear layers of one shape."""

    count: int
    inputs: int  # I
    outputs: int  # O


def linears(config: Config) -> list[Linear]:
    """Every linear layer of the model: four in a block, and the output head."""
    L, C = config.n_layer, config.n_embd
    in_blocks = [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)]
    return [*(Linear(L, *shape) for shape in in_blocks), Linear(1, C, config.vocab_size)]


def attention(n_embd: int, batch: int, length: int, start: int = 0) -> int:
    """Operations of one layer's scores @ and probs @ for `length` queries that follow `start`."""
    pairs = length * start + length * (length + 1) // 2  # of a query and a key that it may see
    return 2 * 2 * batch * pairs * n_embd


def forward(config: Config, batch: int, length: int, *, scored: int | None = None) -> int:
    """Operations of one pass; the head reads the last `scored` positions (None: all)."""
    rows = batch * length
    *blocks, head = linears(config)
    operations = sum(2 * rows * count * i * o for count, i, o in blocks)
    operations += 2 * batch * (length if scored is None else scored) * head.inputs * head.outputs
    return operations + config.n_layer * attention(config.n_embd, batch, length)


def training_step(config: Config, batch: int, length: int) -> int:
    """Operations of a step: every product comes back as two, one for each of its factors."""
    return 3 * forward(config, batch, length)


def token_bytes(config: Config, itemsize: int = 4) -> int:
    """Bytes of the weights that one new token reads: all but the other tokens' and positions'
    embeddings."""
    unread = (config.context_length - 1) * config.n_embd
    if not config.tied:
        unread += (config.vocab_size - 1) * config.n_embd
    return itemsize * (params.size(config) - unread)
