"""The probe: its numbers, its directory, its command, and the programs that its README shows."""

import contextlib
import dataclasses
import hashlib
import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

import npgpt
import npgpt.ops
from npgpt.cli.main import main
from npgpt.errors import InputError
from npgpt.model.params import named
from npgpt.parity import debug_state, pairing, probe, readme
from npgpt.parity.probe import Settings
from npgpt.training.schedule import clip_scale, global_norm
from parity_tests.ports import files, numpy_port, torch_port
from parity_tests.support.sources import ROOT

PAGE = (ROOT / "docs" / "find-the-bug.md").read_text("utf-8")
DIGEST = "f3b73d35f0b8091b"


@pytest.fixture(scope="module")
def tiny():
    return probe.make()


@pytest.fixture(scope="module")
def directory(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("probes") / "probe"
    probe.write(path, tiny)
    return path


def model_of(one, dtype=np.float64):
    tree = npgpt.model.params.map_leaves(one.params, lambda a: a.astype(dtype))
    return npgpt.GPT.from_params(one.config, tree, ops="numpy")


def assert_same(found, expected):
    assert found.config == expected.config
    assert found.settings == expected.settings
    for ours, other in zip(named(found.params), named(expected.params), strict=True):
        assert ours[0] == other[0]
        np.testing.assert_array_equal(ours[1], other[1], strict=True)
    np.testing.assert_array_equal(found.tokens, expected.tokens, strict=True)
    np.testing.assert_array_equal(found.targets, expected.targets, strict=True)


# Its numbers


def test_the_numbers_are_the_same_everywhere(tiny):
    total = hashlib.sha256(tiny.tokens.tobytes() + tiny.targets.tobytes())
    for _, array in named(tiny.params):
        total.update(array.tobytes())
    assert total.hexdigest()[:16] == DIGEST
    assert not np.array_equal(tiny.params.wte.weight, probe.make(1).params.wte.weight)


def test_sizes_tell_mistakes_apart(tiny):
    (B, T), config = tiny.tokens.shape, tiny.config
    D = config.n_embd // config.n_head
    assert len({B, T, config.n_head, D, config.n_embd, config.vocab_size}) == 6
    assert 8 <= T < config.context_length
    assert all(len({*row}) < T for row in tiny.tokens), "a row without a repeated token"
    ignored = (tiny.targets == -100).sum(1)
    assert len({*ignored}) == B
    assert (ignored[0], ignored.max() < T) == (0, True)


def test_weights_are_lively(tiny):
    for name, array in named(tiny.params):
        assert (array != 0).all(), name
        assert "ln_" not in name or (array != 1).all(), name
    found = model_of(tiny).trace(tiny.tokens)
    assert found["h.1.attn.probs"].max(-1)[:, :, 5:].mean() > 0.3, "attention is flat"
    curved = np.abs(found["h.0.mlp.c_fc"]) < 2
    assert 0.3 < curved.mean() < 0.95, "GELU is a line"


def test_the_place_of_epsilon_shows(tiny):
    """LayerNorm's eps is 1e-5 of a variance: it shows in float32 where the variance is small."""
    found = model_of(tiny).trace(tiny.tokens)
    x = found["embedding"]
    without = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    norm = tiny.params.h[0].ln_1
    other = without * norm.weight + norm.bias
    assert np.abs(other - found["h.0.ln_1"]).max() > 1e-4


# Its directory


@pytest.mark.parametrize("change", [{}, {"tied": False}, {"ignored": False, "seed": 7}])
def test_a_directory_is_read_as_it_was_written(change, tmp_path):
    made = replace(probe.make(**change), settings=Settings(lr=0.5, grad_clip=None, steps=1))
    probe.write(tmp_path / "p", made)
    assert_same(probe.read(tmp_path / "p"), made)
    for name in ["", "model.bin"] if made.config.tied else [""]:
        other = probe.of_model(npgpt.load(tmp_path / "p" / name, ops="numpy"))
        for ours, its in zip(named(made.params), named(other.params), strict=True):
            np.testing.assert_array_equal(ours[1], its[1], err_msg=name)
    again = json.loads((tmp_path / "p" / "settings.json").read_text())
    assert again["tokens"] == made.tokens.tolist()
    assert again["targets"] == made.targets.tolist()


def test_a_model_takes_the_place_of_a_probe(tiny, directory):
    found = probe.read(directory / "model.safetensors")
    assert found.config == tiny.config
    assert found.tokens.shape == (3, tiny.config.context_length)
    np.testing.assert_array_equal(found.targets[:, :-1], found.tokens[:, 1:])
    again = probe.read(directory / "model.safetensors")
    np.testing.assert_array_equal(found.tokens, again.tokens)


DAMAGE = {
    "settings.json": [
        ("not JSON", b"{", "is not JSON"),
        ("no probe", b"{}", "is not that of a probe"),
        ("a setting", ("settings", {"lr": -1}), "lr is -1, but must be at least 0"),
        (
            "an unknown setting",
            ("settings", {"rate": 1}),
            "unknown setting 'rate'; expected one of acc",
        ),
        ("a config", ("config", {}), "must have the fields"),
    ],
    "batch.npz": [("cut", 100, "truncated, damaged"), ("another", {"x": 1}, "has no tokens")],
    "weights.npz": [
        ("cut", 9000, "truncated, damaged"),
        ("another", {"wte.weight": np.zeros((2, 2))}, "has 1 arrays, too few for 2 layers"),
        ("no numbers", {str(i): i for i in range(30)}, "has (no|a) '"),
    ],
}
CASES = [(name, *case) for name, cases in DAMAGE.items() for case in cases]


@pytest.mark.parametrize(("name", "what", "change", "said"), CASES, ids=lambda x: str(x)[:20])
def test_a_damaged_directory_is_one_line(name, what, change, said, directory, tmp_path):
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / name
    if isinstance(change, bytes):
        path.write_bytes(change)
    elif isinstance(change, int):
        path.write_bytes(path.read_bytes()[:change])
    elif isinstance(change, tuple):
        path.write_text(json.dumps(json.loads(path.read_text()) | dict([change])))
    else:
        np.savez(path, **change)
    with pytest.raises(InputError, match=said) as caught:
        probe.read(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_meta_replaces_settings():
    found = Settings().with_meta(
        {"optimizer": {"name": "adam", "lr": 0.25, "betas": [0.5, 0.75]}, "dropout": 0.125,
         "grad_clip": None, "n_head": 2, "port": "of mine"}
    )  # fmt: skip
    expected = dict(optimizer="adam", lr=0.25, betas=(0.5, 0.75), dropout=0.125, grad_clip=None)
    assert found == Settings(**expected)
    assert Settings().with_meta({"optimizer": "sgd"}) == Settings(optimizer="sgd")


WRONG = {
    "optimizer": ("lion", "must be one of adam, adamw"),
    "lr": ("fast", "must be a number"),
    "betas": ([0.9, 1.0], "must be two numbers in"),
    "decay": (3, 'must be "all" or "matrices"'),
    "grad_clip": (0, "must be above 0"),
    "dropout": (1.0, r"must be in \[0, 1\)"),
    "accumulation": (0, "must be at least 1"),
    "steps": (float("nan"), "must be an integer"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_named(name):
    value, said = WRONG[name]
    with pytest.raises(InputError, match=f"in the dump's meta, {name} is .*{said}"):
        Settings().with_meta({name: value})


# llm.c's numbers


def test_llmc_reads_what_is_written(tmp_path):
    """Read it like llm.c's test_gpt2.c: fread after fread, without a look at the sizes."""
    one = probe.make(ignored=False)
    probe.write(tmp_path / "p", one)
    (B, T), V, C, L = one.tokens.shape, 29, 10, 2
    with open(tmp_path / "p" / "debug_state.bin", "rb") as file:
        header, x, y = (np.fromfile(file, "<i4", n) for n in (256, B * T, B * T))
        logits, loss = (np.fromfile(file, "<f4", n) for n in (B * T * V, 1))
        sizes = {"wte": 128 * C, "wpe": 11 * C, "ln1w": L * C, "ln1b": L * C, "qkvw": L * 3 * C * C}
        grads = {name: np.fromfile(file, "<f4", n) for name, n in sizes.items()}
        assert len(file.read()) == 4 * (12 * C * C * L + 13 * C * L - 3 * C * C * L - 2 * C * L
                                        + 2 * C)  # fmt: skip
    assert header[:5].tolist() == [20240327, 2, B, T, 0]
    assert (x.tolist(), y.tolist()) == (one.tokens.ravel().tolist(), one.targets.ravel().tolist())
    model = npgpt.GPT.from_params(one.config, one.params, ops="numpy")
    value, g = model.loss_and_gradients(one.tokens, one.targets)
    np.testing.assert_array_equal(logits.reshape(B, T, V), model.logits(one.tokens))
    assert loss[0] == np.float32(value)
    wte = grads["wte"].reshape(128, C)
    np.testing.assert_array_equal(wte[:V], g.wte.weight)
    assert not wte[V:].any()
    qkv = grads["qkvw"].reshape(L, 3 * C, C)
    np.testing.assert_array_equal(qkv[1], g.h[1].attn.c_attn.weight.T)

    _, dump = pairing.read(tmp_path / "p", tmp_path / "p" / "debug_state.bin")
    for name, array in named(g):
        np.testing.assert_array_equal(dump.tensors[f"grad/{name}"], array, err_msg=name)
    for name, array in (("targets", one.targets), ("logits", model.logits(one.tokens))):
        np.testing.assert_array_equal(dump.tensors[name], array)
    assert dump.tensors["loss"] == np.float32(value)


@pytest.mark.parametrize("change", [{}, {"tied": False, "ignored": False}])
def test_llmc_cannot_compute_with_every_probe(change, tmp_path):
    one = probe.make(**change)
    with pytest.raises(InputError, match=r"llm\.c cannot compute with this"):
        debug_state.write(tmp_path / "x", one.config, one.params, one.tokens, one.targets)
    probe.write(tmp_path / "p", one)
    assert not (tmp_path / "p" / "debug_state.bin").exists()


# The command


def test_the_command_writes_it(tiny, directory, tmp_path, capsys):
    out = tmp_path / "p"
    assert main(["probe", "--out", str(out)]) == 0
    assert f"see {out / 'README.txt'}" in capsys.readouterr().out
    assert_same(probe.read(out), tiny)
    assert main(["probe", "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"npgpt: {out} already exists: choose another --out\n"
    other = tmp_path / "q"
    assert main(["probe", "--out", str(other), "--model", str(directory), "--seed", "9"]) == 0
    found = probe.read(other)
    np.testing.assert_array_equal(found.params.wpe.weight, tiny.params.wpe.weight)
    assert found.tokens.shape == (3, 11)
    assert main(["probe", "--out", str(tmp_path / "r"), "--model", str(out), "--no-tied"]) == 2
    assert (
        capsys.readouterr().err
        == "npgpt: --no-tied is of the tiny model: leave it out, or --model\n"
    )


# The programs in its README


def test_the_programs_are_short_and_the_page_has_them(directory):
    text = (directory / "README.txt").read_text()
    for program, most in ((readme.PYTORCH, 10), (readme.NUMPY, 20)):
        assert program in text
        assert f"```python\n{program}```" in PAGE
        assert len(program.splitlines()) <= most
        assert max(map(len, program.splitlines())) <= 100


class Torch(torch_port.LanguageModel):
    """The clean port in PyTorch, called as most are."""

    def forward(self, tokens, targets):
        logits = super().forward(tokens, torch_port.SILENT)
        return logits, torch_port.loss_of(logits, targets)


def load_torch(path):
    source = files.read(path)
    model = Torch({**source.config, "dropout": 0.0})
    model.load({name: torch.tensor(array) for name, array in source.weights.items()})
    return model


def load_numpy(path):
    source = files.read(path)
    return numpy_port.load(source.weights, source.config)


def forward_and_backward(weights, tokens, targets):
    config = dataclasses.asdict(probe.SHAPE)
    logits, a, kept = numpy_port.forward(weights, config, tokens)
    loss, dlogits = numpy_port.cross_entropy(logits, targets)
    gradients, _ = numpy_port.backward(weights, config, tokens, dlogits, a, kept)
    return logits, loss, gradients


PORTS = {
    "PyTorch": (
        readme.PYTORCH, {"load": load_torch},
        {"wte.weight": "tok_emb.weight", "h.1.mlp.c_fc.weight": "layers.1.ffn.fc1.weight"},
    ),
    "NumPy": (
        readme.NUMPY, {"load": load_numpy, "forward_and_backward": forward_and_backward},
        {"wte.weight": "E", "h.1.mlp.c_fc.weight": "block1.up.W"},
    ),
}  # fmt: skip


def execute(program, port, directory, monkeypatch):
    """Execute a program beside the probe and a my_port.py, and return its names."""
    my_port = types.ModuleType("my_port")
    vars(my_port).update(port)
    monkeypatch.setitem(sys.modules, "my_port", my_port)
    names = {}
    with contextlib.chdir(directory.parent):
        exec(program, names)
    return names


@pytest.mark.parametrize("name", PORTS)
def test_a_clean_port_dumps_what_npgpt_computes(name, tiny, directory, monkeypatch):
    program, port, names = PORTS[name]
    execute(program, port, directory, monkeypatch)
    _, dump = pairing.read(directory, directory.parent / "dump.npz")
    model = model_of(tiny)
    loss, gradients = model.loss_and_gradients(tiny.tokens, tiny.targets)
    np.testing.assert_allclose(dump.tensors["loss"], loss, rtol=1e-6)
    logits = model.logits(tiny.tokens)
    np.testing.assert_allclose(dump.tensors["logits"], logits, atol=3e-5)
    for own, its in names.items():
        expected = dict(named(gradients))[own]
        expected = expected.T if own.endswith("c_fc.weight") else expected
        found = dump.tensors[f"grad/{its}"]
        np.testing.assert_allclose(found, expected, atol=3e-6, err_msg=own)


@pytest.mark.slow  # PyTorch's first optimizer imports its compiler
def test_the_step_on_the_page_is_that_of_the_settings(tiny, directory, monkeypatch):
    program = PAGE.split("### An optimizer step")[1].split("```python\n")[1].split("```")[0]
    names = execute(readme.PYTORCH + program, PORTS["PyTorch"][1], directory, monkeypatch)
    model, s = model_of(tiny), tiny.settings
    options = dict(lr=s.lr, betas=s.betas, eps=s.eps, weight_decay=s.weight_decay, ops="numpy")
    optimizer = npgpt.AdamW(model.params, **options)
    for k in range(1, s.steps + 1):
        _, gradients = model.loss_and_gradients(tiny.tokens, tiny.targets)
        norm = global_norm(gradients, ops=npgpt.ops)
        assert norm > s.grad_clip, "clipping would not show"
        optimizer.step(gradients, scale=clip_scale(norm, s.grad_clip))
        found = names["found"][f"after{k}/tok_emb.weight"].numpy()
        np.testing.assert_allclose(found, model.params.wte.weight, atol=1e-6)
