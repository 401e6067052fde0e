"""Keys and values in bfloat16: half of the memory, and a text that depends on nothing else."""

import numpy as np
import pytest

import npgpt
from npgpt.cli import main as cli
from npgpt.errors import InputError
from npgpt.performance import precompile
from npgpt.quantized_matrix import from_bfloat16, to_bfloat16
from parity_tests.inference.test_generate import model_of

SHAPE = dict(context_length=40, n_head=3, n_embd=48)


def logits(model, tokens, dtype):
    """Return the logits after each token but the first ones (B, T), which are read together."""
    past = model.kv_cache(len(tokens), dtype=dtype)
    found = [model.next_logits(tokens[:, :7], past=past)]
    found += [model.next_logits(tokens[:, t : t + 1], past=past) for t in range(7, 20)]
    return np.array(found), past


@pytest.mark.slow
def test_keys_and_values_are_rounded_and_nothing_else(backend, rng):
    model = model_of(backend, np.float32, **SHAPE)
    tokens = rng.integers(17, size=(2, 20))
    exact, wide = logits(model, tokens, None)
    rounded, half = logits(model, tokens, "bfloat16")
    assert 2 * half[0].k.nbytes == wide[0].k.nbytes
    # of the first block, whose input is exact; the prompt attends to keys that are not rounded
    for one, other in ((wide[0].k, half[0].k), (wide[0].v, half[0].v)):
        found = from_bfloat16(other[:, :, :20])
        np.testing.assert_array_equal(found, from_bfloat16(to_bfloat16(one[:, :, :20])))
    np.testing.assert_array_equal(rounded[0], exact[0])
    apart = np.abs(rounded - exact)[1:].max() / np.abs(exact).max()
    assert 0 < apart < 2**-5  # a number is rounded by 2**-9 at most; this model amplifies it


@pytest.mark.slow
def test_a_text_is_its_own_run_with_and_without_drafts(backend):
    model = model_of(backend, np.float32, **SHAPE)
    prompts = [1, 2, 3, 1, 2], [4, 5], [6, 7, 8]

    def run(tokens, **options):
        return np.array(list(npgpt.generate(model, tokens, 30, cache_dtype="bfloat16", **options)))

    together = run(prompts).T
    for prompt, text in zip(prompts, together, strict=True):
        np.testing.assert_array_equal(run(prompt), text)
        np.testing.assert_array_equal(run(prompt, speculate=npgpt.Speculation()), text)


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_a_draft_model_has_the_dtype_too(dtype):
    """The kernels that are compiled ahead of time are for one dtype."""
    model = model_of("numpy", np.float32)
    speculation = npgpt.Speculation(model_of("numpy", np.float32))
    batch = npgpt.Batch(model, speculate=speculation, cache_dtype=dtype)
    found = {layer.k.dtype for layer in batch._speculator.source.window.caches}
    assert found == {np.dtype(np.uint16 if dtype == "bfloat16" else np.float32)}


def test_the_command_has_the_option(tmp_path, capsys, monkeypatch):
    compiled = []
    monkeypatch.setattr(precompile, "compile_kernels", lambda *_, **how: compiled.append(how))
    model = model_of("numpy", np.float32, vocab_size=257)
    model.tokenizer = "byte"
    model.save(tmp_path / "model.h5")
    command = f"generate --model {tmp_path / 'model.h5'} --prompt The --max-new-tokens 2"
    assert cli.main([*command.split(), "--cache-dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out.startswith("The")
    assert compiled == [{"cache_dtype": "bfloat16"}]


@pytest.mark.parametrize("dtype", ["int8", "float64", np.float32, 2])
def test_other_dtypes_are_refused(dtype):
    model = model_of("numpy", np.float32)
    with pytest.raises(InputError, match=r"cache_dtype is .* bfloat16 or the model's own, float32"):
        npgpt.generate(model, [1], 2, cache_dtype=dtype)
