"""npgpt inspect, export, evaluate --stride and --init-from, on small models."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt.cli.main import main
from npgpt.inference.evaluate import Batches
from npgpt.model.params import named
from npgpt.system.shell import npgpt_command
from npgpt.weights import formats, huggingface, safetensors
from npgpt.weights.mapped import MappedTensor
from npgpt.weights.safetensors import TensorStream
from npgpt.weights.statistics import statistics
from parity_tests.support.bundles import write_gpt2
from parity_tests.support.saved_model import CONFIG, saved

TEXT = "The lamp is lit at dusk, and the keeper writes the hour in the book. "


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test in a folder of its own, with a text in it."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)


@pytest.fixture
def model():
    """A small model, saved as a.h5."""
    return saved("a.h5")


# inspect


def test_statistics_are_numpys(rng):
    for size in (1, 5, 1 << 18, (1 << 18) + 3):
        x = rng.normal(3, 2, size).astype(np.float32)
        found = statistics(stored(x))
        wide = x.astype(np.float64)
        np.testing.assert_allclose(found[:2], (wide.mean(), wide.std()), rtol=1e-12, atol=1e-15)
        assert found[2:] == (x.min(), x.max(), 0, 0)


def test_statistics_leave_out_what_is_no_number(rng):
    x = rng.normal(size=600_000).astype(np.float32)
    x[[5, 300_000, 599_999]] = np.nan, np.inf, -np.inf
    x[1 << 18 : 1 << 19] = np.nan  # a whole piece of nothing else
    good = x[np.isfinite(x)].astype(np.float64)
    found = statistics(stored(x))
    np.testing.assert_allclose(found[:2], (good.mean(), good.std()), rtol=1e-12)
    assert found[2:] == (good.min(), good.max(), np.isnan(x).sum(), np.isinf(x).sum())
    nothing = statistics(stored(x[1 << 18 : 1 << 19]))
    assert np.isnan(nothing[:4]).all()
    assert nothing.nan == 1 << 18


def stored(x):
    """An array as a tensor in a file."""
    safetensors.write_safetensors("x", {"x": TensorStream(x.shape, x.dtype.name, [x])})
    return safetensors.read_safetensors("x")["x"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_inspect_shows_the_contents(npgpt_, model, dtype):
    npgpt_(f"export --model a.h5 --out there --dtype {dtype}")
    said = npgpt_("inspect there").out
    assert said.startswith(f"there/model.safetensors: huggingface, {model.size:,} parameters\n")
    assert "n_layer 2" in said and "tokenizer byte" in said
    assert said.endswith("28 tensors, all numbers finite\n")
    found = json.loads(npgpt_("inspect there --json").out)
    assert found["config"] == vars(CONFIG)
    assert (found["format"], found["tokenizer"]) == ("huggingface", "byte")
    assert found["parameters"] == model.size and "checksums" not in found
    assert "parameters; checksums: none\n" in npgpt_("inspect there --verify").out
    tensor = found["tensors"]["transformer.h.1.mlp.c_fc.weight"]
    weight = npgpt.load("there").params.h[1].mlp.c_fc.weight.astype(np.float64)
    assert (tensor["shape"], tensor["dtype"]) == ([6, 24], dtype)
    np.testing.assert_allclose(
        [tensor[key] for key in ("mean", "std", "min", "max")],
        (weight.mean(), weight.std(), weight.min(), weight.max()),
        rtol=1e-12,
    )


def test_inspect_points_at_nan(npgpt_):
    def change(p):
        p.h[1].mlp.c_fc.weight[0, :3] = np.nan
        p.ln_f.bias[2] = np.inf
        p.wpe.weight[...] = np.nan

    saved("a.h5", change)
    said = npgpt_("inspect a.h5").out
    assert "3 of them with nan or inf: wpe.weight, h.1.mlp.c_fc.weight, ln_f.bias" in said
    assert "3 nan!" in said and "1 inf!" in said
    found = json.loads(npgpt_("inspect a.h5 --json").out)["tensors"]
    assert found["wpe.weight"]["mean"] is None
    assert found["wpe.weight"]["nan"] == 12 * 6


# export


@pytest.mark.parametrize("to", ["huggingface", "llm.c", "npgpt"])
def test_what_is_exported_is_the_same_model(npgpt_, model, to):
    assert npgpt_(f"export --model a.h5 --to {to} --out there").out == "there\n"
    source = formats.open_weights("there")
    assert source.format == to
    assert source.config == CONFIG
    for (name, a), (_, b) in zip(named(source.params()), named(model.params), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    said = npgpt_(f"export --model a.h5 --to {to} --out there", code=2).err
    assert said == "npgpt: there already exists: choose another --out\n"


@pytest.mark.parametrize("options", ["--to npgpt", "--to llm.c", "--to llm.c --dtype bfloat16"])
def test_what_is_read_back_otherwise_is_not_written(npgpt_, model, monkeypatch, options):
    chunks = MappedTensor.chunks

    def flipped(tensor):
        return (chunk + 1 for chunk in chunks(tensor))

    monkeypatch.setattr(MappedTensor, "chunks", flipped)
    said = npgpt_(f"export --model a.h5 {options} --out there", code=1).err
    assert said == "npgpt: wte.weight was read back with other numbers than were written\n"
    assert sorted(os.listdir()) == ["a.h5", "text.txt"]


def test_a_model_of_its_own_head_and_no_bias(npgpt_):
    model = saved("a.h5", tied=False, qkv_bias=False)
    npgpt_("export --model a.h5 --out there")
    other, tokens = npgpt.load("there"), np.arange(10)[None]
    assert not other.config.tied
    np.testing.assert_array_equal(other.logits(tokens), model.logits(tokens))
    said = npgpt_("export --model a.h5 --to llm.c --out l.bin", code=2).err
    assert "no output head of its own" in said
    assert not Path("l.bin").exists()


def test_export_has_no_float16_for_a_checkpoint(npgpt_, model):
    said = npgpt_("export --model a.h5 --to npgpt --dtype float16 --out b.h5", code=2).err
    assert "holds float32, not float16" in said


def test_a_full_disk(npgpt_, model, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface, "write_tensors", full)
    said = npgpt_("export --model a.h5 --out there", code=1).err
    full_disk = "there could not be written: No space left on device; nothing was written"
    assert said == f"npgpt: {full_disk}\n"
    assert not Path("there").exists()


# evaluate


@pytest.mark.parametrize("length, stride", [(12, 12), (12, 5), (7, 3), (12, 1), (9, 9), (12, 11)])
def test_every_token_is_predicted_once_from_what_its_window_shows(model, length, stride):
    tokens = np.frombuffer(TEXT.encode(), np.uint8).astype(np.int64)
    end, expected = 0, []
    for start in range(0, len(tokens) - 1, stride):  # as it is usually written: one at a time
        window = tokens[start : start + length + 1]
        fresh = start + len(window) - 1 - end
        if fresh <= 0:
            break
        logits = model.logits(window[None, :-1])[0].astype(np.float64)
        total = np.log(np.exp(logits).sum(-1))
        chosen = logits[np.arange(len(logits)), window[1:]]
        expected.extend((total - chosen)[-fresh:])
        end += fresh
    assert end == len(tokens) - 1
    for size in (1, 4):
        pairs = Batches(tokens, length, size, stride)
        assert all(len(inputs) <= size for inputs, _ in pairs)
        assert np.array_equal(np.concatenate([t.ravel() for _, t in pairs]), tokens[1:])
        total = sum(model.evaluate(x, t) * t.size for x, t in pairs)
        # float32 losses of about 5.5; each is right to a few of its last digits
        assert total / end == pytest.approx(np.mean(expected), rel=1e-6)


def test_evaluate_with_a_stride(npgpt_, model):
    plain = npgpt_("evaluate --model a.h5 --data text.txt").out
    assert plain.endswith("over 68 tokens (byte) in windows of 12\n")
    assert npgpt_("evaluate --model a.h5 --data text.txt --stride 12").out == plain
    near = npgpt_("evaluate --model a.h5 --data text.txt --context-length 8 --stride 3").out
    assert near.endswith("over 68 tokens (byte) in windows of 8, 3 apart\n")
    assert near.split(" nats")[0] != plain.split(" nats")[0]


@pytest.mark.parametrize(
    "flags, says",
    [
        ("--stride 0", "stride is 0, but must be at least 1"),
        ("--stride 13", "stride is 13, but must be at most the context length 12"),
        ("--context-length 13", "context_length is 13, but must be at most the model's 12"),
        ("--context-length 5 --stride 6", "stride is 6, but must be at most the context length 5"),
    ],
)
def test_evaluate_refuses(npgpt_, model, flags, says):
    assert says in npgpt_(f"evaluate --model a.h5 --data text.txt {flags}", code=2).err


# training from given weights


def test_positions_are_cropped_never_stretched(npgpt_, model):
    write_gpt2("openai", CONFIG, dict(named(model.params)))
    line = "train --data text.txt --tokenizer byte --init-from openai --steps 1 --lr 0 "
    line += "--initial-lr 0 --sample-tokens 2 --batch-size 1 --stride 4 --train-fraction 0.5"
    said = npgpt_(f"{line} --out long --context-length 13", code=2).err
    assert "has positions for 12. They can be cropped, but not extended" in said
    npgpt_(f"{line} --out short --context-length 8 --dropout 0.2")
    short = npgpt.load("short")
    assert (short.config.context_length, short.config.dropout) == (8, 0.2)
    np.testing.assert_array_equal(short.params.wpe.weight, model.params.wpe.weight[:8])
    np.testing.assert_array_equal(short.params.wte.weight, model.params.wte.weight)


# download: that it fetches is tested in test_download.py


def released(monkeypatch, write):
    """Puts a fetcher in place of the real one: it writes, and asks what the command asks of it."""
    from npgpt.download import gpt2

    def fetched(name, *, source, to, check, progress):
        assert (name, to) == ("gpt2-small", Path("there"))
        write(to)
        check(to)
        progress("model.bin", 5, 10_000_000)
        progress("model.bin", 10, 10_000_000)
        return to

    monkeypatch.setattr(gpt2, "download_model", fetched)


def test_download_verifies_and_names_the_next_command(npgpt_, model, monkeypatch):
    released(monkeypatch, lambda to: main(["export", "--model", "a.h5", "--out", str(to)]))
    said = npgpt_("download gpt2-small --to there").out
    assert said == (
        "there\nmodel.bin (10.0 MB)\nthere\n"
        f"Next: {npgpt_command('generate', model='there', prompt='Every effort moves you')}\n"
    )


def test_a_download_from_openai_is_compared_with_its_checksums(npgpt_, model, monkeypatch):
    def write(to):
        write_gpt2(to, CONFIG, dict(named(model.params)))
        (data,) = to.glob("*.data-*")
        raw = bytearray(data.read_bytes())
        raw[100] ^= 1
        data.write_bytes(raw)

    released(monkeypatch, write)
    assert "is damaged" in npgpt_("download gpt2-small --to there --source openai", code=2).err
    npgpt.load("there")  # without verification it loads


def test_a_name_that_was_not_downloaded(npgpt_, monkeypatch):
    monkeypatch.setenv("NPGPT_CACHE", "empty")
    monkeypatch.setenv("HF_HUB_CACHE", "empty")
    said = npgpt_("generate --model gpt2-xl --prompt x", code=2).err
    assert said == "npgpt: gpt2-xl has not been downloaded yet: run npgpt download gpt2-xl\n"
