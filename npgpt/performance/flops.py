"""Count the operations of a GPT-2's matrix products, and the bytes that a new token reads.

A product (M, K) @ (K, N) takes 2 M K N operations: one multiplication and one addition per term.
Only what the mathematics needs is counted: not the masked half of the attention scores, and not
values that are computed a second time to save memory.
"""

from typing import NamedTuple

from npgpt.config import Config
from npgpt.model import params


class Linear(NamedTuple):
    """Linear layers of one shape."""

    layers: int
    inputs: int  # I
    outputs: int  # O


def linears(config: Config) -> list[Linear]:
    """Return every linear layer of the model: four per block, and the output head."""
    L, C = config.n_layer, config.n_embd
    in_blocks = [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)]
    return [*(Linear(L, *shape) for shape in in_blocks), Linear(1, C, config.vocab_size)]


def attention(n_embd: int, batch: int, length: int, start: int = 0) -> int:
    """Return the operations of one layer's attention for `length` queries after `start` tokens.

    Both products are counted: the scores, and the probabilities times the values.
    """
    pairs = length * start + length * (length + 1) // 2  # of a query and a key that it may see
    return 2 * 2 * batch * pairs * n_embd


def forward(config: Config, batch: int, length: int, *, scored: int | None = None) -> int:
    """Return the operations of a forward pass with logits for the last `scored` positions.

    `scored` None: for all positions. Only these leave the last block's attention.
    """
    rows, last = batch * length, batch * (length if scored is None else scored)
    *blocks, head = linears(config)
    operations = sum(2 * rows * layers * i * o for layers, i, o in blocks)
    operations -= sum(2 * (rows - last) * i * o for _, i, o in blocks[1:])
    operations += 2 * last * head.inputs * head.outputs
    return operations + config.n_layer * attention(config.n_embd, batch, length)


def training_step(config: Config, batch: int, length: int) -> int:
    """Return the operations of a step: backward has two products for each one in forward."""
    return 3 * forward(config, batch, length)


def token_bytes(config: Config, itemsize: int = 4) -> int:
    """Return the bytes of the weights that one new token reads.

    These are all weights except the embeddings of other tokens and positions.
    """
    unread = (config.context_length - 1) * config.n_embd
    if not config.tied:
        unread += (config.vocab_size - 1) * config.n_embd
    return itemsize * (params.size(config) - unread)
