"""Kernels of the Numba backend: products of every shape, and the buffer pool."""

import errno
import gc
import itertools
import mmap
import threading
import tracemalloc

import numba
import numpy as np
import pytest
import torch

import npgpt
from npgpt import fused, ops
from npgpt.inference.window import Reader, Window, clear
from npgpt.kernels import buffer_pool
from npgpt.kernels.gemm import FEW, K_PACKED, KC, MC, STREAMED, matmul
from npgpt.kernels.gemm_microkernel import MR
from npgpt.model import kv_cache
from parity_tests.support.harness import assert_parity, farthest

# around the edges of a tile, a panel and a block, in every way in which a and b can lie
SHAPES = [
    (1, 1, 1), (1, 9, 11), (1, 64, 64), (2, 5, 70), (3, 70, 600), (4, 1030, 33), (FEW, 50, 40),
    (9, 200, 70), (FEW + 1, 1, 1), (FEW + 1, 7, 3), (MR + 3, 16, 32), (29, 17, 33),
    (64, 769, 100), (100, 1600, 70), (30, K_PACKED + 5, 40), (MC + 9, 20, 40),
    (257, 130, 1030), (FEW + 8, 1, 64), (FEW + 8, 3, 64),
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


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("K", [40, KC, KC + 1])
@pytest.mark.parametrize("biased", [True, False])
def test_a_large_product_is_the_same_wherever_it_is_written(dtype, K, biased, rng):
    """Past the caches if rows begin at cache lines, else through them: the same bits."""
    rows, columns = 14 * MR + 5, 96 * 70  # the last panel is not full
    a, b = rng.normal(size=(rows, K)), rng.normal(size=(K, columns))
    bias = rng.normal(size=columns).astype(dtype) if biased else None
    pages = buffer_pool.empty((rows * columns + 1,), dtype)
    assert pages[1:].nbytes >= STREAMED and pages.ctypes.data % 64 == 0
    found = []
    for shift in (0, 1):
        out = pages[shift : shift + rows * columns].reshape(rows, columns)
        out[...] = np.nan
        matmul(a.astype(dtype), b.astype(dtype), out=out, bias=bias)
        found.append(out.copy())
    np.testing.assert_array_equal(*found)
    theirs = [
        multiply(x, a.astype(dtype), b.astype(dtype), bias, None, "bias" * biased)
        for x in (torch.float32, torch.float64)
    ]
    stray = farthest(*theirs) * (2 if dtype == np.float64 else 1)
    assert_parity("out", found[0], theirs[1], stray, dtype=dtype, unit=K**0.5)


def test_a_nan_outside_the_product_stays_outside(rng):
    """The last lanes of a panel are undefined: none of them may reach the result."""
    a, b = np.full((40, 50), np.nan, np.float32), np.full((50, 90), np.nan, np.float32)
    a[:17, :20], b[:20, :33] = rng.normal(size=(17, 20)), rng.normal(size=(20, 33))
    a_copy, b_copy = np.ascontiguousarray(a[:17, :20]), np.ascontiguousarray(b[:20, :33])
    out = np.full((17, 33), np.nan, np.float32)
    assert np.isfinite(matmul(a_copy, b_copy, out=out)).all()
    assert np.isfinite(matmul(a[:17, :20], b[:20, :33], out=out)).all()


# One position at a time


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "batch, qkv_bias", [(1, True), (2, True), (5, True), (8, True), (1, False), (5, False)]
)
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


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 5])
def test_layers_may_have_unequal_capacities(batch, rng):
    """A pass that fails between two blocks leaves them."""
    config = npgpt.Config(vocab_size=9, context_length=600, n_layer=2, n_head=3, n_embd=48)
    reader = Reader(npgpt.GPT(config, ops="fused"))
    tokens, found = rng.integers(9, size=(batch, 4)), []
    for count in 1, 300:
        past = reader.model.kv_cache(batch)
        windows = [Window(row[:3].tolist(), reader.empty_cache()) for row in tokens]
        for caches in past, *(window.caches for window in windows):
            caches[1].reserve(count)
            clear(caches)
        reader.model.next_logits(tokens[:, :3], past=past)
        list(reader.logits(windows))
        for window, row in zip(windows, tokens, strict=True):
            window.append(int(row[3]))
        found.append([*reader.model.next_logits(tokens[:, 3:], past=past), *reader.logits(windows)])
    np.testing.assert_array_equal(*found)


# Buffers


def test_a_large_array_leaves_its_pages_to_the_next_of_its_size():
    pool = buffer_pool.Pool()
    first = pool.empty((1000, 1000), np.float32)
    address, part = first.ctypes.data, first[3:, 7]
    assert first.shape == (1000, 1000) and first.dtype == np.float32
    other = pool.empty((1000, 1000), np.float32)
    assert pool.allocations == 2 and not np.shares_memory(first, other)
    del first
    assert not np.shares_memory(part, pool.empty((1000, 1000), np.float32))  # a view keeps it
    del part
    gc.collect()
    again = pool.empty((1000, 1000), np.float32)
    assert pool.allocations == 3 and address == again.ctypes.data
    del again, other
    three = [pool.empty((1000, 1000), np.float32) for _ in range(3)]
    assert pool.allocations == 3 and len({x.ctypes.data for x in three}) == 3  # all


def test_unused_pages_are_released():
    pool = buffer_pool.Pool()
    for size in range(1, 40):
        pool.empty((size << 20,), np.uint8)
    unused = sum(size * len(pages) for size, pages in pool.free.items())
    assert unused == pool.size <= 2 * 40 << 20


def test_pages_that_the_system_does_not_have_are_a_memory_error(monkeypatch):
    pool, limit, left = buffer_pool.Pool(), 3 << 20, mmap.mmap

    def limited(handle, size, **options):
        if pool.size + size > limit:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return left(handle, size, **options)

    monkeypatch.setattr(buffer_pool.mmap, "mmap", limited)
    pool.empty((2 << 20,), np.uint8)
    pool.peak = 1 << 30  # unused pages are kept, until they are all that is left
    kept = pool.empty((3 << 20,), np.uint8)
    assert pool.size == kept.nbytes and not pool.free[2 << 20]
    with pytest.raises(MemoryError, match="an array of 1,048,576 bytes"):
        pool.empty((1 << 20,), np.uint8)
    del kept
    assert pool.empty((1 << 20,), np.uint8).size == pool.size


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="only Linux has huge pages")
def test_a_kernel_without_huge_pages_has_others(monkeypatch):
    monkeypatch.setattr(buffer_pool.mmap, "MADV_HUGEPAGE", 1 << 20)  # which it does not know
    assert buffer_pool.Pool().empty((buffer_pool.HUGE,), np.uint8).size == buffer_pool.HUGE


def test_a_workspace_has_one_user_at_a_time():
    pool = buffer_pool.Pool()
    first, other = pool.acquire(1000, np.float32), pool.acquire(10, np.uint32)
    assert first.size >= 1000 and first.dtype == np.float32 and other.dtype == np.uint32
    assert not np.shares_memory(first, other) and first.ctypes.data % 64 == 0
    pool.release(first)
    assert np.shares_memory(first, pool.acquire(400, np.float64))


def test_there_are_as_many_workspaces_as_users_at_once_and_small_ones_are_replaced():
    pool = buffer_pool.Pool()
    for size in range(1, 40):
        pool.release(pool.acquire(size * 1000, np.float32))
    assert [len(workspace) for workspace in pool.workspaces] == [-(-39_000 * 4 // 64) * 64]


def test_pages_come_back_from_other_threads_and_from_cycles():
    """A finalizer runs in any thread, and also while the pool allocates."""
    pool, cycle = buffer_pool.Pool(), []
    cycle.append((cycle, pool.empty((1 << 20,), np.uint8)))
    del cycle

    def work():
        for i in range(200):
            x = pool.empty((1 << 20,), np.uint8)
            x[::4096] = i % 256
            assert (x[::4096] == i % 256).all()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert pool.allocations <= 5
    assert pool.size == pool.allocations << 20 == len(pool.free[1 << 20]) << 20


def test_small_arrays_are_numpys():
    pool = buffer_pool.Pool()
    assert pool.empty((10,), np.float64).base is None and pool.allocations == 0


@pytest.mark.slow
def test_the_pages_of_a_mask_come_back():
    shape, rng, made = (3, 5, 211, 307), npgpt.Generator(1), buffer_pool.pool.allocations
    for _ in range(2):
        x = buffer_pool.empty(shape, np.float32)
        _, cache = fused.dropout.forward(x, rate=0.1, rng=rng, out=x)
        assert cache.keep.nbytes > buffer_pool.LARGE and 0.89 < cache.keep.mean() < 0.91
        del x, cache
        gc.collect()
    assert buffer_pool.pool.allocations == made + 2  # the numbers and their mask, once


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
    for _ in range(2):  # a first round may release pages that other tests have left
        step()
        model.next_logits(tokens[:1, :1], past=past)
    made = buffer_pool.pool.allocations
    tracemalloc.start()
    for _ in range(3):
        step()
        model.next_logits(tokens[:1, :1], past=past)
    large = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert buffer_pool.pool.allocations == made
    assert large < buffer_pool.LARGE * 2, f"NumPy was asked for {large:,} bytes at once"


def test_the_pages_of_a_cache_return_to_the_pool():
    config = npgpt.Config(vocab_size=5, context_length=1024, n_layer=1, n_head=4, n_embd=260)
    model = npgpt.GPT(config, ops="fused")
    size = 768 * 260 * 4  # twice each prompt, rounded up; no other test leaves pages of this size
    size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    for length in 301, 257, 384:
        model.next_logits(np.zeros((1, length), int), past=model.kv_cache())
        assert len(buffer_pool.pool.free[size]) == 2  # keys and values
