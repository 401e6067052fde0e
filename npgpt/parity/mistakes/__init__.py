"""The catalogue of known mistakes in ports of GPT-2."""

from npgpt.parity.mistakes import attention, embedding, layernorm
from npgpt.parity.mistakes.mistake import Mistake

MISTAKES: tuple[Mistake, ...] = (
    *embedding.MISTAKES,
    *layernorm.MISTAKES,
    *attention.MISTAKES,
)

__all__ = ["MISTAKES", "Mistake"]
