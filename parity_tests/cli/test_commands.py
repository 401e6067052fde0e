"""npgpt generate, evaluate and plot."""

import itertools
import re
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

import npgpt
from npgpt import ops
from parity_tests.support.runs import TEXT, TINY

# The other verbs


def test_generate_is_decided_by_its_seed(npgpt_, run, monkeypatch):
    command = "generate --model run --prompt Lamp --max-new-tokens 20 --temperature 1"
    first = npgpt_(command)
    assert first.err.startswith("The context of 16 tokens was full")
    with monkeypatch.context() as patch:  # as in a terminal: the text is not interrupted
        patch.setattr(sys, "stderr", sys.stdout)
        assert npgpt_(command).out == first.out + first.err
    assert first.out.startswith("Lamp")
    assert first.out.endswith("\n")
    assert len(first.out) > 5
    assert npgpt_(command + " --seed 123").out == first.out
    assert npgpt_(command + " --seed 124").out != first.out
    greedy = "generate --model run --prompt Lamp --max-new-tokens 20 --temperature 0"
    assert npgpt_(greedy).out == npgpt_(greedy + " --seed 9").out
    assert npgpt_(command + " --top-k 1").out == npgpt_(greedy).out
    assert npgpt_(command + " --top-p 1e-9").out == npgpt_(greedy).out
    assert npgpt_("generate --model run --prompt Lamp --max-new-tokens 0").out == "Lamp\n"


def test_generate_several_samples(npgpt_, run):
    command = "generate --model run --prompt Lamp --max-new-tokens 20 --temperature 1"
    said = npgpt_(command + " --num-samples 3").out
    parts = re.split(r"--- sample (\d) of 3\n", said)
    assert parts[0] == ""
    assert parts[1::2] == ["1", "2", "3"]
    assert all(text.startswith("Lamp") for text in parts[2::2])
    assert len(set(parts[2::2])) > 1


def test_generate_stops_at_the_end_of_the_text(npgpt_):
    """A model that gives nothing but the end of a text, and one that gives one letter."""
    model = npgpt.GPT(npgpt.Config(vocab_size=257, context_length=8, n_layer=1, n_head=1, n_embd=4),
                      ops=ops, tokenizer="byte")  # fmt: skip
    for id, expected in ((256, "Lamp\n"), (ord("z"), "Lampzzzzz\n")):
        model.params.ln_f.weight.fill(0)
        model.params.ln_f.bias.fill(1)
        model.params.wte.weight.fill(0)
        model.params.wte.weight[id] = 1
        model.save("one.h5")
        command = "generate --model one.h5 --prompt Lamp --max-new-tokens 5 --temperature 0"
        assert npgpt_(command).out == expected
        three = npgpt_(command + " --num-samples 2").out
        assert three == "".join(f"--- sample {i} of 2\n{expected}" for i in (1, 2))


def test_generate_streams(npgpt_, run, monkeypatch):
    """Each token is printed before the next one is made."""
    from npgpt import generate as made

    seen = []
    written = sys.stdout.write
    monkeypatch.setattr(sys.stdout, "write", lambda text: seen.append(text) or written(text))

    def slowly(*args, **kwargs):
        for ids in made(*args, **kwargs):
            seen.append(None)
            yield ids

    monkeypatch.setattr(sys.modules["npgpt.inference.generate"], "generate", slowly)
    npgpt_("generate --model run --prompt Lamp --max-new-tokens 6 --temperature 0")
    made_at = [i for i, text in enumerate(seen) if text is None]
    assert len(made_at) == 6
    assert all(b - a > 1 for a, b in itertools.pairwise(made_at))


def test_evaluate_is_the_mean_over_all_tokens(npgpt_, run):
    said = npgpt_("evaluate --model run --data text.txt").out
    loss, perplexity = map(
        float, re.match(r"loss (\S+) nats per token, perplexity (\S+)\n", said).groups()
    )
    assert said.endswith("over 827 tokens (byte) in windows of 16\n")
    model = npgpt.load("run/checkpoint.h5")
    tokens = np.frombuffer(TEXT.encode(), np.uint8).astype(int)
    total = 0.0
    for i in range(0, 827, 16):
        x, y = tokens[i : i + 16][: 827 - i], tokens[i + 1 : i + 17]
        total += model.evaluate([x], [y]) * len(y)
    assert loss == pytest.approx(total / 827, abs=1e-4)
    assert perplexity == pytest.approx(np.exp(loss), rel=1e-3)
    assert npgpt_("evaluate --model run --data text.txt --batch-size 7").out == said
    Path("short.txt").write_text("ab")
    assert "\nover 1 token (byte) in" in npgpt_("evaluate --model run --data short.txt").out


def test_plot_one_run_and_several(npgpt_, run):
    Path("run/loss.png").unlink()
    assert npgpt_("plot run").out == "run/loss.png\n"
    said = npgpt_("train --data text.txt --steps 3 --out other", *TINY).out
    assert "other/samples.txt    empty: text is generated after an epoch, and none" in said
    assert npgpt_("plot run other").out == "loss.png\n"
    assert npgpt_("plot run other --out both.png").out == "both.png\n"
    one, two = (matplotlib.image.imread(p) for p in ("run/loss.png", "loss.png"))
    assert one.shape[1] == two.shape[1]
    assert one.shape[0] < two.shape[0]  # the legend
    assert Path("loss.png").read_bytes() == Path("both.png").read_bytes()
    assert Path("loss.png").read_bytes() != Path("run/loss.png").read_bytes()
