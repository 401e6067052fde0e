"""Mistakes of the catalogue as ports combine them, tried where no entry explains everything.

A variant has the name and the page of its entry. By hand, the backward of the right op often stays
when forward is changed, or the other way round. A loader that reads columns in a wrong order keeps
its gradients in that order. A port with queries, keys and values apart has code of its own for
them, and so has decoding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from npgpt.parity.mistakes import (
    dropout,
    in_place,
    linear,
    loss,
    micro_batches,
    optimizer_state,
    optimizers,
    other_layers,
    precision,
    projections,
    residuals,
    training,
)
from npgpt.parity.mistakes.loading import LOADED
from npgpt.parity.mistakes.mistake import Mistake, Stage
from npgpt.parity.port import Edit

RIGHT_BACKWARD = ", and the backward is that of the right op"
RIGHT_FORWARD = ", in backward alone: forward is right"
RIGHT_GRADIENT = "; its gradient is right"
DECODING = ", where tokens are fed through the cache; the forward pass is right"
APART, PER_HEAD = ", with queries, keys and values apart", ", with each head apart"
OF_QKV = ", in those of queries, keys and values"
BUT_QKV = ", but for those of queries, keys and values"
IS_QKV = "p.weight.shape[1] == 3 * p.weight.shape[0]"
SKIP = """x, p = cache
    if {}:
        np.matmul(rows(x).T, rows(dout), out=g.weight)
        np.sum(rows(dout), 0, out=g.bias)
        return np.matmul(dout, p.weight.T, out=dx)
"""
SCALE = "scale = clip(g, settings.grad_clip, ops=ops)"
TENSORS = """tensors = [
            part for name, grad in params.named(g)
            for part in np.split(grad, {} if "c_attn" in name else 1, -1)
        ]
        norms = [ops.adamw.square_sum(part.copy()) ** 0.5 for part in tensors]
        limit = settings.grad_clip or np.inf
        """
CLIPS = {
    "clip-per-parameter": """for part, norm in zip(tensors, norms, strict=True):
            part *= schedule.clip_scale(norm, limit)
        scale = 1.0""",
    "clip-by-largest-norm": "scale = schedule.clip_scale(max(norms), limit)",
    "clip-by-sum-of-norms": "scale = schedule.clip_scale(sum(norms), limit)",
}
ORDER_APART = """names = [name for full, _ in params.named(p) for name in (
        [f"{full[:-6]}{kind}.{part}" for part in range(3) for kind in ("weight", "bias")]
        if full.endswith("c_attn.weight") else [] if full.endswith("c_attn.bias") else [full]
    )]"""
STEP_APART = (
    "names.index(name) + 1",
    "np.repeat([names.index(one) + 1 for one in names if one.startswith(name)], "
    "rest[0].shape[-1] // sum(one.startswith(name) for one in names))",
)
NORMS_LAST = """
    names.sort(key=lambda name: (
        (1, int(name.split(".")[1]), "ln_" in name) if name[:2] == "h." else (2 * ("ln_f" in name),)
    ))"""
NAMES = "names = [name for name, _ in params.named(p)]"

# name of the entry, the end of its line, and edits: function, right text, wrong text
OTHERS: tuple[tuple[Any, ...], ...] = (
    *(
        (name, end, (training.TRAIN, SCALE, TENSORS.format(parts) + text))
        for name, text in CLIPS.items()
        for end, parts in ((APART, "3"), (PER_HEAD, "3 * config.n_head"))
    ),
    *(
        (
            "adam-step-per-parameter",
            end,
            (optimizers.MAKE, optimizers.MADE, text),
        )
        for end, text in (
            (", LayerNorms last", optimizers.STEPS.replace(NAMES, NAMES + NORMS_LAST)),
            (APART, optimizers.STEPS.replace(NAMES, ORDER_APART).replace(*STEP_APART)),
            (
                f"{APART}, LayerNorms last",
                optimizers.STEPS.replace(NAMES, ORDER_APART + NORMS_LAST).replace(*STEP_APART),
            ),
        )
    ),
    *(
        (
            "accumulation-of-last-only",
            end,
            (training.ACCUMULATE, training.SHARE, f"share = {share}"),
            (training.ACCUMULATE, training.ADD, "total[:] = share * grad"),
        )
        for end, share in (
            (", with its own mean", "1.0"),
            (", with its own mean divided by their number", "1 / settings.accumulation"),
        )
    ),
    (
        "gradients-not-zeroed",
        ", which the clipping has scaled in place",
        (training.TRAIN, "        zero(g)\n", ""),
        (
            training.TRAIN,
            "optimizer.step(g, scale=scale)",
            "for grad in params.leaves(g):\n            grad *= scale\n"
            "        optimizer.step(g, scale=1.0)",
        ),
    ),
    (
        "step-per-micro-batch",
        ", with its share of the gradient",
        (
            training.TRAIN,
            training.ONE_STEP,
            training.STEP_PER_PART.replace(
                "            optimizer.step(",
                "            share = np.count_nonzero(targets[part] != IGNORED)\n"
                "            for grad in params.leaves(g):\n"
                "                grad *= share / np.count_nonzero(targets != IGNORED)\n"
                "            optimizer.step(",
            ),
        ),
    ),
    (
        "loss-mean-including-ignored",
        RIGHT_GRADIENT,
        (loss.FORWARD, loss.SOME, f"{loss.SOME}\n        value *= x.dtype.type(counts.mean())"),
    ),
    *(
        (
            f"loss-sum-over-{size}",
            RIGHT_GRADIENT,
            (
                loss.FORWARD,
                "x_rows, targets = rows(x)",
                loss.SCALED.format(number, "x.dtype.type(1)", " * scale", "x.dtype.type(1)"),
            ),
        )
        for size, _, number in loss.SIZES
    ),
    (
        "loss-mean-of-rows",
        RIGHT_GRADIENT,
        (
            loss.FORWARD,
            "x_rows, targets = rows(x)",
            """if x.ndim == 3 and len(x) > 1:
        parts = zip(x, targets, strict=True)
        found = [forward(a[None], weight, b[None], frozen=True)[0] for a, b in parts]
        some = rows(x), weight, targets.ravel()
        _, cache = forward(*some, dweight=dweight, frozen=frozen)
        return x.dtype.type(np.mean(found)), cache._replace(dx=cache.dx.reshape(x.shape))
    x_rows, targets = rows(x)""",
        ),
    ),
    *(
        (f"w{one}-gradient-{kind}", f": of its {leaf} alone", projections.gradients(text, (leaf,)))
        for leaf in ("weight", "bias")
        for one in "qkv"
        for kind, text in (
            ("missing", f"g{one}[:] = 0"),
            *((f"of-d{other}", f"g{one}[:] = g{other}") for other in "qkv" if other != one),
        )
    ),
    (
        "last-block-in-all-places",
        ", in a module that has the name of the first",
        *other_layers.SHARED,
    ),
    (
        "mask-hides-own-position",
        ": the first one sees none, and is nan",
        (precision.ATTENTION, "np.tri(T, S, S - T,", "np.tri(T, S, S - T - 1,"),
    ),
    (
        "matmul-in-float16",
        ", and so are their results, but for queries, keys and values; backward is in float32",
        (
            linear.FORWARD,
            "out = np.matmul(x, p.weight, out=out)",
            f"{precision.FLOAT16}half = lambda a: a if {IS_QKV} else low(a)\n"
            "    out = half(np.matmul(half(x), half(p.weight), out=out))",
        ),
    ),
)


def variants_of(mistakes: Sequence[Mistake]) -> tuple[Mistake, ...]:
    """Return the variants of a catalogue."""
    by_name = {one.name: one for one in mistakes}
    others = [
        replace(by_name[name], says=by_name[name].says + more, edits=tuple(Edit(*e) for e in edits))
        for name, more, *edits in (
            *LOADED,
            *OTHERS,
            *residuals.AGAIN,
            *dropout.OTHER_RATES,
            *optimizer_state.OTHERS,
            *micro_batches.others(),
        )
    ]
    overwritten = [
        replace(by_name[name], stage="forward", says=by_name[name].says + more,
                edits=tuple(Edit(*e) for e in edits), overwrites=layers)
        for name, more, layers, *edits in in_place.OVERWRITTEN
    ]  # fmt: skip
    return (
        *others,
        *overwritten,
        *in_part(mistakes, RIGHT_BACKWARD, backward=False),
        *in_part(mistakes, RIGHT_FORWARD, backward=True),
        *of_some_layers(mistakes),
        *of_one_leaf(mistakes),
        *in_decoding(mistakes),
    )


def in_part(mistakes: Sequence[Mistake], end: str, *, backward: bool) -> Iterator[Mistake]:
    """Yield the mistakes of forward and loss in backward alone, or without a fitting backward."""
    for one in mistakes:
        kept = tuple(edit for edit in one.edits if is_of_backward(edit) == backward)
        if one.stage in ("forward", "loss") and () != kept != one.edits:
            stage: Stage = "backward" if backward else one.stage
            yield replace(one, stage=stage, says=one.says + end, edits=kept)


def is_of_backward(edit: Edit) -> bool:
    """Return True for an edit in a backward function, or of the gradient that the loss computes."""
    gradient = edit.where == "npgpt.ops.linear_cross_entropy:forward" and "dlogits" in edit.right
    return edit.where.endswith("backward") or gradient


def of_some_layers(mistakes: Sequence[Mistake]) -> Iterator[Mistake]:
    """Yield the mistakes in gradients of linear layers in some of these layers alone."""
    for one in mistakes:
        if one.page == linear.page.page and one.stage == "backward":
            for end, others in ((OF_QKV, f"not {IS_QKV}"), (BUT_QKV, IS_QKV)):
                skip = Edit(linear.BACKWARD, "x, p = cache\n", SKIP.format(others))
                yield replace(one, says=one.says + end, edits=(*one.edits, skip))


def of_one_leaf(mistakes: Sequence[Mistake]) -> Iterator[Mistake]:
    """Yield the mistakes in the gradients of LayerNorm's weight and bias, in one of the two."""
    for one in mistakes:
        if one.name.startswith("layernorm-gradients-") and len(one.edits) == 2:
            for leaf, edit in zip(("bias", "weight"), one.edits, strict=True):
                yield replace(one, says=f"{one.says}; that of its {leaf} is right", edits=(edit,))


def in_decoding(mistakes: Sequence[Mistake]) -> Iterator[Mistake]:
    """Yield the mistakes of the forward pass in the loop that decodes alone."""
    for one in mistakes:
        kept = tuple(edit for edit in one.edits if not is_of_backward(edit))
        tied = any(edit.where.endswith(":tie") for edit in kept)
        if one.stage == "forward" and one.smooth and not tied:  # budgets of rounding are wide
            decoding = tuple(replace(edit, in_decoding=True) for edit in kept)
            yield replace(one, stage="cache", says=one.says + DECODING, edits=decoding)
