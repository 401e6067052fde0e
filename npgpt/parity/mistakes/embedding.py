"""Mistakes in the embedding."""

from npgpt.parity.mistakes.mistake import Mistake
from npgpt.parity.port import Edit

PAGE = "docs/backprop/embedding.md"
FORWARD, BACKWARD = "npgpt.ops.embedding:forward", "npgpt.ops.embedding:backward"

MISTAKES = (
    Mistake(
        "repeated-tokens-overwrite",
        "backward",
        "the gradient of wte keeps one of the rows of a repeated token",
        PAGE,
        (Edit(BACKWARD, "np.add.at(g.wte, tokens, dout)", "g.wte[tokens] += dout"),),
    ),
)
