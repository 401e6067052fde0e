"""The number of steps, and two numbers of each: learning rate, and clipping of the gradient."""

import math

from npgpt import backends
from npgpt.backends import Backend
from npgpt.config import TrainingConfig
from npgpt.errors import InputError, show
from npgpt.model import params
from npgpt.model.inputs import check_integer, check_number
from npgpt.model.params import Params
from npgpt.model.quantize import require_float
from npgpt.model.trainable import trained


def global_norm(gradients: Params, *, ops: Backend | str | None = None) -> float:
    """Return the Euclidean norm of all gradients as one vector.

    Parameters
    ----------
    gradients : Params
        The tree of gradients, as `loss_and_gradients` returns it.
    ops : Backend or str or None, default None
        The backend. None: npgpt.fused.

    Returns
    -------
    float
        nan or inf if a gradient is.

    Raises
    ------
    InputError
        If `gradients` is not a tree like `model.params`.

    Source
    ------
    The return value of torch.nn.utils.clip_grad_norm_.
    """
    if not isinstance(gradients, Params):
        raise InputError(f"gradients must be a tree like model.params, not {show(gradients)}")
    require_float(gradients)
    gradients = trained(gradients)
    if ops is None or not hasattr(ops, "adamw"):
        ops = backends.get(ops)
    return math.sqrt(sum(ops.adamw.square_sum(grad) for _, grad in params.named(gradients)))


def clip_scale(norm: float, max_norm: float) -> float:
    """Return the factor that scales gradients of this norm to at most `max_norm`.

    As torch.nn.utils.clip_grad_norm_, including the 1e-6 that avoids a division by zero.
    """
    return min(1.0, max_norm / (norm + 1e-6))


def clip_gradients(
    gradients: Params, max_norm: float, *, ops: Backend | str | None = None
) -> float:
    """Scale gradients in place to a global norm of at most `max_norm`; return the norm before.

    `optimizer.step(gradients, scale=...)` does the same without a pass of its own.

    Parameters
    ----------
    gradients : Params
        The tree of gradients, as `loss_and_gradients` returns it.
    max_norm : float
        The largest norm allowed, above 0.
    ops : Backend or str or None, default None
        The backend that adds up the squares. None: npgpt.fused.

    Returns
    -------
    float
        The norm before clipping; nan or inf if a gradient is.

    Raises
    ------
    InputError
        If an argument is invalid.

    Source
    ------
    torch.nn.utils.clip_grad_norm_.
    """
    if (limit := check_number("max_norm", max_norm)) <= 0:
        raise InputError(f"max_norm is {max_norm}, but must be above 0")
    norm = global_norm(gradients, ops=ops)
    if (scale := clip_scale(norm, limit)) < 1:
        for _, gradient in params.named(trained(gradients)):
            gradient *= gradient.dtype.type(scale)
    return norm


def learning_rate(
    step: int, *, total: int, warmup: int, peak: float, initial: float, lowest: float
) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine.

    Parameters
    ----------
    step : int
        The step, counted from 0. After the end of the run, the rate stays that of the end.
    total : int
        The number of steps of the run.
    warmup : int
        Steps over which the rate rises linearly from `initial` to `peak`.
    peak : float
        The largest rate.
    initial : float
        The rate of the first step, if there is a warm-up.
    lowest : float
        The rate at the end. If it equals `peak`, the rate stays constant after the warm-up.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If an argument is not a finite number, or a count not an integer of at least 0.

    Source
    ------
    The book, appendix D.
    """
    for name, count in (("step", step), ("total", total), ("warmup", warmup)):
        check_number(name, check_integer(name, count, least=0))
    for name, rate in (("peak", peak), ("initial", initial), ("lowest", lowest)):
        check_number(name, rate)
    step = min(step, total)
    if step < warmup:
        return initial + step * (peak - initial) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return lowest + (peak - lowest) * 0.5 * (1 + math.cos(math.pi * progress))


def rate_of_step(training: TrainingConfig, step: int, total: int) -> float:
    """Return the learning rate of `step` in a run of `total` steps, and after its end the last."""
    return learning_rate(
        step,
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
