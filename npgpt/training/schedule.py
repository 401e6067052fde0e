"""The number of steps, and two numbers of each: learning rate, and factor of the gradient."""

import math

from npgpt.backends import Backend
from npgpt.config import TrainingConfig
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


def rate_of_step(training: TrainingConfig, step: int, total: int) -> float:
    """Return the learning rate of `step` in a run of `total` steps, and after its end the last."""
    return learning_rate(
        min(step, total),
        total=total,
        warmup=training.warmup_steps,
        peak=training.lr,
        initial=training.initial_lr,
        lowest=training.lr if training.min_lr is None else training.min_lr,
    )


def count_steps(training: TrainingConfig, per_epoch: int, tokens: int) -> int:
    """Return the number of steps of a run, of `tokens` tokens each and `per_epoch` an epoch."""
    if training.max_tokens is not None:
        return -(-training.max_tokens // tokens)
    return training.epochs * per_epoch if training.steps is None else training.steps
