"""Mistakes in gradient accumulation and clipping."""

from npgpt.parity.mistakes.mistake import Page

ACCUMULATE, TRAIN = "npgpt.parity.steps:accumulate", "npgpt.parity.steps:train"
CLIP, CLIP_SCALE = "npgpt.parity.steps:clip", "npgpt.training.schedule:clip_scale"
NORM = "npgpt.training.schedule:global_norm"

page = Page("docs/backprop/training.md")
wrong = page.add

SHARE = "share = count / counts"
PARTS = "np.array_split(np.arange(len(tokens)), settings.accumulation):"
ADD = "total += share * grad"
SCALE = "return schedule.clip_scale(schedule.global_norm(g, ops=ops), max_norm)"
SQUARES = "sum(ops.adamw.square_sum(grad) for _, grad in params.named(gradients))"

wrong(
    "step",
    "accumulation-not-divided",
    "the gradients of the micro-batches are added, not averaged",
    (ACCUMULATE, SHARE, "share = 1.0"),
)
wrong(
    "step",
    "accumulation-mean-of-means",
    "all micro-batches weigh the same, although their numbers of targets differ",
    (ACCUMULATE, SHARE, "share = 1 / settings.accumulation"),
    seen=(
        "huggingface/transformers#24725",
        "huggingface/transformers#34191",
    ),
)
wrong(
    "step",
    "accumulation-divided-twice",
    "the accumulated gradient is divided by the number of micro-batches once more",
    (ACCUMULATE, SHARE, "share = count / counts / settings.accumulation"),
)
wrong(
    "step",
    "accumulation-mean-divided-twice",
    "the mean of the micro-batches' means is divided by their number once more",
    (ACCUMULATE, SHARE, "share = 1 / settings.accumulation**2"),
)
wrong(
    "step",
    "accumulation-of-first-only",
    "the first micro-batch is repeated: its gradient alone counts",
    (ACCUMULATE, PARTS, PARTS.replace(":", "[:1]:")),
    (ACCUMULATE, SHARE, "share = 1.0"),
)
wrong(
    "step",
    "accumulation-without-last",
    "the last micro-batch is left out",
    (ACCUMULATE, PARTS, PARTS.replace(":", "[:-1]:")),
)
wrong(
    "step",
    "accumulation-of-last-only",
    "each micro-batch replaces the gradients of those before: only the last one counts",
    (ACCUMULATE, ADD, "total[:] = share * grad"),
)
ONE_STEP = """        zero(g)
        accumulate(model, p, tokens, targets, config, settings, g, rng=rng, ops=ops)
        scale = clip(g, settings.grad_clip, ops=ops)
        optimizer.step(g, scale=scale)"""
STEP_PER_PART = """        from dataclasses import replace

        alone = replace(settings, accumulation=1)
        for part in np.array_split(np.arange(len(tokens)), settings.accumulation):
            zero(g)
            accumulate(model, p, tokens[part], targets[part], config, alone, g, rng=rng, ops=ops)
            optimizer.step(g, scale=clip(g, settings.grad_clip, ops=ops))"""
wrong(
    "step",
    "step-per-micro-batch",
    "the optimizer steps after each micro-batch",
    (TRAIN, ONE_STEP, STEP_PER_PART),
)
wrong(
    "step",
    "gradients-not-zeroed",
    "gradients are not set to zero between steps",
    (TRAIN, "        zero(g)\n", ""),
)
wrong(
    "step",
    "clip-missing",
    "gradients are not clipped",
    (CLIP, SCALE, "return 1.0"),
    seen=("paiml/aprender#2112",),
)
wrong(
    "step",
    "clip-per-parameter",
    "each parameter's gradient is clipped by its own norm, not by the global one",
    (
        CLIP,
        SCALE,
        """for grad in params.leaves(g):
        grad *= schedule.clip_scale(ops.adamw.square_sum(grad) ** 0.5, max_norm)
    return 1.0""",
    ),
    seen=("huggingface/transformers#581",),
)
wrong(
    "step",
    "clip-by-value",
    "each number of the gradient is clipped to plus or minus the limit, not the norm",
    (
        CLIP,
        SCALE,
        """for grad in params.leaves(g):
        np.clip(grad, -max_norm, max_norm, out=grad)
    return 1.0""",
    ),
)
wrong(
    "step",
    "clip-by-squared-norm",
    "the global norm lacks the square root",
    (NORM, "math.sqrt(", "("),
)
wrong(
    "step",
    "clip-by-sum-of-norms",
    "the global norm is the sum of the parameters' norms",
    (NORM, f"math.sqrt({SQUARES})",
     "sum(ops.adamw.square_sum(grad) ** 0.5 for _, grad in params.named(gradients))"),
)  # fmt: skip
wrong(
    "step",
    "clip-by-largest-norm",
    "the global norm is the largest of the parameters' norms",
    (NORM, f"math.sqrt({SQUARES})",
     "max(ops.adamw.square_sum(grad) for _, grad in params.named(gradients)) ** 0.5"),
)  # fmt: skip
wrong(
    "step",
    "clip-norm-of-matrices",
    "the global norm leaves out biases and LayerNorms",
    (NORM, "in params.named(gradients))", "in params.named(gradients) if grad.ndim > 1)"),
)
wrong(
    "step",
    "clip-always",
    "gradients are always scaled to the limit, smaller ones too",
    (CLIP_SCALE, "min(1.0, max_norm / (norm + 1e-6))", "max_norm / (norm + 1e-6)"),
)
wrong(
    "step",
    "clip-per-micro-batch",
    "each micro-batch's gradient is clipped, not their sum",
    (
        ACCUMULATE,
        SHARE,
        f"""{SHARE}
        norm = schedule.global_norm(found, ops=ops)
        share *= schedule.clip_scale(norm, settings.grad_clip or np.inf)""",
    ),
    (CLIP, SCALE, "return 1.0"),
)
wrong(
    "step",
    "clip-sum-so-far",
    "the gradient so far is clipped after each micro-batch, not once after all",
    (
        ACCUMULATE,
        ADD,
        f"""{ADD}
        scale = clip(g, settings.grad_clip, ops=ops)
        for total in params.leaves(g):
            total *= scale""",
    ),
)
wrong(
    "step",
    "clip-norm-counts-tied-twice",
    "the global norm counts the tied wte twice, as embedding and as head",
    (NORM, f"math.sqrt({SQUARES})",
     f"math.sqrt(ops.adamw.square_sum(gradients.wte.weight) + {SQUARES})"),
)  # fmt: skip
for name, says, norm in (
    ("largest-number", "the largest number (norm_type=inf)",
     "max(float(abs(grad).max()) for _, grad in params.named(gradients))"),
    ("sum-of-numbers", "the sum of all numbers' sizes (norm_type=1)",
     "sum(float(abs(grad).sum()) for _, grad in params.named(gradients))"),
):  # fmt: skip
    wrong(
        "step",
        f"clip-by-{name}",
        f"the global norm is {says}",
        (NORM, f"math.sqrt({SQUARES})", norm),
    )
wrong(
    "step",
    "clip-norm-without-embeddings",
    "the global norm leaves out wte and wpe",
    (NORM, "for _, grad in params.named(gradients))",
     'for name, grad in params.named(gradients) if name[:3] not in ("wte", "wpe"))'),
)  # fmt: skip
wrong(
    "step",
    "clip-by-norm-alone",
    "gradients above the limit are divided by their norm plus the limit",
    (CLIP_SCALE, "min(1.0, max_norm / (norm + 1e-6))",
     "max_norm / (norm + max_norm) if norm > max_norm else 1.0"),
)  # fmt: skip
STEP = "optimizer.step(g, scale=scale)"
wrong(
    "step",
    "gradients-zeroed-before-step",
    "gradients are set to zero between backward and step",
    (TRAIN, STEP, f"zero(g)\n        {STEP}"),
)
wrong(
    "step",
    "parameters-of-before-the-step",
    "the parameters after k steps are those after k - 1",
    (TRAIN, f"{STEP}\n        yield p", f"yield p\n        {STEP}"),
)
wrong(
    "step",
    "first-step-without-lr",
    "the first step has a learning rate of 0: a warmup that counts from 0",
    (TRAIN, STEP, "optimizer.step(g, lr=settings.lr if optimizer.steps else 0.0, scale=scale)"),
)
wrong(
    "step",
    "two-steps-for-one",
    "each step is made twice with the same gradient",
    (TRAIN, STEP, f"{STEP}\n        {STEP}"),
)
