"""The bfloat16 backend: products compared with those of PyTorch, on every path."""

import inspect
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import npgpt.fused
import npgpt.mixed
from npgpt.fused.linear_cross_entropy import forward_with
from npgpt.kernels import cpu
from npgpt.kernels.gemm_bf16 import matmul
from npgpt.kernels.jit import njit
from npgpt.kernels.packing import pack_across, right_width
from npgpt.mixed import attention, linear
from npgpt.ops.linear import Params
from npgpt.quantized_matrix import to_bfloat16
from parity_tests.support.cases import CASES
from parity_tests.support.harness import backward, draw, forward, run_torch

SLACK = 3.0  # how many times as far as PyTorch in bfloat16 an op may stray from float64
OWN = [c for c in CASES
       if c.op in ("attention", "linear", "linear_cross_entropy")
       and c.note in ("", "ignored")]  # fmt: skip


def test_it_holds_the_same_ops_with_the_same_signatures():
    assert npgpt.mixed.__all__ == npgpt.fused.__all__
    for op in npgpt.mixed.__all__:
        for function in ("forward", "backward", "evaluate", "log_probs", "update"):
            ours, theirs = (getattr(getattr(s, op), function, None) for s in BACKENDS)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                ours, theirs = (inspect.signature(f).parameters for f in (ours, theirs))
                assert list(ours) == list(theirs), (op, function)


BACKENDS = npgpt.mixed, npgpt.fused


def in_bfloat16(case):
    """The case, its PyTorch function with operands and result in bfloat16."""

    def narrow(**arguments):
        some = {
            name: a.bfloat16() if torch.is_tensor(a) and a.is_floating_point() else a
            for name, a in arguments.items()
        }
        return case.torch(**some).float()

    return replace(case, torch=narrow)


@pytest.mark.slow
@pytest.mark.parametrize("case", OWN, ids=str)
def test_an_op_strays_at_most_three_times_as_far_as_pytorch_in_bfloat16(case, rng):
    drawn = draw(case, rng, np.float32)
    wide = [
        {k: v if v is None or v.dtype.kind != "f" else v.astype(np.float64) for k, v in d.items()}
        for d in drawn[:3]
    ]
    truth = run_torch(case, (*wide, drawn[3].astype(np.float64)), torch.float64)
    theirs = run_torch(in_bfloat16(case), drawn, torch.float32)
    out, cache = forward(case, npgpt.mixed, drawn)
    ours = {"out": out} | backward(case, npgpt.mixed, drawn, cache)
    for name, array in ours.items():
        if array is None:
            continue
        assert array.dtype == np.float32
        stray = np.abs(np.float64(theirs[name]) - truth[name]).max(initial=0)
        error = np.abs(np.float64(array) - truth[name]).max(initial=0)
        # half a unit of bfloat16 of the largest number, where PyTorch is right by luck
        luck = 2.0**-9 * np.abs(truth[name]).max(initial=0)
        assert error <= SLACK * stray + luck, f"{name}: {error:.1e}, PyTorch {stray:.1e}"


def test_a_bfloat16_product_is_the_product_of_rounded_operands(rng):
    for M, K, N in [(40, 1, 1), (33, 7, 33), (64, 769, 100), (100, 1603, 70)]:
        a, b = rng.normal(size=(M, K)), rng.normal(size=(K, N))
        check_product(a.astype(np.float32), b.astype(np.float32))
        check_product(a.T.astype(np.float32, order="C").T, b.T.astype(np.float32, order="C").T)


def check_product(a, b):
    """Exact operands, float32 sums of K terms near 1: what they round off grows like sqrt(K)."""
    out = np.full((len(a), b.shape[1]), np.nan, np.float32)
    matmul(a, b, out=out)
    a, b = (torch.tensor(np.ascontiguousarray(x)).bfloat16().double().numpy() for x in (a, b))
    np.testing.assert_allclose(out, a @ b, rtol=0, atol=8 * np.finfo("f4").eps * len(b) ** 0.5 * 4)


def test_activations_are_kept_as_their_products_round_them(rng):
    """Half the memory, and gradients of the same bits as from float32 activations."""

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    x, dout, p = normal(2, 20, 40), normal(2, 20, 50), Params(normal(40, 50), normal(50))
    _, cache = linear.forward(x, p)
    assert_same_gradients(linear, dout, [cache, cache._replace(x=x)], p, cache.x)
    qkv, dout = normal(2, 20, 3 * 24), normal(2, 20, 24)
    _, cache = attention.forward(qkv, n_head=2)
    assert_same_gradients(attention, dout, [cache, cache._replace(qkv=qkv)], None, cache.qkv)
    some = (normal(40, 36), normal(50, 36), np.arange(40))
    both = [forward_with(matmul, t, *some, 64, None, False) for t in (np.uint16, np.float32)]
    for ours, expected in zip(both[0][1], both[1][1], strict=True):
        np.testing.assert_array_equal(ours, expected)


def assert_same_gradients(op, dout, caches, p, kept):
    assert kept.dtype == np.uint16
    found = []
    for cache in caches:
        g = p and type(p)(*map(np.zeros_like, p))
        found.append([op.backward(dout, cache, *([] if g is None else [g])), *(g or ())])
    for ours, expected in zip(*found, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, expected)


def test_nan_and_infinity_keep_their_meaning():
    a, b = np.ones((40, 40), np.float32), np.ones((40, 33), np.float32)
    a[3, 5], a[4, 6] = np.nan, np.inf
    out = matmul(a, b, out=np.empty((40, 33), np.float32))
    assert np.isnan(out[3]).all() and np.isposinf(out[4]).all()
    assert (np.delete(out, [3, 4], 0) == 40).all()


@njit
def packed(x, panels):
    width = right_width(x)
    pack_across(x, 0, len(x), 0, width, width, 1, panels, 0, len(panels))


def test_the_three_roundings_to_bfloat16_are_one():
    """NumPy's, the kernels' for vectors, and theirs for the last columns: ties, NaN, infinities."""
    upper = np.array([0, 0x3F80, 0x3F81, 0xBF80, 0xBF81, 0x7F7F, 0xFF80, 0x7FC0, 0x7FA5], np.uint32)
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    numbers = (upper[:, None] << 16 | lower).view(np.float32).reshape(-1)
    if cpu.BFLOAT16:  # the CPU's instruction rounds subnormal numbers to 0
        numbers = numbers[(numbers == 0) | ~(np.abs(numbers) < np.finfo(np.float32).tiny)]
    lanes = 2 * cpu.BYTES // 4
    for columns in (lanes, lanes - 1):  # a full panel, and one that is not
        x = np.resize(numbers, (2 * len(numbers), columns))
        expected = to_bfloat16(x).astype(np.uint32)
        expected = expected[0::2] | expected[1::2] << 16 if cpu.BFLOAT16 else expected << 16
        panels = np.zeros(len(expected) * lanes, np.uint32)
        packed(x, panels)
        np.testing.assert_array_equal(panels.reshape(-1, lanes)[:, :columns], expected)


PRODUCTS = """
import numpy as np
from npgpt.kernels import cpu
from npgpt.kernels.gemm import FEW, matmul
rng = np.random.default_rng(1)
print(cpu.BYTES, cpu.BFLOAT16)
for M, K, N in [(3, 50, 70), (20, 7, 33), (40, 7, 33), (64, 769, 100)]:
    a, b = (rng.normal(size=s).astype(np.float32) for s in ((M, K), (K, N)))
    out = matmul(a, b, out=np.empty((M, N), np.float32))
    most = 4 * np.finfo(np.float32).eps * K  # sqrt(K) roundings of sums of up to 4 sqrt(K)
    assert np.abs(out - a.astype(float) @ b).max() < most
    bits = lambda x: (x.view(np.uint32) + 0x7FFF + (x.view(np.uint32) >> 16 & 1)) & 0xFFFF0000
    narrow = [bits(x).astype(np.uint32).view(np.float32).astype(float) for x in (a, b)]
    out = matmul(a, b, out=np.empty((M, N), np.float32), panels=np.uint32)
    assert M <= FEW or np.abs(out - narrow[0] @ narrow[1]).max() < most
"""


@pytest.mark.slow
@pytest.mark.skipif(not cpu.FEATURES & {"avx512f"}, reason="no wider path here to turn off")
def test_a_cpu_without_wide_vectors_computes_the_same(tmp_path):
    """Half the vectors, half the registers, no bfloat16 instruction: Numba is told that the
    CPU has none."""
    from llvmlite import binding

    found = binding.get_host_cpu_features().flatten().split(",")
    without = ["-" + f[1:] if "avx512" in f or "evex" in f else f for f in found]
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRODUCTS],
        env=os.environ
        | {"NUMBA_CPU_FEATURES": ",".join(without), "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.split() == ["32", "False"]
