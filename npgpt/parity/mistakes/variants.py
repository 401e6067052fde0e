"""Mistakes of the catalogue as ports combine them, tried where no entry explains everything.

A variant has the name and the page of its entry. By hand, the backward of the right op often stays
when forward is changed. A loader that reads columns in a wrong order keeps its gradients in that
order. A port with queries, keys and values apart has code of its own for them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from npgpt.parity.mistakes import linear, precision, training
from npgpt.parity.mistakes.loading import LOADED
from npgpt.parity.mistakes.mistake import Mistake
from npgpt.parity.port import Edit

RIGHT_BACKWARD = ", and the backward is that of the right op"
LOADING = ": so they were loaded"
APART = ", with queries, keys and values apart"
IS_QKV = "p.weight.shape[1] == 3 * p.weight.shape[0]"

# name of the entry, the end of its line, and edits: function, right text, wrong text
OTHERS = (
    (
        "clip-per-parameter",
        APART,
        (
            training.CLIP,
            training.SCALE,
            """for name, grad in params.named(g):
        for part in np.split(grad, 3 if "c_attn" in name else 1, -1):
            part *= schedule.clip_scale(ops.adamw.square_sum(part.copy()) ** 0.5, max_norm)
    return 1.0""",
        ),
    ),
    (
        "clip-by-largest-norm",
        APART,
        (
            training.NORM,
            f"math.sqrt({training.SQUARES})",
            "max(ops.adamw.square_sum(part.copy()) for name, grad in params.named(gradients) "
            'for part in (grad.T.reshape(3, -1) if "c_attn" in name else [grad])) ** 0.5',
        ),
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
        "bias-gradient-averaged",
        ", but for those of queries, keys and values",
        (
            linear.BACKWARD,
            linear.DBIAS,
            f"(np.sum if {IS_QKV} else np.mean)(rows(dout), 0, out=g.bias)",
        ),
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


def forward_alone(mistakes: Sequence[Mistake]) -> Iterator[Mistake]:
    """Yield the mistakes of forward and loss without the edits that fit backward to them."""
    for one in mistakes:
        kept = tuple(edit for edit in one.edits if not is_of_backward(edit))
        if one.stage in ("forward", "loss") and () != kept != one.edits:
            yield replace(one, says=one.says + RIGHT_BACKWARD, edits=kept)


def is_of_backward(edit: Edit) -> bool:
    """Return True for an edit in a backward function, or of the gradient that the loss computes."""
    gradient = edit.where == "npgpt.ops.linear_cross_entropy:forward" and "dlogits" in edit.right
    return edit.where.endswith("backward") or gradient


def variants_of(mistakes: Sequence[Mistake]) -> tuple[Mistake, ...]:
    """Return the variants of a catalogue."""
    by_name = {one.name: one for one in mistakes}
    loaded = [
        replace(by_name[name], says=by_name[name].says + LOADING, edits=(Edit(*edit),))
        for name, edit in LOADED.items()
    ]
    others = [
        replace(by_name[name], says=by_name[name].says + more, edits=tuple(Edit(*e) for e in edits))
        for name, more, *edits in OTHERS
    ]
    return (*loaded, *forward_alone(mistakes), *others)
