"""Mistakes in attention."""

from npgpt.parity.mistakes.mistake import Mistake
from npgpt.parity.port import Edit

PAGE = "docs/backprop/attention.md"
FORWARD, BACKWARD = "npgpt.ops.attention:forward", "npgpt.ops.attention:backward"

MISTAKES = (
    Mistake(
        "scores-not-scaled",
        "forward",
        "scores are not divided by sqrt(D)",
        PAGE,
        (
            Edit(FORWARD, "scores = q @ k.mT * D**-0.5", "scores = q @ k.mT"),
            Edit(BACKWARD, "keepdims=True)) * D**-0.5", "keepdims=True))"),
        ),
    ),
    Mistake(
        "softmax-backward-without-mean",
        "backward",
        "the backward of softmax lacks the sum over the row",
        PAGE,
        (
            Edit(
                BACKWARD,
                "probs * (dprobs - (dprobs * probs).sum(-1, keepdims=True))",
                "probs * dprobs",
            ),
        ),
    ),
)
