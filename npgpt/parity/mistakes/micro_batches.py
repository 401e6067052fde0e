"""Mistakes of gradient accumulation in the loss and the gradients that a port dumps.

A port may compute its loss and its gradients by micro-batches too, not only its steps. `ENTRIES`
have one row in each. Those of several rows, and other combinations, are `OTHERS`.
"""

from collections.abc import Iterator
from typing import Any

from npgpt.parity.mistakes import embedding, layernorm, linear, training
from npgpt.parity.mistakes.loss import FORWARD
from npgpt.parity.mistakes.mistake import Page

page = Page("docs/backprop/training.md")
wrong = page.add

TARGETS = "x_rows, targets = rows(x)"
PARTS = """if x.ndim == 3 and len(x) > 1:
        value, dx, dw, n = {start}, np.empty_like(x), 0.0, {n}
        for part in np.array_split(np.arange(len(x)), n):
            own = targets[part].ravel()
            mean, cache = forward(rows(x[part]), weight, own, frozen=frozen)
            counts, of_all = (np.count_nonzero(a != IGNORED) for a in (own, targets))
            share, first, last = counts / of_all, part[0] == 0, part[-1] == len(x) - 1
            value += {value} * mean
            dx[part] = {grad} * cache.dx.reshape(x[part].shape)
            dw += 0 if frozen else {kept} * cache.dweight
        return x.dtype.type(value), Cache(dx, None if frozen else into(dweight, dw))
    x_rows, targets = rows(x)"""
ONE = (training.ACCUMULATE, training.PARTS, "[np.arange(len(tokens))]:")  # the steps' loss is this

PREFIX = "accumulated-"  # of the entries' names
RIGHT = "share"
FACTORS = {  # of a micro-batch's mean, by the end of a name, with the end of a line
    "summed": ("1.0", "are the sum of the micro-batches' means"),
    "averaged": ("1 / n", "are the mean of the micro-batches' means"),
    "divided-again": ("share / n", "are divided by the number of micro-batches once more"),
    "averaged-again": ("1 / n**2", "are the mean of the micro-batches' means, divided by their "
                       "number"),
    "of-last": ("last * 1.0", "are those of the last micro-batch alone"),
    "of-last-share": ("last * share", "are the last micro-batch's share alone"),
    "of-last-divided": ("last / n", "are those of the last micro-batch alone, divided by their "
                        "number"),
    "of-first": ("first * 1.0", "are those of the first micro-batch alone"),
    "of-first-share": ("first * share", "are the first micro-batch's share alone"),
    "of-first-divided": ("first / n", "are those of the first micro-batch alone, divided by their "
                         "number"),
}  # fmt: skip
ROWS = "len(x)"  # micro-batches: one for each row


def accumulated(value: str, grad: str, kept: str = "", n: str = ROWS) -> list[tuple[str, str, str]]:
    """Return the edits by which a mean of each micro-batch has a factor, in loss and gradient.

    `kept`: of the gradients of parameters, if those of activations have another one.
    """
    start = "evaluate(x, weight, targets)" if value == RIGHT else "0.0"
    value = "0" if value == RIGHT else value
    text = PARTS.format(start=start, value=value, grad=grad, kept=kept or grad, n=n)
    return [(FORWARD, TARGETS, text), ONE]


def alone(of: str) -> list[tuple[str, str, str]]:
    """Return the edits by which parameters have the gradient of a slice of the rows alone."""
    return [
        (linear.BACKWARD, "(rows(x).T, rows(dout),", f"(rows(x[{of}]).T, rows(dout[{of}]),"),
        (linear.BACKWARD, "np.sum(rows(dout), 0", f"np.sum(rows(dout[{of}]), 0"),
        (layernorm.BACKWARD, "rows(dout * norm)", f"rows((dout * norm)[{of}])"),
        (layernorm.BACKWARD, "rows(dout).sum", f"rows(dout[{of}]).sum"),
        (embedding.BACKWARD, embedding.ADD, f"np.add.at(g.wte, tokens[{of}], dout[{of}])"),
        (embedding.BACKWARD, embedding.DWPE, f"g.wpe[:T] = dout[{of}].sum(0)"),
    ]


ALONE = {  # factors with which a micro-batch's gradients replace those before
    "of-last-share": ("last", RIGHT), "of-last": ("last", "1.0"),
    "of-last-divided": ("last", "1 / n"),
    "of-first-share": ("first", RIGHT), "of-first": ("first", "1.0"),
    "of-first-divided": ("first", "1 / n"),
}  # fmt: skip
HALVES, TWO = "2", ", with two micro-batches"
SLICES = {  # of the rows of a micro-batch
    ("last", ROWS): "-1:", ("first", ROWS): ":1",
    ("last", HALVES): "-(len(dout) // 2) :", ("first", HALVES): ": (len(dout) + 1) // 2",
}  # fmt: skip

for name, (factor, says) in FACTORS.items():
    if name != "averaged":  # which is loss-mean-of-rows
        wrong(
            "loss",
            f"accumulated-loss-{name}",
            f"loss and gradients {says}",
            *accumulated(factor, factor),
        )
    wrong(
        "backward",
        f"accumulated-gradient-{name}",
        f"the gradients {says}",
        *accumulated(RIGHT, factor),
    )
LOSSES = {
    "summed": "the loss is a sum of means",
    "averaged": "the loss is the mean of means",
    "divided-again": "the loss is divided once more",
    "of-last": "the loss is the last micro-batch's",
    "of-last-share": "the loss is the last micro-batch's share",
    "of-last-divided": "the loss is the last micro-batch's, divided by their number",
}


def others() -> Iterator[tuple[Any, ...]]:
    """Yield name, end of the line and edits of other combinations: see variants.OTHERS."""
    for n, end in ((ROWS, ""), (HALVES, TWO)):
        for name, (factor, _) in FACTORS.items():
            entry = f"accumulated-gradient-{name}"
            if n == HALVES:
                yield entry, end, *accumulated(RIGHT, factor, n=n)
                both = "loss-mean-of-rows" if name == "averaged" else f"accumulated-loss-{name}"
                yield both, end, *accumulated(factor, factor, n=n)
            for loss, says in LOSSES.items():
                if loss != name:
                    value = FACTORS[loss][0]
                    yield entry, f", and {says}{end}", *accumulated(value, factor, n=n)
        for name, (which, factor) in ALONE.items():
            for loss, says in (("", ""), *LOSSES.items()):
                value = FACTORS[loss][0] if loss else RIGHT
                yield (
                    f"accumulated-gradient-{name}",
                    f"; those of activations are of all{says and ', and '}{says}{end}",
                    *accumulated(value, factor, f"{which} * {factor}", n),
                    *alone(SLICES[which, n]),
                )
        for loss in LOSSES:
            if loss != "averaged":
                yield (
                    f"accumulated-loss-{loss}",
                    f": the loss alone, and the gradients are right{end}",
                    *accumulated(FACTORS[loss][0], RIGHT, n=n),
                )
