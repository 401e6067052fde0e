"""npgpt inspect, compare, export, evaluate --stride and --init-from, on small models."""

import json
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt.cli.main import main
from npgpt.inference.evaluate import Batches
from npgpt.model import quantize
from npgpt.model.params import named
from npgpt.parity import compare
from npgpt.system.shell import npgpt_command
from npgpt.weights import formats, huggingface, safetensors
from npgpt.weights.safetensors import TensorStream
from npgpt.weights.statistics import statistics
from parity_tests.support.bundles import write_gpt2
from parity_tests.support.port_names import CONVENTIONS

CONFIG = npgpt.Config(vocab_size=257, context_length=12, n_layer=2, n_head=2, n_embd=6)
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


def saved(path, change=None, **changes):
    """A model of one seed, of which `change` may change parameters before it is saved."""
    config = npgpt.Config(**vars(CONFIG) | changes)
    model = npgpt.GPT(config, seed=7, tokenizer="byte", scheme="book")
    if change is not None:
        change(model.params)
    model.save(path)
    return model


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


# compare


def test_the_same_model_twice(npgpt_, model):
    npgpt_("export --model a.h5 --out b --to huggingface")
    said = npgpt_("compare a.h5 b").out
    assert "28 of 28 parameters are bit-identical" in said
    assert "the outputs of 25 of 25 layers are bit-identical" in said
    assert said.splitlines()[-2] == "The two models are equal."
    assert said.endswith("what a program computes: npgpt probe, then npgpt diagnose.\n")


def transpose(p):
    p.h[1].attn.c_proj.weight[...] = p.h[1].attn.c_proj.weight.T.copy()


def reorder(p):
    w = p.h[0].attn.c_attn.weight
    w[...] = np.concatenate([w[:, 6:12], w[:, :6], w[:, 12:]], 1)


def scale(p):
    p.h[1].mlp.c_proj.weight[...] *= 0.5


def blur(p):
    p.ln_f.weight[3] += 0.25


@pytest.mark.parametrize(
    "change, parameter, note, layer",
    [
        (transpose, "h.1.attn.c_proj.weight", " (transposed)", "h.1.attn.c_proj"),
        (reorder, "h.0.attn.c_attn.weight", " (query, key and value in another order)",
         "h.0.attn.c_attn"),
        (scale, "h.1.mlp.c_proj.weight", " (0.5 times the first)", "h.1.mlp.c_proj"),
        (blur, "ln_f.weight", "", "ln_f"),
    ],
    ids=["transposed", "reordered", "scaled", "changed"],
)  # fmt: skip
def test_the_first_difference(npgpt_, model, change, parameter, note, layer):
    saved("b.h5", change)
    said = npgpt_("compare a.h5 b.h5", code=1).out
    assert "27 of 28 parameters are bit-identical" in said
    first, second = said.splitlines()[-3:-1]
    assert first.startswith(f"First parameter that differs: {parameter}, by ")
    assert first.endswith(f" of its largest value{note}")
    assert second.startswith(f"First layer that differs: {layer}, by ")


def test_how_far_apart(model):
    other = saved("b.h5", blur)
    (found,) = [d for d in compare.compare_parameters(model, other) if d.largest]
    assert (found.name, found.largest, found.relative) == ("ln_f.weight", 0.25, 0.25)
    tokens = np.arange(9)[None]
    layers = {d.name: d for d in compare.compare_layers(model, other, tokens)}
    gap = np.abs(model.logits(tokens) - other.logits(tokens)).max()
    assert layers["logits"].largest == gap > 0
    traced = model.trace(tokens)
    outputs = dict(compare.trace(model, tokens))
    assert list(outputs) == list(traced)
    for name, array in outputs.items():
        np.testing.assert_array_equal(array, traced[name], err_msg=name)
    np.testing.assert_array_equal(outputs["logits"], model.logits(tokens))


def test_a_bias_that_one_of_them_does_without(npgpt_, model):
    def zero(p):
        for block in p.h:
            block.attn.c_attn.bias[...] = 0

    saved("zeros.h5", zero)
    plain = dict(named(npgpt.load("zeros.h5").params))
    plain = {n: a for n, a in plain.items() if not n.endswith("c_attn.bias")}
    bare = saved("bare.h5", qkv_bias=False)
    for name, array in named(bare.params):
        array[...] = plain[name]
    bare.save("bare.h5")
    said = npgpt_("compare zeros.h5 bare.h5").out
    assert said.splitlines()[-2] == "The two models are equal."


@pytest.mark.parametrize("kind", ["numpy", "fused", "mixed", "int8"])
def test_layers_are_compared_on_every_backend(kind):
    """Outputs of two backends are equal within rounding; those of other weights are not."""
    tokens, first = np.arange(9)[None], npgpt.GPT(CONFIG, seed=7, ops="numpy")
    other = npgpt.GPT(CONFIG, seed=7, ops="mixed" if kind == "int8" else kind)
    if kind == "int8":
        tree = quantize.quantize(other.params, kind)
        other = npgpt.GPT.from_params(CONFIG, tree)
    found = list(compare.compare_layers(first, other, tokens))
    assert len(found) == 25
    budgeted = compare.with_budgets(found, first, tokens)
    assert all(one.is_rounding for one in budgeted) == (kind in ("numpy", "fused"))
    own = compare.with_budgets(list(compare.compare_layers(other, first, tokens)), other, tokens)
    assert own[0].is_rounding or kind == "int8"  # the embedding, which reads quantized rows


def last_bits(p):
    p.h[1].attn.c_proj.weight[...] *= np.float32(1 + 2.0**-23)


def half(p):
    p.h[0].mlp.c_fc.weight[...] = p.h[0].mlp.c_fc.weight.astype(np.float16)


def test_equal_within_rounding(npgpt_, model):
    saved("b.h5", last_bits)
    said = npgpt_("compare a.h5 b.h5 --ops numpy").out
    assert "27 of 28 parameters are bit-identical, 1 more is equal within rounding\n" in said
    assert said.splitlines()[-2] == "The two models are equal within rounding."
    saved("c.h5", half)
    said = npgpt_("compare a.h5 c.h5", code=1).out
    assert "(rounded to float16)\n" in said and "First layer that differs: h.0.mlp.c_fc, " in said


def test_weights_by_the_names_of_a_port(npgpt_, model):
    """In .npz and .safetensors; a layer of an unknown name is asked for."""
    tensors = dict(CONVENTIONS["minGPT"](dict(named(model.params)), CONFIG.n_head))
    np.savez("port.npz", **tensors)
    said = npgpt_("compare a.h5 port.npz").out
    assert said.startswith("a.h5 and port.npz\nweights are (out, in)\nq, k, v split\n28 of 28 ")
    assert "The two models are equal.\n" in said
    tensors["blocks.1.mlp.2.weight"] = tensors["blocks.1.mlp.2.weight"] * np.float32(2)
    streams = {name: TensorStream(x.shape, "float32", [x]) for name, x in tensors.items()}
    safetensors.write_safetensors("port.safetensors", streams)
    said = npgpt_("compare a.h5 port.safetensors", code=1).out
    assert "First parameter that differs: h.1.mlp.c_proj.weight, " in said
    tensors["what"] = 3 * tensors.pop("blocks.0.ln1.weight")
    tensors["which"] = 3 * tensors.pop("blocks.1.ln1.weight")
    np.savez("port.npz", **tensors)
    said = npgpt_("compare a.h5 port.npz", code=2).err
    assert "could be h.0.ln_1.weight or h.1.ln_1.weight: add --map what=NAME" in said
    maps = "--map what=h.0.ln_1.weight --map which=h.1.ln_1.weight"
    said = npgpt_(f"compare a.h5 port.npz {maps}", code=1).out
    assert "First parameter that differs: h.0.ln_1.weight, " in said
    del tensors["what"]
    np.savez("port.npz", **tensors)
    said = npgpt_("compare a.h5 port.npz --map which=h.1.ln_1.weight", code=2).err
    assert said == ("npgpt: port.npz has no tensor that could be h.0.ln_1.weight, unless --map "
                    "says which it is\n")  # fmt: skip


def test_a_file_that_is_no_model_is_refused(npgpt_, model):
    Path("x.bin").write_bytes(b"nothing")
    said = npgpt_("compare a.h5 x.bin", code=2).err
    assert said == npgpt_("generate --model x.bin --prompt x", code=2).err


def test_models_of_different_sizes(npgpt_, model):
    saved("b.h5", n_layer=3)
    said = npgpt_("compare a.h5 b.h5", code=2).err
    assert said == "npgpt: the models differ in size: n_layer is 2 and 3\n"


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
