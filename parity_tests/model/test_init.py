"""The numbers a model starts from: PyTorch's for the book, GPT-2's own otherwise."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import npgpt
from npgpt import Config, Generator
from npgpt.preset import PRESETS

CONFIG = Config(vocab_size=101, context_length=24, n_layer=2, n_head=4, n_embd=48)
# npgpt gives the stream of these two; elsewhere PyTorch's uniforms and normals differ by 3e-6
SAME_BITS = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


class BookBlock(nn.Module):
    """The book's TransformerBlock as far as its numbers go: the layers in their order."""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.W_query = nn.Linear(C, C, bias=config.qkv_bias)
        self.W_key = nn.Linear(C, C, bias=config.qkv_bias)
        self.W_value = nn.Linear(C, C, bias=config.qkv_bias)
        self.out_proj = nn.Linear(C, C)
        self.ff = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))


class BookGPT(nn.Module):
    """The book's GPTModel likewise."""

    def __init__(self, config):
        super().__init__()
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.pos_emb = nn.Embedding(config.context_length, config.n_embd)
        self.trf_blocks = nn.Sequential(*(BookBlock(config) for _ in range(config.n_layer)))
        self.out_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)


def by_checkpoint_name(book, config):
    """PyTorch keeps (out, in), GPT-2 (in, out), and its c_attn is the three side by side."""
    found = {"wte.weight": book.tok_emb.weight, "wpe.weight": book.pos_emb.weight}
    for i, block in enumerate(book.trf_blocks):
        qkv = block.W_query, block.W_key, block.W_value
        found[f"h.{i}.attn.c_attn.weight"] = torch.cat([a.weight.T for a in qkv], dim=1)
        if config.qkv_bias:
            found[f"h.{i}.attn.c_attn.bias"] = torch.cat([a.bias for a in qkv])
        layers = {"attn.c_proj": block.out_proj, "mlp.c_fc": block.ff[0], "mlp.c_proj": block.ff[2]}
        for name, layer in layers.items():
            found[f"h.{i}.{name}.weight"] = layer.weight.T
            found[f"h.{i}.{name}.bias"] = layer.bias
    found["lm_head.weight"] = book.out_head.weight
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


@pytest.mark.slow
@pytest.mark.skipif(not SAME_BITS, reason="this CPU's PyTorch rounds its uniforms otherwise")
def test_not_one_of_the_books_162_million_numbers_differs():
    config = PRESETS["book"].config
    ours = dict(npgpt.named(npgpt.GPT(config, seed=123, scheme="book").params))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        theirs = by_checkpoint_name(BookGPT(config), config)
    assert sum(array.size for array in theirs.values()) == 162_381_312  # LayerNorms draw nothing
    differ = {name: int((ours[name] != theirs[name]).sum()) for name in theirs}
    assert sum(differ.values()) == 0, differ


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("seed", [0, 123])
def test_the_book_begins_with_pytorchs_numbers(seed, qkv_bias, backend):
    config = replace(CONFIG, qkv_bias=qkv_bias, tied=False)
    generator = Generator(seed, ops=backend)
    model = npgpt.GPT(config, seed=generator, scheme="book", ops=backend)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theirs = by_checkpoint_name(BookGPT(config), config)
        state = torch.get_rng_state().numpy()

    ours = dict(npgpt.named(model.params))
    norms = {name for name in ours if ".ln_" in f".{name}"}
    assert ours.keys() - norms == theirs.keys()
    for name in theirs:
        exact = {} if SAME_BITS else {"atol": 3e-6}
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, err_msg=name, **exact)
    for name in norms:
        np.testing.assert_array_equal(ours[name], float(name.endswith("weight")), err_msg=name)
    np.testing.assert_array_equal(generator.state, state)  # and the stream continues from there


def test_a_tied_book_has_the_same_numbers_and_no_head():
    tied, untied = (
        dict(npgpt.named(npgpt.GPT(replace(CONFIG, tied=t), scheme="book").params))
        for t in (True, False)
    )
    assert untied.keys() - tied.keys() == {"lm_head.weight"}
    for name in tied:
        np.testing.assert_array_equal(tied[name], untied[name], err_msg=name)


@pytest.mark.parametrize("tied", [True, False])
def test_gpt2_begins_with_its_own_spread(tied, backend):
    config = replace(CONFIG, n_layer=3, n_embd=96, tied=tied)
    model = npgpt.GPT(config, seed=7, ops=backend)
    for name, array in npgpt.named(model.params):
        layer, kind = name.rsplit(".", 1)
        if kind == "bias":
            np.testing.assert_array_equal(array, 0, err_msg=name)
        elif "ln_" in layer:
            np.testing.assert_array_equal(array, 1, err_msg=name)
        else:
            std = 0.02 / math.sqrt(2 * 3) if layer.endswith("c_proj") else 0.02
            # of n normal numbers the mean strays by std / sqrt(n), the deviation by
            # std / sqrt(2 n); five times that happens once in a million
            n = array.size
            wide = array.astype(np.float64)
            assert abs(wide.mean()) <= 5 * std / math.sqrt(n), name
            assert abs(wide.std() - std) <= 5 * std / math.sqrt(2 * n), name
            assert abs(wide).max() <= 6 * std, name


def test_no_two_matrices_of_gpt2_are_alike():
    """Compare the first numbers, divided by their standard deviation, of each two matrices."""
    model = npgpt.GPT(CONFIG, seed=7)
    seen = {}
    for name, array in npgpt.named(model.params):
        if array.ndim == 2:
            begins = array.ravel()[:8] / array.std()
            for other, theirs in seen.items():
                assert not np.allclose(begins, theirs, rtol=0.01), f"{name} begins as {other}"
            seen[name] = begins


@pytest.mark.parametrize("scheme", ["book", "gpt2"])
def test_seeds_and_dtypes(scheme, backend):
    def numbers(seed, dtype):
        model = npgpt.GPT(CONFIG, seed=seed, dtype=dtype, scheme=scheme, ops=backend)
        return dict(npgpt.named(model.params))

    first, again, other, wide = (
        numbers(*a) for a in ((1, np.float32), (1, np.float32), (2, np.float32), (1, np.float64))
    )
    for name in first:
        assert first[name].dtype == np.float32
        assert wide[name].dtype == np.float64
        np.testing.assert_array_equal(first[name], again[name], err_msg=name)
        np.testing.assert_array_equal(first[name], wide[name], err_msg=name)
        if first[name].ndim == 2:
            assert (first[name] != other[name]).mean() > 0.99, name
