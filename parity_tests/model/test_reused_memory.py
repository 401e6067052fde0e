"""Logits lie in memory that the gradients of the blocks do not need yet."""

import threading

import numpy as np
import pytest

import npgpt
from npgpt import arrays
from npgpt.kernels import buffer_pool

CONFIG = npgpt.Config(vocab_size=70, context_length=24, n_embd=48, n_head=2, n_layer=2)


@pytest.fixture(params=["fused", "mixed"])
def model(request):
    return npgpt.GPT(CONFIG, seed=1, ops=getattr(npgpt, request.param))


def test_gradients_are_those_without_reused_memory(model, monkeypatch):
    found = []

    def reused(shape, dtype):
        found.append(arrays.reused(shape, dtype))
        return found[-1]

    monkeypatch.setattr(buffer_pool, "reused", reused)
    tokens = np.random.default_rng(0).integers(70, size=(2, 2, 24))
    expected = model.loss_and_gradients(*tokens, out=npgpt.zeros_like(model.params))
    assert found and all(one is None for one in found)
    found.clear()
    ours = model.loss_and_gradients(*tokens)
    flat = ours[1].h[0].ln_1.weight.base
    assert found and all(np.may_share_memory(one, flat) for one in found)
    written = ours[1].wte.weight, ours[1].wpe.weight, ours[1].ln_f.weight
    assert not any(np.may_share_memory(one, part) for one in found for part in written)
    assert ours[0] == expected[0]
    for (name, a), (_, b) in zip(*(npgpt.named(tree) for _, tree in (ours, expected)), strict=True):
        np.testing.assert_array_equal(a, b, name)


def test_parts_do_not_overlap_and_end_with_the_memory():
    memory = arrays.zeros(64, np.float32)
    assert arrays.reused((1,), np.float32) is None
    with arrays.reuse(memory):
        first, second = arrays.reused((3, 3), np.float32), arrays.reused((40,), np.uint16)
        assert arrays.reused((33,), np.float32) is None
        last = arrays.reused((16,), np.float32)
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(arrays.reused((1,), np.uint8)))
        thread.start()
        thread.join()
        assert elsewhere == [None]
    assert arrays.reused((1,), np.uint8) is None
    for i, part in enumerate((first, second, last), 1):
        part[...] = i
        assert part.ctypes.data % arrays.LINE == 0 and np.may_share_memory(part, memory)
    assert (first == 1).all() and (second == 2).all() and (last == 3).all()
