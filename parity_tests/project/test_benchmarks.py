"""Summaries of the benchmarks' measurements, and the file for llama.cpp. No times."""

import os
import signal
import struct
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import npgpt
from benchmarks import avx2, growth, harness, products, sampling, training_step
from benchmarks.baselines import llmc
from benchmarks.baselines.gguf import write_gguf
from npgpt import ops
from npgpt.config import Config
from npgpt.model import params
from npgpt.performance import flops


class Made(NamedTuple):
    """The result that a Runner reports."""

    name: str
    result: list


def test_a_comparison_is_the_median_of_pairs():
    ours, theirs = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 8.0, 4.0, 16.0, 10.0]
    made = harness.comparison("work", "another", ours, theirs, 0.5)
    assert (made["npgpt"], made["other"], made["at_most"]) == (3.0, 8.0, 0.5)
    assert made["ratio"] == {"median": 0.5, "low": 0.25, "high": 0.5}
    once = harness.comparison("memory", "another", [3.0], [4.0], unit="GB")
    slow = harness.comparison("work", "another", [3.0], [4.0], 0.7)
    times, memory = harness.compared([made, once, slow]).split("\n\n")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (times + "\n" + memory).splitlines()
    ]
    assert cells[0][2:4] == ["baseline", "baseline time"]
    assert cells[2] == ["work", "3.00 s", "another", "8.00 s", "0.50 (0.25 to 0.50)", "0.50"]
    assert cells[3] == ["work", "3.00 s", "another", "4.00 s", "0.75", "0.70, missed"]
    assert cells[4][2:4] == ["baseline", "baseline memory"]
    assert cells[6] == ["memory", "3.00 GB", "another", "4.00 GB", "0.75", ""]


def test_a_baseline_that_was_measured_once_is_paired_with_the_first():
    made = harness.comparison("work", "another", [2.0, 9.0, 9.0], [4.0])
    assert (made["npgpt"], made["ratio"]["median"]) == (9.0, 0.5)


def test_the_limit_is_on_the_fastest_program_and_on_the_smallest():
    def taken(seconds, peak):
        return [{"seconds": seconds, "bytes": peak}]

    found = {
        "npgpt": taken(2.0, 3e9),
        "npgpt-out": taken(2.5, 2e9),
        "torch-eager": taken(4.0, 5e9),
        "torch-compiled": taken(3.0, 6e9),
        "jax": taken(3.5, 4e9),
        "floor": [{"seconds": 1.0}],
    }
    limits = {"best": 0.66, "floor": 1.08, "memory": 0.9, "npgpt-out": 1.03}
    made = training_step.comparisons_of("a step", limits, found)
    assert [(c["beside"], c["ratio"]["median"], c["at_most"]) for c in made] == [
        ("npgpt with out= (loss, backward)", 0.8, 1.03),
        ("PyTorch", 0.5, None),
        ("PyTorch, compiled", pytest.approx(2 / 3), 0.66),
        ("JAX", pytest.approx(4 / 7), None),
        ("lower bound: best products, memory's rate", 2.0, 1.08),
        ("PyTorch", 0.6, None),
        ("PyTorch, compiled", 0.5, None),
        ("JAX", 0.75, 0.9),
        ("npgpt with out= (loss, backward)", 1.5, 1.03),
    ]
    assert [c["unit"] for c in made] == ["s"] * 5 + ["GB"] * 4


def test_avx2_alone_leaves_out_all_that_is_younger():
    given = {"avx2": True, "fma": True, "avx512f": True, "avx512bf16": True, "avxvnni": True}
    features = avx2.variables(given | {"sse4a": False})["NUMBA_CPU_FEATURES"]
    assert features == "+avx2,-avx512bf16,-avx512f,-avxvnni,+fma"


def test_sampled_tokens_are_compared_with_greedy_ones_and_log_probs_with_evaluate():
    values = {"greedy": 2.0, "top-k 50 and top-p 0.9": 3.0, "log_probs": 4.0, "evaluate": 5.0}
    found = {
        name: [{"seconds": values.get(name, 1.0), "bytes": 1e9 * values.get(name, 1.0)}]
        for name in (*sampling.SAMPLING, *sampling.SCORED)
    }
    made = sampling.comparisons_of(found)
    assert [(c["beside"], c["ratio"]["median"], c["at_most"]) for c in made] == [
        ("npgpt, greedy", 0.5, None),
        ("npgpt, greedy", 0.5, None),
        ("npgpt, greedy", 1.5, 1.08),
        ("npgpt, evaluate", 0.8, 1.05),
        ("npgpt, evaluate", 0.8, 1.0),
    ]


def test_everything_that_is_agreed_is_measured():
    for dtype in ("float32", "bfloat16"):
        narrow = dtype == "bfloat16"
        targets = training_step.BFLOAT16_AT_MOST if narrow else training_step.AT_MOST
        for shape, limits in targets.items():
            names = training_step.names(shape, compiled=True, with_llmc=True, dtype=dtype)
            kinds = {"torch": "best", "floor": "floor"}
            measured = {kinds.get(name.partition("-")[0], name) for name in names} | {"memory"}
            assert set(limits) <= measured


def test_the_lower_bound_of_a_step_takes_the_best_of_each_product():
    config = Config(vocab_size=7, context_length=8, n_layer=2, n_head=1, n_embd=4)
    slow, fast = {"products": [4.0, 1.0], "rate": 0.0}, {"products": [2.0, 2.0], "rate": 1e3}
    found = {"npgpt": [{}], "floor-torch": [slow], "floor-npgpt": [fast]}
    bounds = training_step.floor_of(found, 1, 8, config)
    linear = 3 * 2 * 8 * (2 * 12 * 4 * 4 + 4 * 7)
    attention = 3 * 2 * (2 * 2 * 36 * 4)  # two layers; 36 pairs, each in two products of 4 channels
    assert bounds["products"] == pytest.approx(3.0 * (linear + attention) / linear)
    adamw, others = 7 * params.size(config), 5 * 8 * (5 * 4 + 2 * 16 + 4)
    assert bounds["memory"] == pytest.approx(4 * (adamw + others) / 1e3)
    assert bounds["by"] == {"torch": 5.0, "npgpt": 4.0}
    assert found["floor"][0]["seconds"] == bounds["products"] + bounds["memory"]
    assert training_step.floor_of({"npgpt-book": [{}]}, 2, 256) is None


def test_a_step_is_compiled_where_it_can_be():
    assert "torch-compiled" not in training_step.names("2x256", compiled=False)


@pytest.mark.parametrize("shape", ["2", "0x4", "2x", "axb", "2x256x1"])
def test_a_shape_that_is_none(shape, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["training_step", "--shape", shape])
    with pytest.raises(SystemExit) as left:
        training_step.main()
    assert left.value.code == 2
    assert f'--shape must be B x T, such as 2x256, or "book": {shape}' in capsys.readouterr().err


TRAINER = """#!{python}
import sys
for step in range({steps}):
    if step % 10 == 0:
        print("val loss", open("text.bin").read())
    print(f"step {{step}}: train loss {{11 - step / 8:f}} (took 1.5 ms)")
sys.exit(3)
"""


@pytest.fixture
def llm_c(tmp_path):
    """A function that starts a program which prints what llm.c's does, takes `steps` steps and ends
    with code 3; it reads a file at its start and before every tenth step."""
    if sys.platform == "win32":
        pytest.skip("no terminals there, and no signals that stop a process")
    started = []

    def start(steps):
        program, folder = tmp_path / "train_gpt2", tempfile.TemporaryDirectory(dir=tmp_path)
        program.write_text(TRAINER.format(python=sys.executable, steps=steps), "utf-8")
        program.chmod(0o755)
        (Path(folder.name) / "text.bin").write_text("11.0", "utf-8")
        started.append(llmc.LlmC(str(program), folder, threads=1))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_llm_c_takes_one_step_at_a_time(llm_c):
    asked = llm_c(14)
    assert asked.result == [11.0, 10.875, 10.75]
    steps = [asked.step()[:2] for _ in range(6)]
    assert steps == [(n, 11 - n / 8) for n in range(3, 9)]
    assert set(asked.measure()) == {"seconds"}  # the 9th
    asked.measure()  # the 10th, before which it validates, and the 11th
    assert asked.step()[0] == 12
    asked.measure()
    with pytest.raises(SystemExit, match=r"llm\.c ended with code 3 before its next step"):
        asked.measure()


def test_llm_c_waits_for_its_turn_and_leaves_nothing_behind(llm_c):
    asked = llm_c(1_000_000)  # more than a terminal holds, so that it cannot end by itself
    _, status = os.waitpid(asked.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    asked.close()
    assert asked.process.returncode == -signal.SIGKILL
    assert not Path(asked.folder.name).exists()


def test_llm_c_can_be_asked_as_often_as_is_allowed(llm_c):
    asked = llm_c(41)
    for _ in range(llmc.MOST_ROUNDS):
        asked.measure()
    with pytest.raises(SystemExit, match="before its next step"):
        asked.measure()


def test_why_llm_c_is_left_out(tmp_path):
    assert llmc.missing(sys.executable) is None
    assert llmc.missing(None) == "--llmc names no program"
    for path in (tmp_path, tmp_path / "missing", tmp_path / "text"):
        (tmp_path / "text").write_text("x", "utf-8")
        assert llmc.missing(str(path)) == f"{path} is not a program"


def test_the_files_that_llm_c_looks_for(tmp_path):
    config = npgpt.Config(vocab_size=40, context_length=8, n_layer=1, n_head=2, n_embd=8)
    model, tokens = npgpt.GPT(config, seed=1), np.arange(8).reshape(2, 4)
    llmc.write_files(tmp_path, config, model.params, tokens)
    read = npgpt.load(tmp_path / "gpt2_124M.bin")
    np.testing.assert_array_equal(read.params.wte.weight, model.params.wte.weight)
    for part in ("train", "val"):
        data = (tmp_path / f"dev/data/tinyshakespeare/tiny_shakespeare_{part}.bin").read_bytes()
        assert struct.unpack("<3i", data[:12]) == (20240520, 1, 64 * 8 + 1)
        assert list(struct.unpack("<513H", data[1024:])) == [*range(8)] * 64 + [0]


def test_every_product_of_a_step_is_multiplied():
    config = npgpt.Config(vocab_size=40, context_length=8, n_layer=3, n_head=2, n_embd=16)
    made = list(products.products(config, 24))
    operations = sum(2 * count * out.size * a.shape[1] for count, a, _, out in made)
    assert operations == 3 * sum(2 * 24 * n * i * o for n, i, o in flops.linears(config))
    results = {}
    for name in ("npgpt-bfloat16", "npgpt", "numpy"):
        products.corners_of(products.multiplication(name), made)
        results[name] = [out.copy() for *_, out in made]
    for (_, a, b, _), found in zip(made, results["numpy"], strict=True):
        np.testing.assert_array_equal(found, a @ b)
    products.validate([Made(name, result) for name, result in results.items()])


def test_a_product_that_is_wrong_is_noticed():
    right, rough = [np.eye(4)], [np.eye(4) * 1.001]
    numpy = Made("numpy", right)
    products.validate([Made("npgpt-bfloat16", rough), Made("npgpt", right), numpy])
    with pytest.raises(SystemExit, match=r"npgpt: 2\.3e-03 away from NumPy's product"):
        products.validate([Made("npgpt-bfloat16", rough), Made("npgpt", rough), numpy])
    with pytest.raises(SystemExit, match="npgpt-bfloat16: nan away"):
        products.validate([Made("npgpt-bfloat16", [right[0] * np.nan]), numpy])


def test_what_the_curves_say():
    def curve(seconds, peaks=None, threads=2):
        return [
            {
                "value": value,
                "threads": threads,
                "seconds": s,
                "peak_bytes": (peaks or {}).get(value),
            }
            for value, s in seconds.items()
        ]

    memory = {256: 1000, 512: 1000 + 256 * 7, 1024: 1000 + 256 * 7 + 512 * 9}
    length = dict.fromkeys(memory, 3.0)
    said = growth.sayings(
        {
            "length": curve(length, memory) + curve(dict.fromkeys(memory, 5.7), memory, threads=1),
            "layers": curve({1: 2.0, 4: 5.0, 12: 12.0}),
            "tokens": curve({48: 0.010, 500: 0.011, 976: 0.012}),
        }
    )
    assert said == pytest.approx(
        {
            "bytes_per_token_to_512": 7,
            "bytes_per_token_to_1024": 9,
            "line_miss": 13 / 12 - 1,
            "two_threads": 1.9,
            "latency_growth": 1.2,
            "first_position": 48,
            "last_position": 976,
        }
    )


def test_a_curve_changes_one_size():
    for name, value in (("length", 64), ("batch", 3), ("layers", 4), ("width", 256)):
        config, B, T = growth.CURVES[name].point(name, value)
        found = {"length": T, "batch": B, "layers": config.n_layer, "width": config.n_embd}
        assert found.pop(name) == value
        assert config.n_embd // config.n_head == growth.HEAD_SIZE
        others = {key: size for key, size in found.items() if key in ("layers", "width")}
        assert others.items() <= {"layers": 12, "width": 768}.items()


def test_a_gguf_file_holds_what_it_says(tmp_path):
    config = npgpt.Config(vocab_size=11, context_length=4, n_layer=1, n_head=1, n_embd=6)
    model = npgpt.GPT(config, ops=ops)
    write_gguf(tmp_path / "model.gguf", config, model.params)
    raw = (tmp_path / "model.gguf").read_bytes()
    magic, version, tensors, values = struct.unpack_from("<4sIQQ", raw)
    assert (magic, version) == (b"GGUF", 3)
    place = struct.calcsize("<4sIQQ")

    def text():
        nonlocal place
        (length,) = struct.unpack_from("<Q", raw, place)
        place += 8 + length
        return raw[place - length : place].decode()

    def numbers(form):
        nonlocal place
        place += struct.calcsize(form)
        return struct.unpack_from(form, raw, place - struct.calcsize(form))

    said = {}
    for _ in range(values):
        key, (kind,) = text(), numbers("<I")
        said[key] = text() if kind == 8 else numbers("<f" if kind == 6 else "<I")[0]
    assert said["general.architecture"] == "gpt2"
    assert said["gpt2.vocab_size"] == 11
    assert said["gpt2.feed_forward_length"] == 24
    assert said["gpt2.attention.layer_norm_epsilon"] == np.float32(1e-5)
    found = {}
    for _ in range(tensors):
        name, (axes,) = text(), numbers("<I")
        found[name] = (numbers(f"<{axes}Q"), *numbers("<IQ"))
    data = place + -place % 32
    p, block = model.params, model.params.h[0]
    assert len(found) == len(list(npgpt.named(p)))
    for name, array in (
        ("token_embd.weight", p.wte.weight),
        ("blk.0.attn_qkv.weight", block.attn.c_attn.weight.T),
        ("blk.0.ffn_down.weight", block.mlp.c_proj.weight.T),
        ("output_norm.bias", p.ln_f.bias),
    ):
        shape, kind, offset = found[name]
        assert (shape, kind, offset % 32) == (array.shape[::-1], 0, 0)
        there = np.frombuffer(raw, np.float32, array.size, data + offset)
        assert np.array_equal(there.reshape(array.shape), array)
