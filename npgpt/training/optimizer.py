"""The base of all optimizers: hyperparameters, moments, and the state to resume from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from npgpt import arrays, backends
from npgpt.arrays import Array
from npgpt.backends import Backend
from npgpt.errors import InputError, show
from npgpt.model import params, quantize
from npgpt.model.gradients import check_gradients
from npgpt.model.inputs import check_bool, check_number
from npgpt.model.params import Params, Shape
from npgpt.model.trainable import is_frozen

Decays = Callable[[str, Array], bool]
Keeps = Callable[[str, Shape], bool]  # by the name and the shape of a parameter


def every(name: str, array: Array) -> bool:
    """Decay all parameters, as torch.optim.AdamW and the book do."""
    return True


class Optimizer(ABC):
    """The base of `SGD`, `RMSprop`, `Adam`, `AdamW` and `Muon`.

    Parameters
    ----------
    parameters : Params
        `model.params`, updated in place.
    decays : callable
        `decays(name, array)` returns True for parameters with weight decay.
    ops : Backend or str or None
        The backend. None: npgpt.fused.
    keeps : dict of callable
        The moments, by name: `keeps["m"](name, shape)` returns True for parameters that have it.
    **hyperparameters
        By the name of their attribute, in the order of `repr`.

    Attributes
    ----------
    steps : int
        Number of steps made.

    Raises
    ------
    InputError
        If an argument is invalid, or the parameters are quantized.
    """

    lr: float
    weight_decay: float

    def __init__(
        self,
        parameters: Params,
        decays: Decays,
        ops: Backend | str | None,
        keeps: Mapping[str, Keeps],
        **hyperparameters: Any,
    ):
        if not isinstance(parameters, Params):
            raise InputError(f"parameters must be model.params, not {show(parameters)}")
        quantize.require_float(parameters)
        if not callable(decays):
            raise InputError(f"decays is {show(decays)}, but must be a function of name and array")
        self.parameters, self.decays, self.ops = parameters, decays, backends.get(ops)
        self._hyperparameters, self._moments = tuple(hyperparameters), tuple(keeps)
        self._set(hyperparameters)
        shapes = params.map_leaves(parameters, lambda leaf: Shape(leaf.shape))
        for moment, keep in keeps.items():
            tree = params.kept_shapes(shapes, keep)
            flat = arrays.zeros(params.total(tree), parameters.wte.weight.dtype)
            setattr(self, moment, params.views(tree, flat))
        self._named = list(params.named(parameters))
        self.steps = 0

    def _set(self, hyperparameters: dict[str, Any]) -> None:
        """Set all hyperparameters, or none if one is invalid."""
        checked = {k: check_hyperparameter(k, value) for k, value in hyperparameters.items()}
        vars(self).update(checked)

    def __repr__(self) -> str:
        values = {name: getattr(self, name) for name in self._hyperparameters}
        texts = [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items()]
        return (
            f"{type(self).__name__}({', '.join(texts)}, steps={self.steps}, "
            f"{backends.name_of(self.ops)})"
        )

    def __reduce__(self) -> tuple:
        # for copy and pickle: with its model in one call, both share the copied parameters
        values = {name: getattr(self, name) for name in self._hyperparameters}
        make = partial(type(self), decays=self.decays, ops=backends.key_of(self.ops), **values)
        return make, (self.parameters,), {**self.moments, "steps": self.steps}

    @property
    def moments(self) -> dict[str, Params]:
        """The trees of moments by their names, such as "m" and "v".

        An array is empty if its parameter has no such moment.
        """
        return {name: getattr(self, name) for name in self._moments}

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
        trees = [params.leaves(tree) for tree in (gradients, *self.moments.values())]
        for (name, p), *arrays_of in zip(self._named, *trees, strict=True):
            if not p.size or is_frozen(arrays_of[0]):  # owned by another rank, or frozen
                continue
            weight_decay = self.weight_decay if self.decays(name, p) else 0.0
            self._update(name, p, *arrays_of, lr=lr, weight_decay=weight_decay, scale=scale)

    @abstractmethod
    def _update(self, name: str, p: Array, grad: Array, *moments: Array, **numbers: Any) -> None:
        """Update one parameter and its moments; `numbers`: lr, weight_decay and scale."""

    @property
    def state(self) -> dict[str, Any]:
        """Steps, hyperparameters and copies of the moments: a dict of numbers and arrays.

        The keys of the moments are "m." and "v." before the parameter's name. `numpy.savez` writes
        the dict, and `load_state` restores it.
        """
        moments = {key: array.copy() for key, array in self._named_moments()}
        return {"steps": self.steps, **self._numbers(), **moments}

    def _numbers(self) -> dict[str, Any]:
        """Return the hyperparameters as numbers."""
        numbers: dict[str, Any] = {}
        for name in self._hyperparameters:
            value = getattr(self, name)
            numbers |= dict(zip(BETAS, value, strict=True)) if name == "betas" else {name: value}
        return numbers

    def _named_moments(self) -> list[tuple[str, Array]]:
        """Return the name and the array of all moments that are kept."""
        return [
            (f"{moment}.{name}", array)
            for moment, tree in self.moments.items()
            for name, array in params.named(tree)
            if array.size
        ]

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
        moments, keys, own = self._named_moments(), ("steps", *self._numbers()), type(self).__name__
        expected = {*keys, *(key for key, _ in moments)}
        try:
            found = {key: state[key] for key in state.keys()}
        except (AttributeError, TypeError, ValueError):
            raise InputError(f"state must be a dict of {own}.state, not {show(state)}") from None
        if found.keys() != expected:
            key = min(map(str, found.keys() ^ expected))
            raise InputError(
                f"state has {'no' if key in expected else 'an unknown'} key {show(key)}: "
                f"it must be of {own}.state"
            )
        for key, array in moments:
            value = found[key]
            if not isinstance(value, np.ndarray) or value.dtype != array.dtype:
                raise InputError(f"state: {key} must be an array of {array.dtype}")
            if value.shape != array.shape:
                raise InputError(f"state: {key} is {value.shape}, but must be {array.shape}")
        numbers: dict[str, Any] = {}
        for key in keys:
            try:
                value = np.asarray(found[key])
            except (ValueError, TypeError):  # rows of unequal length
                value = np.empty(0)
            if value.size != 1 or value.dtype.kind not in "biuf":
                raise InputError(f"state: {key} is {show(found[key])}, but must be a number")
            numbers[key] = value.item()
        steps = check_number("state: steps", numbers.pop("steps"), least=0)
        if steps != int(steps):
            raise InputError(f"state: steps is {steps}, but must be an integer")
        if "betas" in self._hyperparameters:
            numbers["betas"] = tuple(numbers.pop(beta) for beta in BETAS)
        self._set(numbers)
        self.steps = int(steps)
        for key, array in moments:
            np.copyto(array, found[key])


BETAS = "beta1", "beta2"  # in `state`


def check_hyperparameter(name: str, value: Any) -> Any:
    """Return the value of a hyperparameter. Raise InputError if it is invalid."""
    if name == "betas":
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise InputError(f"betas is {show(value)}, but must be two numbers")
        for beta in value:
            if check_number("a number in betas", beta, least=0) >= 1:
                raise InputError(f"betas is {show(value)}, but both must be in [0, 1)")
        return float(value[0]), float(value[1])
    if name in ("nesterov", "match_rms_adamw"):
        return check_bool(name, value)
    number = check_number(name, value, least=0)
    if name in ("momentum", "alpha") and number >= 1:
        raise InputError(f"{name} is {show(value)}, but must be in [0, 1)")
    return number
