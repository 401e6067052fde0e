"""Every draw of the generator beside the call of torch that it must equal."""

import importlib
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

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


def begin(seed, ops):
    torch.manual_seed(seed)
    generator = Generator(seed, ops=ops)
    np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())
    return generator
