"""PyTorch's CPU random stream: the Mersenne Twister, and torch's distributions from its words.

    word    w           the next 32 bits of MT19937
    pair    w64 = (w_1 << 32) | w_2
    float32 u24 = (w & (2^24 - 1)) 2^-24          one word
    float64 u53 = (w64 & (2^53 - 1)) 2^-53        two words

Every function here advances an `Engine` in place by exactly the words that the torch call
named in its docstring draws, and returns the same bits. `out` is a contiguous vector; its
length and dtype determine what is drawn. Arguments are checked in rng.py.

torch's compiled kernels contract a*b + c to one rounding (AVX2 and AVX512 alike), so the
last bit of a result depends on where an FMA is used. NumPy has none; `fma` below emulates it.
"""

import math
from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array

__all__ = [
    "Engine",
    "bernoulli",
    "exponential",
    "multinomial",
    "normal",
    "randint",
    "randperm",
    "seed",
    "uniform",
    "uniform_columns",
    "words",
    "words64",
]

BLOCK = 2**13  # elements per step of long formulas: their float64 temporaries stay in cache
PIECE = 2**18  # elements per step of short ones, where loading the engine dominates


class Engine(NamedTuple):
    key: Array  # (624,) uint32
    position: Array  # (1,) int64: words of this key that were used; 0 in a new engine
    spare: Array  # (1,) float64: the unused sine of a short `normal`, or nan


def seed(seed: int) -> Engine:
    """Return torch.manual_seed(seed)'s engine: key_i = 1812433253 (k ^ k >> 30) + i mod 2^32.

    k = key_{i-1}, and key_0 is the seed's low 32 bits; the others are ignored.
    """
    key = [seed & 0xFFFFFFFF]
    for i in range(1, 624):
        key.append((1812433253 * (key[-1] ^ key[-1] >> 30) + i) & 0xFFFFFFFF)
    return Engine(np.array(key, np.uint32), np.zeros(1, np.int64), np.full(1, np.nan))


def words(engine: Engine, n: int) -> Array:
    """-> (n,) uint32, the next n words. The twister itself is NumPy's."""
    if n == 0:
        return np.empty(0, np.uint32)  # a new engine stays new
    twister = np.random.MT19937(0)
    # a list, because NumPy copies a key number by number; the position of its new engine is 624
    state = {"key": engine.key.tolist(), "pos": int(engine.position[0]) or 624}
    twister.state = {"bit_generator": "MT19937", "state": state}
    # over its full range this returns plain words, in half the memory of random_raw
    drawn = np.random.RandomState(twister).randint(0, 2**32, size=n, dtype=np.uint32)
    state = twister.state["state"]
    engine.key[:], engine.position[0] = state["key"], state["pos"]
    return drawn


def words64(engine: Engine, n: int) -> Array:
    """-> (n,) uint64, each of two words, the high one first."""
    w = words(engine, 2 * n).astype(np.uint64)
    return w[0::2] << 32 | w[1::2]


def uniform(engine: Engine, low: float, high: float, *, out: Array) -> Array:
    """out = u (high - low) + low, one rounding; u is u24 or u53 by the dtype of out (N,).

    Like torch.Tensor.uniform_(low, high), and torch.rand for 0 and 1.
    """
    low, high = out.dtype.type(low), out.dtype.type(high)
    unit = u24 if out.dtype == np.float32 else u53
    for piece in pieces(out, PIECE):
        piece[:] = unit(engine, piece.size)
    if (low, high) != (0, 1):
        for block in pieces(out, BLOCK):
            block[:] = fma(block, high - low, low)
    return out


def uniform_columns(engine: Engine, low: float, high: float, *, out: Array) -> Array:
    """out (I, O) = what `uniform` draws as (O, I), transposed: column after column."""
    drawn = uniform(engine, low, high, out=np.empty(out.size, out.dtype))
    out[...] = drawn.reshape(out.shape[::-1]).T
    return out


def normal(engine: Engine, mean: float, std: float, *, out: Array) -> Array:
    """Box-Muller on out (N,): pairs of uniforms become pairs of normals.

        radius = sqrt(-2 log(1 - u_1))      theta = 2 pi u_2
        out    = radius cos(theta) std + mean, radius sin(theta) std + mean

    The u fill `out` first. In each group of 16 the first eight are u_1 and become the cosines,
    the last eight are u_2 and become the sines. If the size is no multiple of 16, the last 16
    elements are drawn and transformed again. Like torch.Tensor.normal_(mean, std) of a
    contiguous tensor; fewer than 16 elements are drawn by `normal_short`.
    """
    if out.size < 16:
        return normal_short(engine, mean, std, out=out)
    uniform(engine, 0, 1, out=out)
    box_muller(out[: out.size // 16 * 16], mean, std)
    if out.size % 16:
        box_muller(uniform(engine, 0, 1, out=out[-16:]), mean, std)
    return out


def normal_short(engine: Engine, mean: float, std: float, *, out: Array) -> Array:
    """Box-Muller in float64, two values from two u53, for either dtype of out (N,).

        radius = sqrt(-2 log1p(-u_2))       theta = 2 pi u_1

    Cosine first. If N is odd, the last sine stays in the engine for the next call.
    """
    kept = engine.spare[~np.isnan(engine.spare)]
    u = u53(engine, (out.size - kept.size + 1) // 2 * 2).reshape(-1, 2)
    radius = np.sqrt(-2 * libm(math.log1p, -u[:, 1]))
    theta = 2 * np.pi * u[:, 0]
    pairs = np.stack([radius * libm(math.cos, theta), radius * libm(math.sin, theta)], axis=-1)
    values = np.concatenate([kept, pairs.ravel()])
    out[:] = fma(values[: out.size], np.float64(std), np.float64(mean))
    engine.spare[:] = values[out.size] if values.size > out.size else np.nan
    return out


def bernoulli(engine: Engine, p: float, *, out: Array) -> Array:
    """out (N,) bool = u53 < p. Like torch.Tensor.bernoulli_(p).

    Also the mask of torch.nn.functional.dropout(x, 1 - p): True where x is kept.
    """
    for piece in pieces(out, PIECE):
        np.less(u53(engine, piece.size), p, out=piece)
    return out


def exponential(engine: Engine, *, out: Array) -> Array:
    """out (N,) = -log(1 - u53), computed in float64. Like torch.Tensor.exponential_(1)."""
    for piece in pieces(out, PIECE):
        piece[:] = -libm(math.log1p, -u53(engine, piece.size))
    return out


def multinomial(engine: Engine, probs: Array, *, out: Array) -> Array:
    """out (N,) int64 = argmax(probs / q), with q ~ exponential in the shape of probs (N, V).

    Of competing exponentials q / p, each is the smallest with probability p. So this draws once
    from each row; rows need not sum to 1. Like torch.multinomial(probs, 1).
    """
    q = exponential(engine, out=np.empty(probs.size, probs.dtype)).reshape(probs.shape)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # q = 0 is possible
        return np.argmax(probs / q, axis=-1, out=out)


def randint(engine: Engine, low: int, high: int, *, out: Array) -> Array:
    """out (N,) int64 = w mod (high - low) + low. Like torch.randint(low, high, (N,)).

    w is one word, or two from a range of 2^28 on, where one would favour low results too much.
    """
    span = high - low
    w = words(engine, out.size).astype(np.uint64) if span < 2**28 else words64(engine, out.size)
    out[:] = (w % np.uint64(span) + np.uint64(low % 2**64)).view(np.int64)  # wraps, as torch's
    return out


def randperm(engine: Engine, *, out: Array) -> Array:
    """out (N,) int64 = a permutation of 0 .. N-1: swap i with i + w mod (N - i), for i < N - 1.

    Like torch.randperm(N), for N < 214,748,364: from there torch draws two words an element.
    """
    N = out.size
    items = list(range(N))  # lists swap faster than arrays
    left = np.arange(N, 1, -1, dtype=np.uint32)  # N - i
    for i, z in enumerate((words(engine, left.size) % left).tolist()):
        items[i], items[i + z] = items[i + z], items[i]
    out[:] = items
    return out


# Uniforms from words


def u24(engine: Engine, n: int) -> Array:
    """-> (n,) float32 in [0, 1)"""
    return (words(engine, n) & np.uint32(2**24 - 1)) * np.float32(2**-24)


def u53(engine: Engine, n: int) -> Array:
    """-> (n,) float64 in [0, 1)"""
    return (words64(engine, n) & np.uint64(2**53 - 1)) * 2.0**-53


# Box-Muller


def box_muller(d: Array, mean: float, std: float) -> None:
    """Transform d (16 G,), uniforms in groups of 16, into normals in place."""
    mean, std = d.dtype.type(mean), d.dtype.type(std)
    two_pi = d.dtype.type(2 * np.pi)
    for piece in pieces(d, 16 * (BLOCK // 8)):
        u1, u2 = piece.reshape(-1, 2, 8).swapaxes(0, 1)
        radius = np.sqrt(-2 * log(1 - u1))
        sin, cos = sincos(two_pi * u2)
        u1[:], u2[:] = fma(radius * cos, std, mean), fma(radius * sin, std, mean)


def log(x: Array) -> Array:
    """Return log(x): for float32 x in (0, 1] the Cephes polynomial, for float64 libm's.

    x = m 2^e with m in [sqrt(1/2), sqrt(2)) and z = (m - 1)^2; ln 2 is a sum of two numbers,
    the first with so few bits that e times it is exact.
    """
    if x.dtype == np.float64:
        return libm(math.log, x)
    m, e = np.frexp(x)  # m in [1/2, 1)
    small = m < LOG_SQRT_HALF
    m, e = np.where(small, m + m, m) - 1, (e - small).astype(np.float32)
    z = m * m
    y = horner(LOG, m) * m
    y = fma(y, z, e * LN2_LOW) - z * HALF
    return fma(e, LN2_HIGH, m + y)


def sincos(x: Array) -> tuple[Array, Array]:
    """Return sin(x) and cos(x): for float32 x >= 0 the Cephes polynomials, for float64 libm's.

    x is reduced to [-pi/4, pi/4] by subtracting j pi/4, with j even and pi/4 a sum of three
    numbers. j selects the polynomial and the sign of each result.
    """
    if x.dtype == np.float64:
        return libm(math.sin, x), libm(math.cos, x)
    j = (x * FOUR_OVER_PI).astype(np.int32) + 1 & ~1
    y = j.astype(np.float32)
    for part in PI_OVER_4:
        x = fma(y, -part, x)
    z = x * x
    c = horner(COS, z) * z
    c = fma(c, z, -(z * HALF)) + 1
    s = fma(horner(SIN, z) * z, x, x)
    swap = j & 2 != 0
    sin, cos = np.where(swap, c, s), np.where(swap, s, c)
    return np.where(j & 4, -sin, sin), np.where(j - 2 & 4, cos, -cos)


def horner(coefficients: Array, x: Array) -> Array:
    """Return c_0 x^n + ... + c_n, every step one FMA."""
    y = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        y = fma(y, x, c)
    return y


HALF = np.float32(0.5)

# Cephes single-precision polynomials (logf, sinf, cosf)
LOG_SQRT_HALF = np.float32(0.707106781186547524)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LOG = np.array(
    [
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ],
    np.float32,
)
FOUR_OVER_PI = np.float32(1.27323954473516)
PI_OVER_4 = np.array([0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8], np.float32)
COS = np.array([2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2], np.float32)
SIN = np.array([-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1], np.float32)


# Arithmetic that NumPy lacks


def fma(a: Array, b: Array, c: Array) -> Array:
    """Return a b + c with one rounding, in the dtype of a (float32 or float64)."""
    if a.dtype == np.float64:
        # Boldo and Melquiond, Emulation of a FMA and correctly rounded sums, 2008
        product, p_low = two_product(a, b)
        c, c_low = two_sum(c, p_low)
        total, t_low = two_sum(product, c)
        return total + odd_sum(c_low, t_low)
    product = a.astype(np.float64) * b  # exact: 24 bits times 24
    total = product + c
    # float64 rounds the sum too. That matters only where it lands midway between two float32
    doubt = total.view(np.int64) & 0x1FFFFFFF == 0x10000000
    if doubt.any():
        c = np.broadcast_to(c, total.shape)[doubt].astype(np.float64)
        total[doubt] = odd_sum(product[doubt], c)
    return total.astype(np.float32)


def odd_sum(a: Array, b: Array) -> Array:
    """Return a + b in float64, an inexact sum rounded to the neighbour whose last bit is 1.

    Rounding such a sum again gives the result of a single rounding.
    """
    total, error = two_sum(a, b)
    bits = total.view(np.int64)
    away = np.where((error > 0) == (total > 0), 1, -1)  # in magnitude, as the bits count
    return np.where((error != 0) & (bits & 1 == 0), bits + away, bits).view(np.float64)


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b rounded, and its exact rounding error (Knuth)."""
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a b rounded, and its exact rounding error (Dekker)."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = halves(a), halves(b)
    low = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, low


def halves(a: Array) -> tuple[Array, Array]:
    """Return two numbers of 26 bits whose sum is a (Veltkamp)."""
    scaled = a * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - a)
    return high, a - high


def libm(function, x: Array) -> Array:
    """Apply a function of `math` to (...) float64. NumPy's may differ in the last bit."""
    return np.fromiter(map(function, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def pieces(x: Array, size: int):
    """Return views of x (N,) of `size` elements each; the last may be shorter."""
    return (x[start : start + size] for start in range(0, x.size, size))
