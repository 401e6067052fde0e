"""What turns gradients into a step: AdamW, clipping to a global norm, the learning-rate curve."""

import math
from collections.abc import Callable

from npgpt import backends
from npgpt.arrays import Array
from npgpt.model import params, quantize


def every(name: str, array: Array) -> bool:
    """Weight decay on all parameters, as torch.optim.AdamW does and the book."""
    return True


def matrices(name: str, array: Array) -> bool:
    """Weight decay on what has two dimensions; biases and LayerNorms are left alone."""
    return array.ndim >= 2


DECAYS = {"all": every, "matrices": matrices}


class AdamW:
    """torch.optim.AdamW, in place on a tree of parameters. The maths is in npgpt/ops/adamw.py.

    `parameters`: `model.params`. `lr` is the default learning rate, `betas` and `eps` are the
    paper's; `weight_decay` is the share (times lr) that a parameter loses each step where `decays`
    says so. `m`, `v`: the moments, the same tree; `steps`: how many were made.
    """

    def __init__(
        self,
        parameters: params.Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        decays: Callable[[str, Array], bool] = every,
        ops=None,
    ):
        quantize.require_float(parameters)
        self.parameters, self.lr, self.betas, self.eps = parameters, lr, betas, eps
        self.weight_decay, self.decays, self.ops = weight_decay, decays, backends.get(ops)
        self.m, self.v = params.zeros_like(parameters), params.zeros_like(parameters)
        self.steps = 0

    def step(self, gradients: params.Params, *, lr: float | None = None, scale: float = 1.0):
        """One step along `gradients` * `scale`; the gradients (the same tree) are only read."""
        self.steps += 1
        trees = self.parameters, gradients, self.m, self.v
        for leaves in zip(*map(params.named, trees), strict=True):
            name, p = leaves[0]
            self.ops.adamw.update(
                p,
                *(array for _, array in leaves[1:]),
                step=self.steps,
                lr=self.lr if lr is None else lr,
                betas=self.betas,
                eps=self.eps,
                weight_decay=self.weight_decay if self.decays(name, p) else 0.0,
                scale=scale,
            )


def global_norm(gradients: params.Params, *, ops) -> float:
    """The Euclidean norm of all gradients taken as one vector."""
    return math.sqrt(sum(ops.adamw.square_sum(grad) for _, grad in params.named(gradients)))


def clip_scale(norm: float, max_norm: float) -> float:
    """What to multiply gradients of this norm with, so that it is at most `max_norm`.

    As torch.nn.utils.clip_grad_norm_, its 1e-6 against a division by zero included.
    """
    return min(1.0, max_norm / (norm + 1e-6))


def learning_rate(
    step: int, *, total: int, warmup: int, peak: float, initial: float, lowest: float
) -> float:
    """The learning rate of `step`, counted from 0, out of `total`: appendix D of the book.

    Linear from `initial` to `peak` over `warmup` steps, then down to `lowest` along a cosine. With
    `lowest` equal to `peak` it stays there.
    """
    if step < warmup:
        return initial + step * (peak - initial) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return lowest + (peak - lowest) * 0.5 * (1 + math.cos(math.pi * progress))
