"""The optimizers SGD, RMSprop, Adam, AdamW and Muon. Each formula is in npgpt/ops, by its name."""

from typing import Any

from npgpt.arrays import Array
from npgpt.backends import Backend
from npgpt.config import TrainingConfig
from npgpt.errors import InputError
from npgpt.model import lora, trainable
from npgpt.model.params import Params, Shape, kept_shapes
from npgpt.training.optimizer import Decays, Keeps, Optimizer, every


def matrices(name: str, array: Array) -> bool:
    """Decay parameters with two dimensions: neither biases nor LayerNorms."""
    return array.ndim >= 2


DECAYS: dict[str, Decays] = {"all": every, "matrices": matrices}
MUON_MOMENTUM = 0.95


class SGD(Optimizer):
    """Stochastic gradient descent, in place on a tree of parameters: torch.optim.SGD.

    Parameters
    ----------
    parameters : Params
        `model.params`.
    lr : float, default 1e-3
        Learning rate.
    momentum : float, default 0.0
        Factor of the earlier gradients' sum, in [0, 1). 0: no memory for moments.
    nesterov : bool, default False
        Nesterov's momentum: the step looks one step ahead.
    weight_decay : float, default 0.0
        This fraction of a parameter is added to its gradient.
    decays : callable, default all parameters
        `decays(name, array)` returns True for parameters with weight decay.
    ops : Backend or str or None, default None
        The backend. None: npgpt.fused.

    Attributes
    ----------
    m : Params
        Momentum buffers, the same tree as `parameters`. Missing without momentum.
    steps : int
        Number of steps made.

    Raises
    ------
    InputError
        If an argument is invalid, or the parameters are quantized.
    """

    momentum: float
    nesterov: bool
    m: Params

    def __init__(
        self,
        parameters: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        decays: Decays = every,
        ops: Backend | str | None = None,
    ):
        super().__init__(
            parameters, decays, ops, moments_of("sgd", momentum),
            lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay,
        )  # fmt: skip
        if nesterov and not momentum:
            raise InputError(f"nesterov is True, but momentum is {momentum}: it must be above 0")

    def _update(self, name: str, p: Array, grad: Array, *moments: Array, **numbers: Any) -> None:
        m = moments[0] if moments else None
        options: Any = dict(momentum=self.momentum, nesterov=self.nesterov)
        self.ops.sgd.update(p, grad, m, **options, **numbers)


class RMSprop(Optimizer):
    """The RMSprop optimizer, in place on a tree of parameters: torch.optim.RMSprop.

    Parameters
    ----------
    parameters : Params
        `model.params`.
    lr : float, default 1e-2
        Learning rate.
    alpha : float, default 0.99
        Decay rate of the running mean of the squared gradient, in [0, 1).
    eps : float, default 1e-8
        Added to the denominator.
    weight_decay : float, default 0.0
        This fraction of a parameter is added to its gradient.
    decays : callable, default all parameters
        `decays(name, array)` returns True for parameters with weight decay.
    ops : Backend or str or None, default None
        The backend. None: npgpt.fused.

    Attributes
    ----------
    v : Params
        Running means of the squared gradients, the same tree as `parameters`.
    steps : int
        Number of steps made.

    Raises
    ------
    InputError
        If an argument is invalid, or the parameters are quantized.
    """

    alpha: float
    eps: float
    v: Params

    def __init__(
        self,
        parameters: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decays: Decays = every,
        ops: Backend | str | None = None,
    ):
        super().__init__(
            parameters, decays, ops, moments_of("rmsprop"),
            lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay,
        )  # fmt: skip

    def _update(self, name: str, p: Array, grad: Array, *moments: Array, **numbers: Any) -> None:
        self.ops.rmsprop.update(p, grad, *moments, alpha=self.alpha, eps=self.eps, **numbers)


class Adam(Optimizer):
    """The Adam optimizer, in place on a tree of parameters: torch.optim.Adam.

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
    weight_decay : float, default 0.0
        This fraction of a parameter is added to its gradient. `AdamW` decays the parameter itself.
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

    betas: tuple[float, float]
    eps: float
    m: Params
    v: Params

    def __init__(
        self,
        parameters: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decays: Decays = every,
        ops: Backend | str | None = None,
    ):
        super().__init__(
            parameters, decays, ops, moments_of("adam"),
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
        )  # fmt: skip

    def _update(self, name: str, p: Array, grad: Array, *moments: Array, **numbers: Any) -> None:
        m, v = moments
        options: Any = dict(step=self.steps, betas=self.betas, eps=self.eps)
        self.ops.adam.update(p, grad, m, v, **options, **numbers)


class AdamW(Optimizer):
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

    betas: tuple[float, float]
    eps: float
    m: Params
    v: Params

    def __init__(
        self,
        parameters: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        decays: Decays = every,
        ops: Backend | str | None = None,
    ):
        super().__init__(
            parameters, decays, ops, moments_of("adamw"),
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
        )  # fmt: skip

    def _update(self, name: str, p: Array, grad: Array, *moments: Array, **numbers: Any) -> None:
        m, v = moments
        options: Any = dict(step=self.steps, betas=self.betas, eps=self.eps)
        self.ops.adamw.update(p, grad, m, v, **options, **numbers)


class Muon(Optimizer):
    """The Muon optimizer of the blocks' matrices, in place: torch.optim.Muon.

    Queries, keys and values are three matrices. Embeddings, output head, LayerNorms and biases are
    updated by AdamW, with the same learning rate and weight decay.

    Parameters
    ----------
    parameters : Params
        `model.params`.
    lr : float, default 1e-3
        Learning rate.
    momentum : float, default 0.95
        Decay rate of the running mean of the gradient, in [0, 1).
    betas : (float, float), default (0.9, 0.999)
        Decay rates of AdamW's two moments, in [0, 1).
    eps : float, default 1e-8
        Added to AdamW's denominator.
    weight_decay : float, default 0.1
        Fraction of a parameter, times `lr`, that is subtracted in each step.
    match_rms_adamw : bool, default True
        Scale a matrix's step by 0.2 sqrt(max(I, O)), as long as a step of AdamW. False: by
        sqrt(max(1, O / I)), PyTorch's default, with which `lr` must be five to ten times as large.
    decays : callable, default all parameters
        `decays(name, array)` returns True for parameters with weight decay.
    ops : Backend or str or None, default None
        The backend. None: npgpt.fused. With npgpt.mixed, the matrix products are of bfloat16.

    Attributes
    ----------
    m, v : Params
        Running means of the gradient and of its square, the same tree as `parameters`. In `v`, the
        arrays of the blocks' matrices are empty.
    steps : int
        Number of steps made.

    Raises
    ------
    InputError
        If an argument is invalid, or the parameters are quantized.
    """

    momentum: float
    betas: tuple[float, float]
    eps: float
    match_rms_adamw: bool
    m: Params
    v: Params

    def __init__(
        self,
        parameters: Params,
        lr: float = 1e-3,
        momentum: float = MUON_MOMENTUM,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        match_rms_adamw: bool = True,
        *,
        decays: Decays = every,
        ops: Backend | str | None = None,
    ):
        super().__init__(
            parameters, decays, ops, moments_of("muon"),
            lr=lr, momentum=momentum, betas=betas, eps=eps, weight_decay=weight_decay,
            match_rms_adamw=match_rms_adamw,
        )  # fmt: skip

    def _update(self, name: str, p: Array, grad: Array, *moments: Array, **numbers: Any) -> None:
        m, v = moments
        options: Any
        if v.size:
            options = dict(step=self.steps, betas=self.betas, eps=self.eps)
            self.ops.adamw.update(p, grad, m, v, **options, **numbers)
            return
        parts = 3 if name.endswith("c_attn.weight") else 1
        options = dict(momentum=self.momentum, match_rms_adamw=self.match_rms_adamw, parts=parts)
        self.ops.muon.update(p, grad, m, **options, **numbers)


# By their names in a TrainingConfig


def moments_of(optimizer: str, momentum: float = 0.0) -> dict[str, Keeps]:
    """Return the moments of an optimizer, and for each a function of the parameters with it."""
    match optimizer:
        case "sgd":
            return {"m": always} if momentum else {}
        case "rmsprop":
            return {"v": always}
        case "muon":
            return {"m": always, "v": outside_of_blocks}
    return {"m": always, "v": always}


def always(name: str, shape: Shape) -> bool:
    """Keep a moment of every parameter."""
    return True


def outside_of_blocks(name: str, shape: Shape) -> bool:
    """Keep a moment of all parameters but the blocks' matrices."""
    return len(shape) < 2 or not name.startswith("h.")


def moment_shapes(training: TrainingConfig, shapes: Params) -> dict[str, Params]:
    """Return trees of the Shapes of all moments in a run, empty for parameters without one."""
    shapes = trainable.only(lora.shapes(shapes, lora.of_run(training)), training.trainable)
    moments = moments_of(training.optimizer, training.momentum or 0.0)
    return {moment: kept_shapes(shapes, keep) for moment, keep in moments.items()}


def make(parameters: Params, training: TrainingConfig, *, ops: Backend) -> Optimizer:
    """Return the optimizer of a run: the arrays of frozen parameters are empty."""
    t, parameters = training, trainable.only(parameters, training.trainable)
    both: Any = dict(lr=t.lr, weight_decay=t.weight_decay, decays=DECAYS[t.decay], ops=ops)
    adaptive: Any = dict(betas=(t.beta1, t.beta2), eps=t.eps)
    match t.optimizer:
        case "sgd":
            return SGD(parameters, momentum=t.momentum or 0.0, nesterov=t.nesterov, **both)
        case "rmsprop":
            return RMSprop(parameters, alpha=t.beta2, eps=t.eps, **both)
        case "adam":
            return Adam(parameters, **adaptive, **both)
        case "adamw":
            return AdamW(parameters, **adaptive, **both)
        case "muon":
            momentum = MUON_MOMENTUM if t.momentum is None else t.momentum
            return Muon(parameters, momentum=momentum, **adaptive, **both)
