"""The source of randomness: `Generator(seed)` is the stream of torch.manual_seed(seed).

Initialization, shuffling, dropout and sampling take a generator as an argument; there is no global
one. The same calls in the same order give the bits of PyTorch 2.7 and later on every CPU. Normals
and uniforms between bounds are those of its AVX2 and AVX512 kernels; PyTorch's own may differ in
the last bits elsewhere. `state` is the bytes of torch.get_rng_state(): a stream started in one
library continues in the other.
"""

import math
from functools import partial
from typing import Any, Self

import numpy as np

from npgpt import backends
from npgpt.arrays import Array
from npgpt.backends import Backend
from npgpt.config_checks import plain
from npgpt.errors import InputError, show
from npgpt.model.inputs import check_probabilities
from npgpt.system.rng_state import build, parse

Shape = int | tuple[int, ...] | list[int]


class Generator:
    """PyTorch's CPU random stream.

    Parameters
    ----------
    seed : int
        0 to 2**64 - 1, as for torch.manual_seed.
    ops : Backend or str or None, default None
        The backend that computes. None: npgpt.fused. All give the same numbers.

    Raises
    ------
    InputError
        If `seed` is not such an integer, or `ops` is not a backend.
    """

    def __init__(self, seed: int, *, ops: Backend | str | None = None):
        self._seed = _integer("seed", seed, 0, 2**64 - 1)
        self.ops = backends.get(ops)
        self._random = self.ops.random
        self._engine = self._random.seed(self._seed)
        self._rest = np.zeros(3, np.uint32)

    def __repr__(self) -> str:
        return f"Generator(seed={self._seed}, next={self._engine.position[0]})"

    def __reduce__(self) -> tuple:
        # for copy and pickle
        make = partial(type(self).from_state, ops=backends.key_of(self.ops))
        return make, (self.state.tobytes(),)

    # Draws

    def uniform(
        self,
        shape: Shape,
        low: float = 0.0,
        high: float = 1.0,
        *,
        dtype: Any = np.float32,
        out: Array | None = None,
    ) -> Array:
        """Draw from the uniform distribution: torch.empty(shape).uniform_(low, high).

        Parameters
        ----------
        shape : int or tuple of int
            Shape of the result.
        low, high : float, default 0.0 and 1.0
            Bounds; `high` is excluded.
        dtype : dtype, default float32
            float32 or float64.
        out : array or None, default None
            Receives the numbers; its dtype counts. Its memory layout does not change them.

        Returns
        -------
        array of `shape`

        Raises
        ------
        InputError
            If an argument is invalid.
        """
        out, contiguous = _destination(shape, dtype, out)
        low, high = (_finite(k, v, out.dtype) for k, v in (("low", low), ("high", high)))
        _finite("high - low", high - low, out.dtype)
        if low > high:
            raise InputError(f"low = {low} and high = {high}: low may not be above high")
        if out.ndim == 2 and contiguous is not out:
            self._random.uniform_columns(self._engine, low, high, out=out.T)
            return out
        self._random.uniform(self._engine, low, high, out=contiguous.reshape(-1))
        return _deliver(contiguous, out)

    def normal(
        self,
        shape: Shape,
        mean: float = 0.0,
        std: float = 1.0,
        *,
        dtype: Any = np.float32,
        out: Array | None = None,
    ) -> Array:
        """Draw from the normal distribution: torch.empty(shape).normal_(mean, std).

        Parameters
        ----------
        shape : int or tuple of int
            Shape of the result.
        mean, std : float, default 0.0 and 1.0
            Mean and standard deviation, which is at least 0.
        dtype : dtype, default float32
            float32 or float64.
        out : array or None, default None
            Receives the numbers; its dtype counts. Its memory layout does not change them.

        Returns
        -------
        array of `shape`

        Raises
        ------
        InputError
            If an argument is invalid.
        """
        out, contiguous = _destination(shape, dtype, out)
        mean, std = (_finite(k, v, out.dtype) for k, v in (("mean", mean), ("std", std)))
        if std < 0:
            raise InputError(f"std = {std}: it must be at least 0")
        self._random.normal(self._engine, mean, std, out=contiguous.reshape(-1))
        return _deliver(contiguous, out)

    def bernoulli(self, p: float, shape: Shape, *, out: Array | None = None) -> Array:
        """Draw booleans: torch.empty(shape).bernoulli_(p).

        With p = 1 - rate, the mask of torch.nn.functional.dropout.

        Parameters
        ----------
        p : float
            Probability of True, in [0, 1].
        shape : int or tuple of int
            Shape of the result.
        out : bool array or None, default None
            Receives the numbers.

        Returns
        -------
        bool array of `shape`

        Raises
        ------
        InputError
            If an argument is invalid.
        """
        p = _real("p", p)
        if not 0 <= p <= 1:
            raise InputError(f"p = {show(p)}: a probability lies between 0 and 1")
        out, contiguous = _destination(shape, np.bool_, out, dtypes=(np.bool_,))
        self._random.bernoulli(self._engine, p, out=contiguous.reshape(-1))
        return _deliver(contiguous, out)

    def exponential(self, shape: Shape, *, dtype: Any = np.float32) -> Array:
        """Draw from the exponential distribution of mean 1: torch.empty(shape).exponential_(1).

        Parameters
        ----------
        shape : int or tuple of int
            Shape of the result.
        dtype : dtype, default float32
            float32 or float64.

        Returns
        -------
        array of `shape`

        Raises
        ------
        InputError
            If an argument is invalid.
        """
        out, _ = _destination(shape, dtype, None)
        self._random.exponential(self._engine, out=out.reshape(-1))
        return out

    def multinomial(self, probs: Array) -> Array:
        """Draw one index from each row: torch.multinomial(probs, 1)[..., 0].

        Parameters
        ----------
        probs : (..., V) float32 or float64
            Probabilities, at least 0. Rows need not sum to 1.

        Returns
        -------
        (...) int64

        Raises
        ------
        InputError
            If a probability is negative or not finite, or a row is all zero.
        """
        probs = check_probabilities(probs)
        drawn = np.empty(probs.shape[:-1], np.int64)
        rows = np.ascontiguousarray(probs).reshape(drawn.size, probs.shape[-1])
        self._random.multinomial(self._engine, rows, out=drawn.reshape(-1))
        return drawn

    def randint(self, low: int, high: int, shape: Shape) -> Array:
        """Draw integers in [low, high): torch.randint(low, high, shape).

        Parameters
        ----------
        low, high : int
            Bounds; `high` is excluded.
        shape : int or tuple of int
            Shape of the result.

        Returns
        -------
        int64 array of `shape`

        Raises
        ------
        InputError
            If an argument is invalid.
        """
        low = _integer("low", low, -(2**63), 2**63 - 1)
        high = _integer("high", high, -(2**63), 2**63 - 1)
        if low >= high:
            raise InputError(f"low = {low} and high = {high}: low must be below high")
        out = np.empty(_shape(shape), np.int64)
        self._random.randint(self._engine, low, high, out=out.reshape(-1))
        return out

    def random64(self) -> int:
        """Draw an integer: torch.empty((), dtype=torch.int64).random_().item().

        Returns
        -------
        int
            In [0, 2**63).
        """
        return int(self._random.words64(self._engine, 1)[0]) & 2**63 - 1

    def randperm(self, n: int) -> Array:
        """Draw a permutation of 0 to n - 1: torch.randperm(n).

        Parameters
        ----------
        n : int
            0 to 214,748,363; PyTorch shuffles longer ones in another way.

        Returns
        -------
        (n,) int64

        Raises
        ------
        InputError
            If `n` is not such an integer.
        """
        n = _integer("n", n, 0, 214_748_363)
        return self._random.randperm(self._engine, out=np.empty(n, np.int64))

    # State

    @property
    def state(self) -> Array:
        """A copy of the state, (5056,) uint8: torch.get_rng_state()."""
        engine = self._engine
        return build(self._seed, engine.key, engine.position[0], engine.spare[0], self._rest)

    def set_state(self, state: Array | bytes) -> None:
        """Continue from a state.

        Parameters
        ----------
        state : (5056,) uint8 or bytes
            `Generator.state`, or torch.get_rng_state().

        Raises
        ------
        InputError
            If it is not such a state.
        """
        record = parse(state)
        self._seed = int(record["seed"])
        self._engine.key[:] = record["key"].astype(np.uint32)
        self._engine.position[:] = record["next"]
        self._engine.spare[:] = record["spare"] if record["has_spare"] else np.nan
        self._rest[:] = record["rest"]

    @classmethod
    def from_state(cls, state: Array | bytes, *, ops: Backend | str | None = None) -> Self:
        """Return a generator that continues from a state.

        Parameters
        ----------
        state : (5056,) uint8 or bytes
            `Generator.state`, or torch.get_rng_state().
        ops : Backend or str or None, default None
            The backend that computes. None: npgpt.fused.

        Returns
        -------
        Generator

        Raises
        ------
        InputError
            If it is not such a state.
        """
        generator = cls(0, ops=ops)
        generator.set_state(state)
        return generator

    def copy(self) -> Self:
        """Return an independent generator in the same state.

        Returns
        -------
        Generator
        """
        return type(self).from_state(self.state, ops=self.ops)


# Arguments


def _integer(name: str, value: Any, least: int, most: int) -> int:
    number = plain(value)
    if type(number) is not int:
        raise InputError(f"{name} = {show(value)}: it must be an integer")
    if not least <= number <= most:
        raise InputError(f"{name} = {show(number)}: it must lie between {least} and {most}")
    return number


def _real(name: str, value: Any) -> float:
    number = plain(value)
    if type(number) in (int, float):
        return number
    raise InputError(f"{name} = {show(value)}: it must be a number")


def _finite(name: str, value: Any, dtype: np.dtype) -> float:
    number = _real(name, value)
    most = 2.0**120 if dtype == np.float32 else 2.0**990  # results must not overflow either
    if not abs(number) <= most:
        shown = show(number)
        raise InputError(f"{name} = {shown}: a {dtype} one must lie between {-most} and {most}")
    return float(number)


def _shape(shape: Shape) -> tuple[int, ...]:
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    sizes = tuple(_integer(f"a size in shape {show(shape)}", n, 0, 2**62) for n in sizes)
    if len(sizes) > 64 or math.prod(n or 1 for n in sizes) >= 2**59:  # NumPy's limits
        raise InputError(f"shape {show(shape)} is too large for an array")
    return sizes


def _destination(
    shape: Shape, dtype: Any, out: Array | None, *, dtypes: tuple = (np.float32, np.float64)
) -> tuple[Array, Array]:
    """Return the array of the result, and the contiguous array that the kernel fills."""
    shape = _shape(shape)
    if out is None:
        out = np.empty(shape, _one_of(dtypes, dtype))
    elif not isinstance(out, np.ndarray) or not out.flags.writeable:
        raise InputError("out must be a NumPy array that is writable")
    elif out.shape != shape:
        raise InputError(f"out has shape {out.shape}, but the shape is {shape}")
    _one_of(dtypes, out.dtype)
    return out, out if out.flags.c_contiguous else np.empty(shape, out.dtype)


def _deliver(contiguous: Array, out: Array) -> Array:
    if contiguous is not out:
        np.copyto(out, contiguous)
    return out


def _one_of(dtypes: tuple, dtype: Any) -> np.dtype:
    try:
        found = None if dtype is None else np.dtype(dtype)  # NumPy's None is float64
    except (TypeError, ValueError):
        found = None
    if found is None or found not in dtypes:
        allowed = " or ".join(np.dtype(d).name for d in dtypes)
        raise InputError(f"dtype {show(dtype) if found is None else found}: it must be {allowed}")
    return found
