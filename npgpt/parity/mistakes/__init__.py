"""The catalogue of known mistakes in ports of GPT-2, in the order of computation."""

from npgpt.parity.mistakes import (
    attention,
    attention_backward,
    block,
    cache,
    dropout,
    embedding,
    gelu,
    heads,
    layernorm,
    layernorm_backward,
    linear,
    loss,
    model,
    optimizers,
    precision,
    projections,
    training,
    variants,
)
from npgpt.parity.mistakes.mistake import Mistake

MISTAKES: tuple[Mistake, ...] = tuple(
    mistake
    for subject in (
        precision,
        embedding,
        layernorm,
        linear,
        heads,
        attention,
        gelu,
        block,
        dropout,
        model,
        loss,
        layernorm_backward,
        attention_backward,
        projections,
        training,
        optimizers,
        cache,
    )
    for mistake in subject.page.mistakes
)

VARIANTS = variants.variants_of(MISTAKES)

__all__ = ["MISTAKES", "VARIANTS", "Mistake"]
