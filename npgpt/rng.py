"""The one source of randomness: `Generator(seed)` is the stream of torch.manual_seed(seed).

Initialisation, shuffling, dropout and sampling take a generator as an argument; nothing here
touches a global one. The same calls in the same order give the bits of PyTorch 2.7 and later on
any CPU; only normals and uniforms between bounds are those of its AVX2 and AVX512 kernels, and
elsewhere PyTorch's own may differ in the last bits. `state` is the bytes of
torch.get_rng_state(), so that a stream begun in one can be carried on in the other.
"""

import operator

import numpy as np

from npgpt import backends
from npgpt.arrays import Array
from npgpt.backends import Backend
from npgpt.errors import InputError

# torch.get_rng_state(): the layout of at::CPUGeneratorImplState
STATE = np.dtype(
    [
        ("seed", "<u8"),
        ("left", "<i4"),  # words to hand out before the next twist, counting one more
        ("seeded", "<i4"),
        ("next", "<u8"),
        ("key", "<u8", 624),
        ("unused", "<u8"),
        ("spare", "<f8"),
        ("unused_too", "<u8"),
        ("has_spare", "<i4"),
        ("rest", "<u4", 3),  # a float32 spare that no CPU kernel uses
    ]
)


class Generator:
    """PyTorch's CPU random stream.

    seed: 0 to 2**64 - 1. ops: the backend that does the work, npgpt.ops or npgpt.fused (None).
    """

    def __init__(self, seed: int, *, ops: Backend | str | None = None):
        self._seed = _integer("seed", seed, 0, 2**64 - 1)
        self.ops = backends.get(ops)
        self._random = self.ops.random
        self._engine = self._random.seed(self._seed)
        self._rest = np.zeros(3, np.uint32)

    def __repr__(self) -> str:
        return f"Generator(seed={self._seed}, next={self._engine.position[0]})"

    # Draws

    def uniform(self, shape, low=0.0, high=1.0, *, dtype=np.float32, out=None) -> Array:
        """-> (*shape) in [low, high). torch.rand(shape), torch.empty(shape).uniform_(low, high).

        `out` brings its own dtype. One that is not contiguous gets what a contiguous one would.
        """
        out, home = _destination(shape, dtype, out)
        low, high = (_finite(k, v, home.dtype) for k, v in (("low", low), ("high", high)))
        _finite("high - low", high - low, home.dtype)
        if low > high:
            raise InputError(f"low = {low} and high = {high}: low may not be above high")
        if out.ndim == 2 and home is not out:
            self._random.uniform_columns(self._engine, low, high, out=out.T)
            return out
        self._random.uniform(self._engine, low, high, out=home.reshape(-1))
        return _deliver(home, out)

    def normal(self, shape, mean=0.0, std=1.0, *, dtype=np.float32, out=None) -> Array:
        """-> (*shape). torch.empty(shape).normal_(mean, std). `out` as for `uniform`."""
        out, home = _destination(shape, dtype, out)
        mean, std = (_finite(k, v, home.dtype) for k, v in (("mean", mean), ("std", std)))
        if std < 0:
            raise InputError(f"std = {std}: it must be at least 0")
        self._random.normal(self._engine, mean, std, out=home.reshape(-1))
        return _deliver(home, out)

    def bernoulli(self, p: float, shape, *, out=None) -> Array:
        """-> (*shape) bool, True with probability p. torch.empty(shape).bernoulli_(p).

        With p = 1 - rate, the mask of torch.nn.functional.dropout.
        """
        p = float(p)
        if not 0 <= p <= 1:
            raise InputError(f"p = {p}: a probability lies between 0 and 1")
        out, home = _destination(shape, np.bool_, out, dtypes=(np.bool_,))
        self._random.bernoulli(self._engine, p, out=home.reshape(-1))
        return _deliver(home, out)

    def exponential(self, shape, *, dtype=np.float32) -> Array:
        """-> (*shape) with mean 1. torch.empty(shape).exponential_(1)."""
        out, _ = _destination(shape, dtype, None)
        self._random.exponential(self._engine, out=out.reshape(-1))
        return out

    def multinomial(self, probs: Array) -> Array:
        """(..., V) -> (...) int64: one draw from each row. torch.multinomial(probs, 1)[..., 0].

        Rows need not sum to 1.
        """
        probs = _probabilities(probs)
        drawn = np.empty(probs.shape[:-1], np.int64)
        rows = np.ascontiguousarray(probs).reshape(drawn.size, probs.shape[-1])
        self._random.multinomial(self._engine, rows, out=drawn.reshape(-1))
        return drawn

    def randint(self, low: int, high: int, shape) -> Array:
        """-> (*shape) int64 in [low, high). torch.randint(low, high, shape)."""
        low = _integer("low", low, -(2**63), 2**63 - 1)
        high = _integer("high", high, -(2**63), 2**63 - 1)
        if low >= high:
            raise InputError(f"low = {low} and high = {high}: low must be below high")
        out = np.empty(_shape(shape), np.int64)
        self._random.randint(self._engine, low, high, out=out.reshape(-1))
        return out

    def random64(self) -> int:
        """0 to 2**63 - 1. torch.empty((), dtype=torch.int64).random_().item()."""
        return int(self._random.words64(self._engine, 1)[0]) & 2**63 - 1

    def randperm(self, n: int) -> Array:
        """-> (n,) int64: 0 to n - 1, shuffled. torch.randperm(n)."""
        n = _integer("n", n, 0, 214_748_363)  # from there torch shuffles in another way
        return self._random.randperm(self._engine, out=np.empty(n, np.int64))

    # State

    @property
    def state(self) -> Array:
        """-> (5056,) uint8, torch.get_rng_state(): a copy, for torch.set_rng_state too."""
        record, engine = np.zeros((), STATE), self._engine
        record["seed"], record["seeded"] = self._seed, 1
        record["next"] = engine.position[0]
        record["left"] = 625 - engine.position[0] if engine.position[0] else 1
        record["key"] = engine.key
        if not np.isnan(engine.spare[0]):
            record["spare"], record["has_spare"] = engine.spare[0], 1
        record["rest"] = self._rest
        return np.frombuffer(record.tobytes(), np.uint8).copy()

    def set_state(self, state) -> None:
        """Go on from there. `state`: bytes or uint8 array, ours or torch.get_rng_state()'s."""
        record = _record(state)
        self._seed = int(record["seed"])
        self._engine.key[:] = record["key"].astype(np.uint32)
        self._engine.position[:] = record["next"]
        self._engine.spare[:] = record["spare"] if record["has_spare"] else np.nan
        self._rest[:] = record["rest"]

    @classmethod
    def from_state(cls, state, *, ops: Backend | str | None = None) -> "Generator":
        """A generator that goes on from `state` (see `set_state`)."""
        generator = cls(0, ops=ops)
        generator.set_state(state)
        return generator

    def copy(self) -> "Generator":
        """Another generator, at the same place of the same stream."""
        twin = object.__new__(type(self))
        twin._seed, twin.ops, twin._random = self._seed, self.ops, self._random
        twin._engine = type(self._engine)(*(a.copy() for a in self._engine))
        twin._rest = self._rest.copy()
        return twin


# What may be asked for


def _integer(name: str, value, least: int, most: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} = {value!r}: it must be an integer") from None
    if not least <= number <= most:
        raise InputError(f"{name} = {number}: it must lie between {least} and {most}")
    return number


def _finite(name: str, value, dtype: np.dtype) -> float:
    number = float(value)
    most = 2.0**120 if dtype == np.float32 else 2.0**990  # some room is left for the results
    if not abs(number) <= most:
        raise InputError(f"{name} = {number}: a {dtype} one must lie between {-most} and {most}")
    return number


def _shape(shape) -> tuple[int, ...]:
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    return tuple(_integer(f"a size in shape {shape}", n, 0, 2**62) for n in sizes)


def _destination(shape, dtype, out, *, dtypes=(np.float32, np.float64)) -> tuple[Array, Array]:
    """Where the caller looks for the result, and the contiguous array it is drawn into."""
    shape = _shape(shape)
    if out is None:
        out = np.empty(shape, _one_of(dtypes, dtype))
    elif out.shape != shape:
        raise InputError(f"out has shape {out.shape}, but {shape} was asked for")
    _one_of(dtypes, out.dtype)
    return out, out if out.flags.c_contiguous else np.empty(shape, out.dtype)


def _deliver(home: Array, out: Array) -> Array:
    if home is not out:
        np.copyto(out, home)
    return out


def _one_of(dtypes, dtype) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype not in dtypes:
        allowed = " or ".join(np.dtype(d).name for d in dtypes)
        raise InputError(f"dtype {dtype}: it must be {allowed}")
    return dtype


def _probabilities(probs) -> Array:
    probs = np.asarray(probs)
    _one_of((np.float32, np.float64), probs.dtype)
    if probs.ndim == 0 or probs.shape[-1] == 0:
        raise InputError(f"probs has shape {probs.shape}: it must be (..., V) with V at least 1")
    if probs.size == 0:
        return probs
    wrong = ~((probs >= 0) & (probs < np.inf))  # so written, nan is wrong too
    if wrong.any():
        raise InputError(
            f"probs holds {probs[wrong][0]} at {_first(wrong)} of shape {probs.shape}: "
            "every probability must be at least 0 and finite"
        )
    empty = ~(probs > 0).any(-1)
    if empty.any():
        row = f"row {_first(empty)} of probs" if probs.ndim > 1 else "probs"
        raise InputError(f"{row} is all zero, {probs.shape[-1]} of them: one must be above 0")
    return probs


def _first(mask: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])


def _record(state) -> np.void:
    if isinstance(state, (bytes, bytearray, memoryview)):
        state = np.frombuffer(state, np.uint8)
    state = np.asarray(state)
    if state.dtype != np.uint8 or state.shape != (STATE.itemsize,):
        raise InputError(
            f"state has shape {state.shape} and dtype {state.dtype}: it must be "
            f"{STATE.itemsize} bytes or uint8, as torch.get_rng_state() gives them"
        )
    record = np.ascontiguousarray(state).view(STATE)[0]
    left, following = int(record["left"]), int(record["next"])
    if not (record["seeded"] == 1 and following <= 624 and left == (625 - (following or 624))):
        raise InputError(
            f"state has seeded = {record['seeded']}, left = {left}, next = {following}: "
            "it must have seeded = 1, next between 0 and 624, and left = 625 - next (1 if next = 0)"
        )
    return record
