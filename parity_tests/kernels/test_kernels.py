"""What the Numba backend's ops are made of: products of every shape, buffers that come back."""

import gc
import itertools
import tracemalloc

import numba
import numpy as np
import pytest
import torch

import npgpt
from npgpt import fused, ops
from npgpt.kernels import buffer_pool
from npgpt.kernels.gemm import FEW, MOST_ROWS, MOST_TERMS, STREAMED, TERMS, matmul
from npgpt.kernels.gemm_microkernel import ROWS
from npgpt.model import kv_cache
from parity_tests.support.harness import assert_parity, farthest

# around the edges of a tile, a panel and a block, in every way in which a and b can lie
SHAPES = [
    (1, 1, 1), (1, 9, 11), (1, 64, 64), (2, 5, 70), (3, 70, 600), (4, 1030, 33), (FEW, 50, 40),
    (9, 200, 70), (FEW + 1, 1, 1), (FEW + 1, 7, 3), (ROWS + 3, 16, 32), (29, 17, 33),
    (64, 769, 100), (100, 1600, 70), (30, MOST_TERMS + 5, 40), (MOST_ROWS + 9, 20, 40),
    (257, 130, 1030),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_a_product_of_any_shape(shape, dtype, rng):
    M, K, N = shape
    for a_transposed, b_transposed, extra in itertools.product(
        (0, 1), (0, 1), ("", "bias", "beta")
    ):
        a = rng.normal(size=(K, M) if a_transposed else (M, K)).astype(np.float32)
        b = rng.normal(size=(N, K) if b_transposed else (K, N)).astype(np.float32)
        a, b = a.T if a_transposed else a, b.T if b_transposed else b
        bias, before = (rng.normal(size=s).astype(np.float32) for s in ((N,), (M, N)))
        theirs = [multiply(x, a, b, bias, before, extra) for x in (torch.float32, torch.float64)]
        out = before.astype(dtype) if extra == "beta" else np.full((M, N), np.nan, dtype)
        a, b = (x.astype(dtype, order="K") for x in (a, b))
        matmul(a, b, out=out, bias=bias.astype(dtype) if extra == "bias" else None,
               beta=int(extra == "beta"))  # fmt: skip
        # in float64 the truth is a sum of as many terms as ours, and as far from the true one
        stray = farthest(*theirs) * (2 if dtype == np.float64 else 1)
        assert_parity("out", out, theirs[1], stray, dtype=dtype, unit=K**0.5)


def multiply(dtype, a, b, bias, before, extra):
    given = (None if x is None else torch.tensor(x, dtype=dtype) for x in (a, b, bias, before))
    a, b, bias, before = given
    out = a @ b
    return (out + bias if extra == "bias" else out + before if extra == "beta" else out).numpy()


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one core: one number of threads")
@pytest.mark.parametrize("rows", [1, 8, 100])
def test_threads_change_no_bit_of_a_product(rows, rng):
    a = rng.normal(size=(rows, 700)).astype(np.float32)
    b, found = rng.normal(size=(700, 333)).astype(np.float32), []
    before = numba.get_num_threads()
    for threads in (1, 2):
        numba.set_num_threads(threads)
        found.append(matmul(a, b, out=np.empty((rows, 333), np.float32)))
    numba.set_num_threads(before)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("terms", [40, TERMS, TERMS + 1])
@pytest.mark.parametrize("biased", [True, False])
def test_a_large_product_is_the_same_wherever_it_is_written(dtype, terms, biased, rng):
    """Past the caches, where rows begin with cache lines; else through them: the same bits."""
    rows, columns = 14 * ROWS + 5, 96 * 70  # of a last panel that is not whole, too
    a, b = rng.normal(size=(rows, terms)), rng.normal(size=(terms, columns))
    bias = rng.normal(size=columns).astype(dtype) if biased else None
    home = buffer_pool.empty((rows * columns + 1,), dtype)
    assert home[1:].nbytes >= STREAMED and home.ctypes.data % 64 == 0
    found = []
    for shift in (0, 1):
        out = home[shift : shift + rows * columns].reshape(rows, columns)
        out[...] = np.nan
        matmul(a.astype(dtype), b.astype(dtype), out=out, bias=bias)
        found.append(out.copy())
    np.testing.assert_array_equal(*found)
    theirs = [
        multiply(x, a.astype(dtype), b.astype(dtype), bias, None, "bias" * biased)
        for x in (torch.float32, torch.float64)
    ]
    stray = farthest(*theirs) * (2 if dtype == np.float64 else 1)
    assert_parity("out", found[0], theirs[1], stray, dtype=dtype, unit=terms**0.5)


def test_a_nan_outside_the_product_stays_outside(rng):
    """Panels are filled up with whatever lies there; none of it may be seen."""
    a, b = np.full((40, 50), np.nan, np.float32), np.full((50, 90), np.nan, np.float32)
    a[:17, :20], b[:20, :33] = rng.normal(size=(17, 20)), rng.normal(size=(20, 33))
    some, more = np.ascontiguousarray(a[:17, :20]), np.ascontiguousarray(b[:20, :33])
    out = np.full((17, 33), np.nan, np.float32)
    assert np.isfinite(matmul(some, more, out=out)).all()
    assert np.isfinite(matmul(a[:17, :20], b[:20, :33], out=out)).all()


# One position at a time


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_a_position_at_a_time_is_the_block(backend, batch, qkv_bias, dtype, rng):
    config = npgpt.Config(vocab_size=9, context_length=6, n_layer=1, n_head=3, n_embd=48,
                          qkv_bias=qkv_bias)  # fmt: skip
    model = npgpt.GPT(config, dtype=np.float64, ops=ops)
    for _, array in npgpt.named(model.params):
        array[...] = rng.normal(size=array.shape, scale=0.3)
    narrow = npgpt.model.params.map_leaves(model.params, lambda array: array.astype(np.float32))
    x = rng.normal(size=(batch, 6, 48)).astype(np.float32)
    truth = steps(ops, model.params.h[0], x.astype(np.float64), config)
    stray = farthest(steps(ops, narrow.h[0], x, config), truth)
    p = (model.params if dtype == np.float64 else narrow).h[0]
    found = steps(backend, p, x.astype(dtype), config)
    assert_parity("out", found, truth, stray, dtype=dtype)


def steps(backend, p, x, config):
    blocks, past = (p,), [kv_cache.LayerCache(len(x), config, x.dtype)]
    return np.concatenate(
        [backend.decode.forward(np.ascontiguousarray(x[:, t : t + 1]), blocks, n_head=3, past=past)
         for t in range(x.shape[1])], axis=1,
    )  # fmt: skip


# Buffers


def test_a_large_array_leaves_its_pages_to_the_next_of_its_size():
    pool = buffer_pool.Pool()
    first = pool.empty((1000, 1000), np.float32)
    place, part = first.ctypes.data, first[3:, 7]
    assert first.shape == (1000, 1000) and first.dtype == np.float32
    other = pool.empty((1000, 1000), np.float32)
    assert pool.made == 2 and not np.shares_memory(first, other)
    del first
    assert not np.shares_memory(part, pool.empty((1000, 1000), np.float32))  # a view keeps it
    del part
    gc.collect()
    again = pool.empty((1000, 1000), np.float32)
    assert pool.made == 3 and place == again.ctypes.data
    del again, other
    three = [pool.empty((1000, 1000), np.float32) for _ in range(3)]
    assert pool.made == 3 and len({x.ctypes.data for x in three}) == 3  # all that were made


def test_pages_that_nobody_asks_for_go_back():
    pool = buffer_pool.Pool()
    for size in range(1, 40):
        pool.empty((size << 20,), np.uint8)
    assert sum(len(x) for some in pool.pages.values() for x in some) <= 2 * 40 << 20


def test_room_is_lent_to_one_at_a_time():
    pool = buffer_pool.Pool()
    first, other = pool.lend(1000, np.float32), pool.lend(10, np.uint32)
    assert first.size >= 1000 and first.dtype == np.float32 and other.dtype == np.uint32
    assert not np.shares_memory(first, other) and first.ctypes.data % 64 == 0
    pool.restore(first)
    assert np.shares_memory(first, pool.lend(400, np.float64))


def test_there_are_as_many_rooms_as_were_lent_at_once_and_the_small_ones_go():
    pool = buffer_pool.Pool()
    for size in range(1, 40):
        pool.restore(pool.lend(size * 1000, np.float32))
    assert [len(room) for room in pool.rooms] == [-(-39_000 * 4 // 64) * 64]


def test_small_arrays_are_numpys():
    pool = buffer_pool.Pool()
    assert pool.empty((10,), np.float64).base is None and pool.made == 0


def test_the_pages_of_a_mask_come_back():
    shape, rng, made = (3, 5, 211, 307), npgpt.Generator(1), buffer_pool.pool.made
    for _ in range(2):
        x = buffer_pool.empty(shape, np.float32)
        _, cache = fused.dropout.forward(x, rate=0.1, rng=rng, out=x)
        assert cache.keep.nbytes > buffer_pool.LARGE and 0.89 < cache.keep.mean() < 0.91
        del x, cache
        gc.collect()
    assert buffer_pool.pool.made == made + 2  # the numbers and their mask, once


def test_a_step_and_a_token_make_no_large_array():
    """After the first, everything large comes back. Small enough to be quick, large enough that
    activations, logits and panels are more than `buffer_pool.LARGE`."""
    config = npgpt.Config(vocab_size=3000, context_length=128, n_layer=2, n_head=4, n_embd=256)
    model = npgpt.GPT(config)
    gradients, optimizer = npgpt.model.params.zeros(config), npgpt.AdamW(model.params)
    tokens = np.arange(2 * 129).reshape(2, 129) * 7 % 3000
    past = kv_cache.empty_cache(1, config)

    def step():
        _, cache = model.loss(tokens[:, :-1], tokens[:, 1:], out=gradients)
        model.backward(cache, out=gradients)
        optimizer.step(gradients)

    model.next_logits(tokens[:1, :32], past=past)
    for _ in range(2):  # a first round may send away pages that other tests have left
        step()
        model.next_logits(tokens[:1, :1], past=past)
    made = buffer_pool.pool.made
    tracemalloc.start()
    for _ in range(3):
        step()
        model.next_logits(tokens[:1, :1], past=past)
    large = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert buffer_pool.pool.made == made
    assert large < buffer_pool.LARGE * 2, f"NumPy was asked for {large:,} bytes at once"
