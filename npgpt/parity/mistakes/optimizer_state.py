"""Mistakes in what an optimizer keeps from step to step: moments, and the learning rate."""

from npgpt.parity.mistakes.mistake import Page
from npgpt.parity.mistakes.optimizers import ADAM, ADAMW, DENOMINATOR, MADE, MAKE, STEP, M, V
from npgpt.parity.mistakes.training import STEP as CALL
from npgpt.parity.mistakes.training import TRAIN

page = Page("docs/backprop/optimizers.md")
wrong = page.add

SCALED = "if scale != 1.0:"
RAW = (SCALED, f"raw = grad\n    {SCALED}")
LARGEST = """largest = vars(update)  # by moment
    largest[id(v)] = np.maximum(v, largest[id(v)] if step > 1 else 0)
    denominator = np.sqrt(largest[id(v)]{}) / (1 - beta2**step) ** 0.5 + eps"""

# of AdamW and Adam: name, line, edits
for name, says, *edits in (
    ("adam-second-moment-not-clipped",
     "Adam's second moment is of the gradient before clipping",
     RAW, (V, V.replace("grad * grad", "raw * raw"))),
    ("adam-first-moment-not-clipped",
     "Adam's first moment is of the gradient before clipping",
     RAW, (M, M.replace("grad -", "raw -"))),
    ("adam-amsgrad", "Adam divides by the largest second moment so far (amsgrad)",
     (DENOMINATOR, LARGEST.format(""))),
    ("adam-max-of-gradient", "Adam divides by the largest gradient, decayed by beta2 (Adamax)",
     (f"v *= beta2\n    {V}\n    {DENOMINATOR}",
      "np.maximum(beta2 * v, np.abs(grad), out=v)\n    denominator = v + eps")),
    ("adam-first-beta-of-step-times",
     "the correction of Adam's first moment is 1 - beta1 * step, not 1 - beta1^step",
     (STEP, "p -= lr / (1 - beta1 * step) * (m / denominator)")),
    ("adam-second-beta-of-step-times",
     "the correction of Adam's second moment is |1 - beta2 * step|, not 1 - beta2^step",
     (DENOMINATOR, "denominator = np.sqrt(v) / abs(1 - beta2 * step) ** 0.5 + eps")),
    ("adam-betas-to-the-step-before",
     "the second correction of Adam is 1 - beta2^(step + 1), the first 1 - beta1^step",
     (DENOMINATOR, "denominator = np.sqrt(v) / (1 - beta2 ** (step + 1)) ** 0.5 + eps")),
):  # fmt: skip
    wrong("step", name, says, *((op, *edit) for op in (ADAMW, ADAM) for edit in edits))
SHARED = """optimizer = optim.make(p, training, ops=ops)
    right, kept = optimizer._update, {{}}

    def update(name, p, grad, *moments, **numbers):
        moments = kept.setdefault({key}, moments)
        right(name, p, grad, *moments, **numbers)

    optimizer._update = update
    return optimizer"""
for name, says, key in (
    ("layer", "all blocks have the moments of the first: they are kept by names without its number",
     'name.split(".", 2)[2] if name[:2] == "h." else name'),
    ("shape", "parameters of the same shape share their moments", "p.shape"),
):  # fmt: skip
    wrong(
        "step",
        f"moments-shared-by-{name}",
        says,
        (MAKE, MADE, SHARED.format(key=key)),
    )

K = "optimizer.steps"  # steps made so far
RATES = {  # of a schedule that is left on, by its length n: name, line, factor of lr
    "warmup-left-on": ("a warmup is left on: lr k / n in step k", f"({K} + 1) / {{n}}"),
    "warmup-from-0-left-on": ("a warmup is left on: lr (k - 1) / n in step k", f"{K} / {{n}}"),
    "cosine-left-on": (
        "a cosine schedule is left on: lr (1 + cos(pi (k - 1) / n)) / 2 in step k",
        f"(1 + np.cos(np.pi * {K} / {{n}})) / 2",
    ),
    "linear-decay-left-on": (
        "a linear schedule is left on: lr (1 - (k - 1) / n) in step k",
        f"max(0.0, 1 - {K} / {{n}})",
    ),
}
LENGTH = 10  # of the catalogue's entries


def rate(factor: str) -> tuple[str, str, str]:
    """Return the edit that multiplies the learning rate with a factor."""
    return TRAIN, CALL, CALL.replace("scale=scale", f"lr=settings.lr * ({factor}), scale=scale")


for name, (says, factor) in RATES.items():
    wrong("step", name, f"{says}; n = {LENGTH}", rate(factor.format(n=LENGTH)))
for name, says, factor in (
    ("inverse-root-decay", "the learning rate falls as 1 / sqrt(k)", f"({K} + 1) ** -0.5"),
    ("inverse-decay", "the learning rate falls as 1 / k", f"1 / ({K} + 1)"),
    ("lr-halved", "the learning rate is halved", "0.5"),
    ("lr-doubled", "the learning rate is doubled", "2.0"),
    ("lr-times-ten", "the learning rate is ten times the one given", "10.0"),
):
    wrong("step", name, says, rate(factor))
# name of the entry, the end of its line, and the edit: schedules of other lengths
OTHERS = tuple(
    (name, f", but {n}", rate(factor.format(n=n)))
    for name, (_, factor) in RATES.items()
    for n in (2, 3, 4, 5, 20, 50, 100, 200, 500, 1000, 2000)
)
