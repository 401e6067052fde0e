"""The catalogue of known mistakes in ports of GPT-2, in the order of computation."""

from npgpt.parity.mistakes import (
    attention,
    attention_backward,
    block,
    cache,
    changes_around_blocks,
    changes_of_backward,
    changes_of_forward,
    dropout,
    embedding,
    gelu,
    habits,
    heads,
    in_place,
    layernorm,
    layernorm_backward,
    linear,
    loss,
    micro_batches,
    model,
    norms,
    optimizer_state,
    optimizers,
    other_layers,
    precision,
    projections,
    residuals,
    targets,
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
        norms,
        linear,
        heads,
        attention,
        gelu,
        block,
        residuals,
        dropout,
        model,
        loss,
        targets,
        micro_batches,
        layernorm_backward,
        attention_backward,
        projections,
        other_layers,
        in_place,
        habits,
        training,
        optimizers,
        optimizer_state,
        cache,
    )
    for page in getattr(subject, "pages", None) or (subject.page,)
    for mistake in page.mistakes
)

VARIANTS = (*variants.variants_of(MISTAKES), *habits.NOT_FINITE)

# One change of a line each, tried where neither explains everything
CHANGES = (
    *changes_of_forward.CHANGES,
    *changes_around_blocks.CHANGES,
    *changes_of_backward.CHANGES,
)

__all__ = ["CHANGES", "MISTAKES", "VARIANTS", "Mistake"]
