"""The random stream against torch, bit for bit: the values, and the state after every call.

torch's kernels for `normal_` and `uniform_(a, b)` round once where AVX2 or AVX512 is at hand
and twice elsewhere. npgpt always gives the stream of the former, so the calls marked `rounding`
can only be compared there; all the others are compared on any processor.
"""

import importlib
import inspect
import math
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from fractions import Fraction

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt.ops.random import fma
from npgpt.rng import Generator

BACKENDS = {name: importlib.import_module(f"npgpt.{name}") for name in ("ops", "fused")}
SEEDS = 0, 123, 2**31, 2**32 + 5, 2**64 - 1
SIZES = 0, 1, 15, 16, 17, 31, 33, 1000, 100_003
TORCH = {np.float32: torch.float32, np.float64: torch.float64}

CAPABILITY = torch.backends.cpu.get_cpu_capability()
ROUNDS_ONCE = CAPABILITY in ("AVX2", "AVX512")
rounds_once = pytest.mark.skipif(
    not ROUNDS_ONCE,
    reason=f"torch's {CAPABILITY} kernels round otherwise than the AVX2 ones npgpt reproduces",
)


@pytest.fixture(autouse=True)
def torch_stream_left_as_found():
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.fixture(params=BACKENDS)
def ops(request):
    return BACKENDS[request.param]


@dataclass(frozen=True)
class Call:
    name: str
    ours: object  # (generator, n) -> array
    torch: object  # n -> tensor
    rounding: bool = False  # does an FMA decide its last bit?
    least: int = 0  # the smallest n that torch takes

    def __str__(self):
        return self.name

    def check(self, generator, n):
        ours, theirs = np.asarray(self.ours(generator, n)), self.torch(n).numpy()
        where = f"{self} of {n}"
        assert ours.dtype == theirs.dtype, where
        assert ours.shape == theirs.shape, where
        np.testing.assert_array_equal(bits(ours), bits(theirs), err_msg=where)
        np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy(), where)


def bits(a):
    """Floats as integers, so that -0 is not 0."""
    return a.view(f"i{a.itemsize}") if a.dtype.kind == "f" else a


def probabilities(shape, dtype):
    """Some zero, the rest over six powers of ten; the same ones every time, from no stream."""
    i = np.arange(math.prod(shape))
    return np.where(i % 7 == 3, 0, 10.0 ** (i * 37 % 61 / 10 - 3)).reshape(shape).astype(dtype)


def dropout_mask(n):
    return F.dropout(torch.ones(n), 0.1) != 0


def float_calls(dtype):
    t, name = TORCH[dtype], dtype.__name__
    return [
        Call(f"rand-{name}", lambda g, n: g.uniform(n, dtype=dtype),
             lambda n: torch.rand(n, dtype=t)),
        Call(f"uniform-{name}", lambda g, n: g.uniform(n, -0.3, 1.7, dtype=dtype),
             lambda n: torch.empty(n, dtype=t).uniform_(-0.3, 1.7), rounding=True),
        Call(f"uniform-wide-{name}", lambda g, n: g.uniform(n, -1e-3, 5e3, dtype=dtype),
             lambda n: torch.empty(n, dtype=t).uniform_(-1e-3, 5e3), rounding=True),
        Call(f"normal-{name}", lambda g, n: g.normal(n, dtype=dtype),
             lambda n: torch.empty(n, dtype=t).normal_(), rounding=True),
        Call(f"normal-moved-{name}", lambda g, n: g.normal(n, 0.3, 0.02, dtype=dtype),
             lambda n: torch.empty(n, dtype=t).normal_(0.3, 0.02), rounding=True),
        Call(f"exponential-{name}", lambda g, n: g.exponential(n, dtype=dtype),
             lambda n: torch.empty(n, dtype=t).exponential_(1)),
        Call(f"multinomial-{name}", lambda g, n: g.multinomial(probabilities((3, n), dtype)),
             lambda n: torch.multinomial(torch.tensor(probabilities((3, n), dtype)), 1)[:, 0],
             least=1),
    ]  # fmt: skip


CALLS = [
    *float_calls(np.float32),
    *float_calls(np.float64),
    Call("bernoulli", lambda g, n: g.bernoulli(0.3, n),
         lambda n: torch.empty(n).bernoulli_(0.3).bool()),
    Call("bernoulli-never", lambda g, n: g.bernoulli(0, n),
         lambda n: torch.empty(n).bernoulli_(0).bool()),
    Call("bernoulli-always", lambda g, n: g.bernoulli(1, n),
         lambda n: torch.empty(n).bernoulli_(1).bool()),
    Call("dropout", lambda g, n: g.bernoulli(1 - 0.1, n), dropout_mask),
    Call("randint", lambda g, n: g.randint(-3, 14, n), lambda n: torch.randint(-3, 14, (n,))),
    Call("randint-28-bits-less-one", lambda g, n: g.randint(7, 2**28 + 6, n),
         lambda n: torch.randint(7, 2**28 + 6, (n,))),
    Call("randint-28-bits", lambda g, n: g.randint(7, 2**28 + 7, n),
         lambda n: torch.randint(7, 2**28 + 7, (n,))),
    Call("randint-all", lambda g, n: g.randint(-(2**63), 2**63 - 1, n),
         lambda n: torch.randint(-(2**63), 2**63 - 1, (n,))),
    Call("randperm", lambda g, n: g.randperm(n), torch.randperm),
    Call("random64", lambda g, n: g.random64(),
         lambda n: torch.empty((), dtype=torch.int64).random_()),
]  # fmt: skip
COMPARABLE = [call for call in CALLS if ROUNDS_ONCE or not call.rounding]


@pytest.mark.parametrize(
    "call",
    [pytest.param(c, marks=rounds_once if c.rounding else (), id=str(c)) for c in CALLS],
)
def test_every_call(call, ops):
    for seed in SEEDS:
        generator = begin(seed, ops)
        for n in SIZES:
            if n >= call.least:
                call.check(generator, n)


def begin(seed, ops):
    torch.manual_seed(seed)
    generator = Generator(seed, ops=ops)
    np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())
    return generator


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    steps=st.lists(st.tuples(st.sampled_from(COMPARABLE), st.integers(0, 700)), max_size=25),
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_in_any_order(backend, seed, steps):
    generator = begin(seed, BACKENDS[backend])
    for call, n in steps:
        call.check(generator, max(n, call.least))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), sizes=st.lists(st.integers(0, 18), max_size=12))
@pytest.mark.parametrize("backend", BACKENDS)
@rounds_once
def test_short_normals_keep_their_sine(backend, seed, sizes):
    normals = [c for c in CALLS if c.name.startswith("normal")]
    generator = begin(seed, BACKENDS[backend])
    for i, n in enumerate(sizes):
        normals[i % len(normals)].check(generator, n)


def test_bernoulli_draws_the_line_between_two_floats(ops):
    """u < p at its closest: p is the very u that will be drawn, and then the next number up."""
    generator = begin(123, ops)
    for _ in range(50):
        (u,) = generator.copy().uniform(1, dtype=np.float64)
        for p, expected in (u, False), (np.nextafter(u, 1), True):
            assert generator.copy().bernoulli(p, 1) == expected
            state = torch.get_rng_state()
            assert torch.empty(1).bernoulli_(p) == expected
            torch.set_rng_state(state)
        generator.random64(), torch.empty((), dtype=torch.int64).random_()


def test_shapes_fill_in_memory_order(ops):
    generator = begin(5, ops)
    for shape in (3, 4, 5), (0, 7), (), [2, 3], 6:
        theirs = torch.rand(shape)
        np.testing.assert_array_equal(generator.uniform(shape), theirs.numpy())
        theirs = torch.randint(0, 9, theirs.shape)
        np.testing.assert_array_equal(generator.randint(0, 9, shape), theirs.numpy())
        np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())


def test_multinomial_takes_any_leading_shape(ops):
    generator = begin(5, ops)
    probs = probabilities((2, 3, 50), np.float32)
    one, six = generator.multinomial(probs[0, 0]), generator.multinomial(probs)
    assert one.shape == () and six.shape == (2, 3) and six.dtype == np.int64
    assert one == torch.multinomial(torch.tensor(probs[0, 0]), 1).item()
    theirs = torch.multinomial(torch.tensor(probs.reshape(6, 50)), 1)
    np.testing.assert_array_equal(six, theirs.numpy().reshape(2, 3))
    assert generator.multinomial(np.ones((0, 5))).shape == (0,)
    np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())


@pytest.mark.parametrize("draw", ["uniform", "normal", "bernoulli"])
@pytest.mark.parametrize("n", [7, 100])
def test_draws_go_where_they_are_told(draw, n, ops):
    def drawn(**home):
        generator = Generator(123, ops=ops)
        p = (0.5,) if draw == "bernoulli" else ()
        return getattr(generator, draw)(*p, (n, 3), **home)

    expected = drawn()
    home = np.full_like(expected, True if draw == "bernoulli" else np.nan)
    assert drawn(out=home) is home
    np.testing.assert_array_equal(home, expected)
    transposed = np.full_like(expected.T, True if draw == "bernoulli" else np.nan, order="C").T
    assert drawn(out=transposed) is transposed  # not contiguous: still the values of one that is
    np.testing.assert_array_equal(transposed, expected)
    if draw != "bernoulli":
        wide = np.full((n, 3), np.nan)  # brings its own dtype
        np.testing.assert_array_equal(drawn(out=wide), drawn(dtype=np.float64))


LARGE = 1_000_003  # so many are drawn by all threads


@rounds_once
@pytest.mark.parametrize("draw", ["uniform", "normal", "bernoulli", "columns"])
def test_many_threads_draw_what_one_draws(draw):
    before, calls = numba.get_num_threads(), {
        "uniform": Call("uniform", lambda g, n: g.uniform(n, -0.3, 1.7),
                        lambda n: torch.empty(n).uniform_(-0.3, 1.7)),
        "normal": Call("normal", lambda g, n: g.normal(n), lambda n: torch.empty(n).normal_()),
        "bernoulli": Call("bernoulli", lambda g, n: g.bernoulli(0.3, n),
                          lambda n: torch.empty(n).bernoulli_(0.3).bool()),
        "columns": Call("columns", lambda g, n: columns(g, 1000, n // 1000),
                        lambda n: torch.empty(1000, n // 1000).uniform_(-0.3, 1.7)),
    }  # fmt: skip
    for threads in {1, numba.config.NUMBA_NUM_THREADS}:
        numba.set_num_threads(threads)
        generator = begin(123, BACKENDS["fused"])
        for n in (LARGE, LARGE - 3, LARGE + 40_000):
            calls[draw].check(generator, n)
    numba.set_num_threads(before)


def columns(generator, O, I):
    """(O, I) numbers as a layer has them, in columns of a wider (I, ...) matrix."""
    home = np.full((I, O + 7), np.nan, np.float32)
    generator.uniform((O, I), -0.3, 1.7, out=home[:, 3:-4].T)
    assert np.isnan(home[:, :3]).all() and np.isnan(home[:, -4:]).all()
    return home[:, 3:-4].T


@rounds_once
def test_columns_of_any_size(ops):
    generator = begin(123, ops)
    call = Call("columns", lambda g, n: columns(g, n, 70),
                lambda n: torch.empty(n, 70).uniform_(-0.3, 1.7))  # fmt: skip
    for n in (1, 15, 16, 17, 32, 100):
        call.check(generator, n)
    for odd in (np.zeros((40, 60), np.float32)[::2, ::2], np.zeros((40, 5, 2), np.float32)[..., 1],
                np.zeros((0, 3), np.float32).T):  # fmt: skip
        theirs = torch.empty(odd.shape).uniform_(-0.3, 1.7)
        np.testing.assert_array_equal(generator.uniform(odd.shape, -0.3, 1.7, out=odd), theirs)
        np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())


# States


@pytest.mark.parametrize("drawn", [0, 1, 623, 624, 625, 5000])
@pytest.mark.parametrize("as_", [lambda t: t, lambda t: t.numpy(), lambda t: t.numpy().tobytes()],
                         ids=["tensor", "array", "bytes"])  # fmt: skip
def test_carry_on_from_torch(drawn, as_, ops):
    torch.manual_seed(2**40 + 7)
    torch.randint(0, 9, (drawn,))
    torch.empty(3).normal_()  # leaves a sine behind
    generator = Generator.from_state(as_(torch.get_rng_state()), ops=ops)
    np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())
    for call in COMPARABLE:
        call.check(generator, 40)


@pytest.mark.parametrize("drawn", [0, 1, 623, 624, 625, 5000])
def test_torch_carries_on_from_us(drawn, ops):
    generator = Generator(2**40 + 7, ops=ops)
    generator.randint(0, 9, drawn)
    generator.normal(3)
    torch.set_rng_state(torch.tensor(generator.state))
    for call in COMPARABLE:
        call.check(generator, 40)


def test_a_copy_goes_its_own_way(ops):
    generator = Generator(1, ops=ops)
    generator.normal(3)
    twin, there = generator.copy(), generator.state
    first = generator.normal(5)
    np.testing.assert_array_equal(twin.state, there)
    np.testing.assert_array_equal(twin.normal(5), first)
    generator.set_state(there)
    np.testing.assert_array_equal(generator.normal(5), first)


def test_a_state_goes_from_backend_to_backend():
    slow, fast = (Generator(9, ops=backend) for backend in BACKENDS.values())
    slow.normal(1001), fast.set_state(slow.state)
    np.testing.assert_array_equal(slow.normal(1001), fast.normal(1001))


def test_no_global_stream_is_touched(ops):
    ours, theirs = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    generator = Generator(3, ops=ops)
    for call in CALLS:
        call.ours(generator, 20)
    np.testing.assert_array_equal(np.random.get_state()[1], ours)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), theirs)


def test_streams_on_two_threads_do_not_mix(ops):
    def draw(seed, into):
        generator = Generator(seed, ops=ops)
        into[seed] = [generator.bernoulli(0.5, 20_011) for _ in range(20)]

    alone, together = {}, {}
    threads = [threading.Thread(target=draw, args=(seed, together)) for seed in (1, 2)]
    for seed in (1, 2):
        draw(seed, alone)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        np.testing.assert_array_equal(alone[seed], together[seed])


# The two backends


def test_the_backends_hold_the_same_functions():
    slow, fast = (backend.random for backend in BACKENDS.values())
    assert slow.__all__ == fast.__all__
    for name in slow.__all__:
        assert inspect.signature(getattr(slow, name)) == inspect.signature(getattr(fast, name))


def test_the_backends_agree_on_a_million_normals():
    slow, fast = (Generator(77, ops=backend).normal(1_000_000) for backend in BACKENDS.values())
    np.testing.assert_array_equal(bits(slow), bits(fast))


@pytest.mark.parametrize("width, dtype", [(32, np.float32), (64, np.float64)])
def test_fma_rounds_once(width, dtype):
    factor = st.floats(2.0**-20, 2.0**20, width=width)
    term = st.floats(-(2.0**20), 2.0**20, width=width)

    @settings(max_examples=500, deadline=None)
    @given(factor, factor, term)
    def check(a, b, c):
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        (ours,) = fma(*(np.array([x], dtype) for x in (a, b, c)))
        neighbours = np.nextafter(ours, np.array([-np.inf, np.inf], dtype))
        apart = [abs(Fraction(float(x)) - exact) for x in (ours, *neighbours)]
        assert apart[0] == min(apart)

    check()


def test_fma_where_float64_alone_would_round_twice():
    # a b = 2^-24 - 2^-56, and a b + c lies that much below the middle of two float32
    a, b, c = (np.array([x], np.float32) for x in (2.0**-24 + 2.0**-40, 1 - 2.0**-16, 1 + 2.0**-23))
    assert np.float32(np.float64(a) * b + c) == 1 + 2.0**-22
    assert fma(a, b, c) == c


# What is built on it


def test_layers_begin_as_in_torch(ops):
    """The order and the bounds in which torch fills nn.Embedding and nn.Linear."""
    generator = begin(123, ops)
    check_layer(torch.nn.Embedding(101, 48).weight, generator.normal((101, 48)), ROUNDS_ONCE)
    check_layer(torch.nn.Embedding(1, 7).weight, generator.normal((1, 7)), ROUNDS_ONCE)
    for i, o, bias in (48, 144, False), (48, 48, True), (48, 192, True), (7, 1, True):
        linear = torch.nn.Linear(i, o, bias=bias)
        bound = math.sqrt(3) * (math.sqrt(2 / (1 + 5)) / math.sqrt(i))  # kaiming, a = sqrt(5)
        check_layer(linear.weight, generator.uniform((o, i), -bound, bound), ROUNDS_ONCE)
        if bias:
            bound = 1 / math.sqrt(i)
            check_layer(linear.bias, generator.uniform(o, -bound, bound), ROUNDS_ONCE)
    np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())


def check_layer(theirs, ours, exact):
    np.testing.assert_allclose(ours, theirs.detach(), rtol=0, atol=0 if exact else 3e-6)


def test_a_loader_shuffles_as_in_torch(ops):
    generator = begin(123, ops)
    loader = torch.utils.data.DataLoader(range(1000), batch_size=None, shuffle=True)
    for _ in range(2):
        generator.random64()  # the base seed
        private = Generator(generator.random64(), ops=ops)
        np.testing.assert_array_equal(private.randperm(1000), [int(i) for i in loader])
        np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())


@pytest.mark.parametrize(
    "temperature, counts",
    [(1, [73, 0, 0, 582, 2, 0, 0, 343, 0]), (0.1, [0, 0, 0, 985, 0, 0, 0, 15, 0])],
)
def test_a_thousand_draws_count_as_in_the_book(temperature, counts, ops):
    logits = np.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79], np.float32)
    e = np.exp((logits - logits.max()) / np.float32(temperature))
    generator = Generator(123, ops=ops)
    draws = [int(generator.multinomial(e / e.sum())) for _ in range(1000)]
    assert np.bincount(draws, minlength=9).tolist() == counts


# torch without AVX2


def run_with_default_kernels(*arguments):
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(CAPABILITY == "DEFAULT", reason="every test here runs on default kernels")
def test_masks_shuffles_and_sampling_on_default_kernels():
    run = run_with_default_kernels(
        "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", __file__,
        "-k", "every_call or loader or thousand or carry or carries",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "DEFAULT kernels round otherwise" in run.stdout  # it did run without AVX2


DEFAULT_DRAWS = """
import sys, torch
torch.manual_seed(123)
torch.empty(100_003).normal_().numpy().tofile(sys.argv[1])
torch.empty(100_003).uniform_(-0.03, 0.03).numpy().tofile(sys.argv[2])
"""


def test_how_far_default_kernels_are_away(tmp_path, ops):
    """Their normals come from libm, their uniforms are rounded twice; they draw the same words."""
    files = [str(tmp_path / name) for name in ("normal", "uniform")]
    run = run_with_default_kernels("-c", DEFAULT_DRAWS, *files)
    assert run.returncode == 0, run.stderr
    normal, uniform = (np.fromfile(name, np.float32) for name in files)

    generator = Generator(123, ops=ops)
    ours = generator.normal(100_003)
    np.testing.assert_allclose(ours, normal, rtol=0, atol=3e-6)
    # of 16 million: two ulp in the median of those that differ, at most 38 above 1/2; see
    # docs/book.md. Next to 0, where a sine or a cosine is, an ulp says nothing
    ulps = np.abs(ours - normal) / np.spacing(np.abs(ours))
    assert np.median(ulps[ulps > 0]) <= 2 and ulps[np.abs(ours) > 0.5].max() <= 38
    there = generator.copy()
    ours, u = generator.uniform(100_003, -0.03, 0.03), there.uniform(100_003)
    low, high = np.float32(-0.03), np.float32(0.03)
    np.testing.assert_array_equal(u * (high - low) + low, uniform)
    differ = ours != uniform
    assert 0.4 < differ.mean() < 0.6
    scale = np.spacing(high)  # an ulp of the larger summand; near 0 the sum's own ulp is smaller
    assert np.abs(ours[differ] - uniform[differ]).max() <= scale


# Bad input


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda g: Generator(-1), "seed = -1: it must lie between 0 and 18446744073709551615"),
        (lambda g: Generator(2**64), "seed = 18446744073709551616: it must lie between 0"),
        (lambda g: Generator(1.5), r"seed = 1\.5: it must be an integer"),
        (lambda g: Generator("7"), "seed = '7': it must be an integer"),
        (lambda g: Generator(None), "seed = None: it must be an integer"),
        (lambda g: g.set_state(b"abc"), r"shape \(3,\) and dtype uint8: it must be 5056 bytes"),
        (lambda g: g.set_state(np.zeros(5056)), "dtype float64: it must be 5056 bytes"),
        (lambda g: g.set_state(bytes(5056)), "seeded = 0, left = 0, next = 0: it must have"),
        (lambda g: Generator.from_state(b""), r"shape \(0,\)"),
        (lambda g: g.multinomial(np.array([0.5, -0.1])), r"-0\.1 at \(1,\) of shape \(2,\): every"),
        (lambda g: g.multinomial(np.array([[1, 0], [0, np.nan]])), r"nan at \(1, 1\) of shape"),
        (lambda g: g.multinomial(np.array([1, np.inf])), r"inf at \(1,\)"),
        (lambda g: g.multinomial(np.zeros(3)), "probs is all zero, 3 of them: one must be above 0"),
        (lambda g: g.multinomial(np.eye(3)[:, :2]), r"row \(2,\) of probs is all zero"),
        (lambda g: g.multinomial(np.ones((3, 0))), r"shape \(3, 0\): it must be \(\.\.\., V\)"),
        (lambda g: g.multinomial(np.float32(1)), r"shape \(\): it must be"),
        (lambda g: g.multinomial(np.array([1, 2])), "dtype int64: it must be float32 or float64"),
        (lambda g: g.bernoulli(1.5, 3), r"p = 1\.5: a probability lies between 0 and 1"),
        (lambda g: g.bernoulli(-0.5, 3), r"p = -0\.5"),
        (lambda g: g.bernoulli(np.nan, 3), "p = nan"),
        (lambda g: g.bernoulli(0.5, 3, out=np.zeros(3)), "dtype float64: it must be bool"),
        (lambda g: g.randperm(-1), "n = -1: it must lie between 0 and 214748363"),
        (lambda g: g.randperm(2.0), r"n = 2\.0: it must be an integer"),
        (lambda g: g.randperm(214_748_364), "n = 214748364"),
        (lambda g: g.randint(3, 3, 2), "low = 3 and high = 3: low must be below high"),
        (lambda g: g.randint(0, 2**63, 2), "high = 9223372036854775808: it must lie between"),
        (lambda g: g.uniform(3, 2, 1), r"low = 2\.0 and high = 1\.0: low may not be above high"),
        (lambda g: g.uniform(3, 0, np.inf), "high = inf: a float32 one must lie between"),
        (lambda g: g.uniform(3, dtype=np.float16), "dtype float16: it must be float32 or float64"),
        (lambda g: g.uniform((3, -1)), r"a size in shape \(3, -1\) = -1"),
        (lambda g: g.uniform(3, out=np.zeros(4)), r"out has shape \(4,\), but \(3,\) was asked"),
        (lambda g: g.normal(3, 0, -1), r"std = -1\.0: it must be at least 0"),
        (lambda g: g.normal(3, np.nan), "mean = nan"),
    ],
)
def test_bad_input_is_named(call, message, ops):
    generator = Generator(0, ops=ops)
    with pytest.raises(ValueError, match=message):
        call(generator)
    np.testing.assert_array_equal(generator.state, Generator(0, ops=ops).state)  # nothing drawn
