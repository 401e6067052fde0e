"""The two numbers of a step: its learning rate, and the factor that clips its gradient."""

import math

from npgpt.backends import Backend
from npgpt.model import params
from npgpt.model.params import Params


def global_norm(gradients: Params, *, ops: Backend) -> float:
    """Return the Euclidean norm of all gradients as one vector."""
    return math.sqrt(sum(ops.adamw.square_sum(grad) for _, grad in params.named(gradients)))


def clip_scale(norm: float, max_norm: float) -> float:
    """Return the factor that scales gradients of this norm to at most `max_norm`.

    As torch.nn.utils.clip_grad_norm_, including the 1e-6 that avoids a division by zero.
    """
    return min(1.0, max_norm / (norm + 1e-6))


def learning_rate(
    step: int, *, total: int, warmup: int, peak: float, initial: float, lowest: float
) -> float:
    """Return the learning rate of `step`, counted from 0, out of `total`.

    Linear from `initial` to `peak` over `warmup` steps, then along a cosine down to `lowest`. If
    `lowest` equals `peak`, it stays constant. Source: the book, appendix D.
    """
    if step < warmup:
        return initial + step * (peak - initial) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return lowest + (peak - lowest) * 0.5 * (1 + math.cos(math.pi * progress))
