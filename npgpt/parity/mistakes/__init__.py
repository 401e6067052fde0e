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

# Of forward and loss, those that ports have most often: two of them at once are tried
COMMON = tuple(
    mistake
    for mistake in MISTAKES
    if mistake.name
    in {
        "positions-missing", "positions-from-1", "positions-all-0", "tokens-scaled-by-sqrt-c",
        "variance-of-c-minus-1", "eps-outside-sqrt", "layernorm-eps-1e-6", "layernorm-eps-1e-12",
        "layernorm-without-bias", "rmsnorm", "linear-without-bias", "attn-c-attn-without-bias",
        "square-weights-transposed", "qkv-order-kqv", "qkv-order-qvk", "qkv-order-vkq",
        "qkv-per-head", "heads-split-without-transpose", "heads-merged-without-transpose",
        "scores-not-scaled", "scores-divided-by-d", "scores-divided-by-sqrt-c", "mask-missing",
        "mask-sees-next-token", "mask-multiplies-scores", "mask-after-softmax",
        "softmax-over-queries", "gelu-exact", "gelu-quick", "relu", "post-norm",
        "residual-after-norm", "residual-around-attention-missing", "residual-around-mlp-missing",
        "parallel-block", "ln-f-missing", "attention-projection-missing", "labels-shifted-twice",
        "labels-not-shifted", "loss-summed", "loss-mean-including-ignored", "loss-mean-of-rows",
        "label-smoothing",
    }
)  # fmt: skip

__all__ = ["CHANGES", "COMMON", "MISTAKES", "VARIANTS", "Mistake"]
