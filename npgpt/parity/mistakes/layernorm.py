"""Mistakes in LayerNorm."""

from npgpt.parity.mistakes.mistake import Mistake
from npgpt.parity.port import Edit

PAGE = "docs/backprop/layernorm.md"
FORWARD, BACKWARD = "npgpt.ops.layernorm:forward", "npgpt.ops.layernorm:backward"

MISTAKES = (
    Mistake(
        "layernorm-dx-without-mean-path",
        "backward",
        "dx of LayerNorm lacks the path through the mean",
        PAGE,
        (Edit(BACKWARD, "dnorm - via_mean - via_rstd", "dnorm - via_rstd"),),
    ),
    Mistake(
        "layernorm-dx-without-rstd-path",
        "backward",
        "dx of LayerNorm lacks the path through the standard deviation",
        PAGE,
        (Edit(BACKWARD, "dnorm - via_mean - via_rstd", "dnorm - via_mean"),),
    ),
)
