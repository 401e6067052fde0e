"""AdamW, clipping to a global norm, and the learning-rate schedule."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from npgpt import backends
from npgpt.arrays import Array
from npgpt.backends import Backend
from npgpt.errors import InputError, show
from npgpt.model import params, quantize
from npgpt.model.gradients import check_gradients
from npgpt.model.inputs import check_number
from npgpt.model.params import Params


def every(name: str, array: Array) -> bool:
    """Decay all parameters, as torch.optim.AdamW and the book do."""
    return True


def matrices(name: str, array: Array) -> bool:
    """Decay parameters with two dimensions: neither biases nor LayerNorms."""
    return array.ndim >= 2


DECAYS = {"all": every, "matrices": matrices}
NUMBERS = "steps", "lr", "beta1", "beta2", "eps", "weight_decay"  # of an optimizer's state


class AdamW:
    """The AdamW optimizer, in place on a tree of parameters: torch.optim.AdamW.

    Parameters
    ----------
    parameters : Params
        `model.params`.
    lr : float, default 1e-3
        Learning rate.
    betas : (float, float), default (0.9, 0.999)
        Decay rates of the two moments, in [0, 1).
    eps : float, default 1e-8
        Added to the denominator.
    weight_decay : float, default 0.01
        Fraction of a parameter, times `lr`, that is subtracted in each step.
    decays : callable, default all parameters
        `decays(name, array)` returns True for parameters with weight decay.
    ops : Backend or str or None, default None
        The backend. None: npgpt.fused.

    Attributes
    ----------
    m, v : Params
        First and second moments, the same tree as `parameters`.
    steps : int
        Number of steps made.

    Raises
    ------
    InputError
        If an argument is invalid, or the parameters are quantized.
    """

    def __init__(
        self,
        parameters: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        decays: Callable[[str, Array], bool] = every,
        ops: Backend | str | None = None,
    ):
        if not isinstance(parameters, Params):
            raise InputError(f"parameters must be model.params, not {show(parameters)}")
        quantize.require_float(parameters)
        if not callable(decays):
            raise InputError(f"decays is {show(decays)}, but must be a function of name and array")
        self.parameters, self.decays, self.ops = parameters, decays, backends.get(ops)
        self._set(lr, betas, eps, weight_decay)
        self.m, self.v = params.zeros_like(parameters), params.zeros_like(parameters)
        self._named = list(params.named(parameters))
        self.steps = 0

    def _set(self, lr: Any, betas: Any, eps: Any, weight_decay: Any) -> None:
        lr, eps = check_number("lr", lr, least=0), check_number("eps", eps, least=0)
        weight_decay = check_number("weight_decay", weight_decay, least=0)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise InputError(f"betas is {show(betas)}, but must be two numbers")
        for beta in betas:
            if check_number("a number in betas", beta, least=0) >= 1:
                raise InputError(f"betas is {show(betas)}, but both must be in [0, 1)")
        self.lr, self.betas, self.eps = lr, (float(betas[0]), float(betas[1])), eps
        self.weight_decay = weight_decay

    def __repr__(self) -> str:
        return (
            f"AdamW(lr={self.lr:g}, betas={self.betas}, eps={self.eps:g}, "
            f"weight_decay={self.weight_decay:g}, steps={self.steps}, "
            f"{backends.name_of(self.ops)})"
        )

    def __reduce__(self) -> tuple:
        # for copy and pickle: with its model in one call, both share the copied parameters
        make = partial(type(self), decays=self.decays, ops=backends.key_of(self.ops))
        arguments = self.parameters, self.lr, self.betas, self.eps, self.weight_decay
        return make, arguments, {"m": self.m, "v": self.v, "steps": self.steps}

    def step(self, gradients: Params, *, lr: float | None = None, scale: float = 1.0) -> None:
        """Update the parameters and the moments. The gradients are only read.

        Parameters
        ----------
        gradients : Params
            The same tree as the parameters.
        lr : float or None, default None
            Learning rate of this step. None: `self.lr`.
        scale : float, default 1.0
            Factor of the gradients, for clipping.

        Raises
        ------
        InputError
            If `gradients` is another tree than the parameters, or a number is invalid.
        """
        lr = check_number("lr", self.lr if lr is None else lr, least=0)
        scale = check_number("scale", scale)
        check_gradients(gradients, self.parameters, "gradients")
        self.steps += 1
        others = [params.leaves(tree) for tree in (gradients, self.m, self.v)]
        for (name, p), grad, m, v in zip(self._named, *others, strict=True):
            self.ops.adamw.update(
                p,
                grad,
                m,
                v,
                step=self.steps,
                lr=lr,
                betas=self.betas,
                eps=self.eps,
                weight_decay=self.weight_decay if self.decays(name, p) else 0.0,
                scale=scale,
            )

    @property
    def state(self) -> dict[str, Any]:
        """Steps, hyperparameters and copies of the moments: a dict of numbers and arrays.

        The keys of the moments are "m." and "v." before the parameter's name. `numpy.savez` writes
        the dict, and `load_state` restores it.
        """
        betas = {"beta1": self.betas[0], "beta2": self.betas[1]}
        numbers = {"lr": self.lr, **betas, "eps": self.eps, "weight_decay": self.weight_decay}
        moments = {key: array.copy() for key, array in self._moments()}
        return {"steps": self.steps, **numbers, **moments}

    def _moments(self) -> list[tuple[str, Array]]:
        trees = ("m", self.m), ("v", self.v)
        return [(f"{m}.{name}", array) for m, tree in trees for name, array in params.named(tree)]

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the steps, hyperparameters and moments that `state` returned.

        Parameters
        ----------
        state : dict
            Numbers may be arrays of one element, as `numpy.load` returns them.

        Raises
        ------
        InputError
            If a key is missing or unknown, or a value does not fit. Nothing is changed then.
        """
        moments, numbers = self._moments(), {}
        expected = {*NUMBERS, *(key for key, _ in moments)}
        try:
            found = {key: state[key] for key in state.keys()}
        except (AttributeError, TypeError, ValueError):
            raise InputError(f"state must be a dict of AdamW.state, not {show(state)}") from None
        if found.keys() != expected:
            key = min(map(str, found.keys() ^ expected))
            raise InputError(
                f"state has {'no' if key in expected else 'an unknown'} key {show(key)}"
            )
        for key, array in moments:
            value = found[key]
            if not isinstance(value, np.ndarray) or value.dtype != array.dtype:
                raise InputError(f"state: {key} must be an array of {array.dtype}")
            if value.shape != array.shape:
                raise InputError(f"state: {key} is {value.shape}, but must be {array.shape}")
        for key in NUMBERS:
            try:
                value = np.asarray(found[key])
            except (ValueError, TypeError):  # rows of unequal length
                value = np.empty(0)
            if value.size != 1 or value.dtype.kind not in "iuf":
                raise InputError(f"state: {key} is {show(found[key])}, but must be a number")
            numbers[key] = value.item()
        steps = check_number("state: steps", numbers["steps"], least=0)
        if steps != int(steps):
            raise InputError(f"state: steps is {steps}, but must be an integer")
        betas = numbers["beta1"], numbers["beta2"]
        self._set(numbers["lr"], betas, numbers["eps"], numbers["weight_decay"])
        self.steps = int(steps)
        for key, array in moments:
            np.copyto(array, found[key])


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
