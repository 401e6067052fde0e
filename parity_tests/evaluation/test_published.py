"""Published results of GPT-2, on OpenAI's weights and the authors' files, where both are given."""

import os
from pathlib import Path

import pytest

import npgpt
from npgpt.data.tokenizer import tokenizer_of
from npgpt.evaluation import task
from npgpt.evaluation.tasks import find
from npgpt.inference.scoring import score

LAMBADA, HELLASWAG = "lambada_test.jsonl", "hellaswag_val.jsonl"
# as published, of the 124M model; float32 sums in another order may turn a few of 10,042 answers
PUBLISHED = {
    ("lambada", "harness", LAMBADA): {"accuracy": (0.3256, 2e-4), "perplexity": (40.0554, 4e-3)},
    ("hellaswag", "karpathy", HELLASWAG): {
        "accuracy": (0.2859, 3e-4), "accuracy_norm": (0.2955, 3e-4)
    },
    ("hellaswag", "harness", HELLASWAG): {
        "accuracy": (0.2892, 3e-4), "accuracy_norm": (0.3114, 3e-4)
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def gpt2():
    name = os.environ.get("NPGPT_GPT2")
    if not name:
        pytest.skip("NPGPT_GPT2 does not name GPT-2's weights, for example gpt2-small")
    model = npgpt.load(name)
    assert (model.config.n_layer, model.config.n_embd) == (12, 768), "the values are of the 124M"
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("name", "protocol", "file"), PUBLISHED)
def test_the_published_values(name, protocol, file, gpt2):
    path = Path(os.environ.get("NPGPT_TASKS", ".")) / file
    if not path.exists():
        pytest.skip(f"NPGPT_TASKS does not name a folder with {file}")
    chosen = find(name, protocol)
    items = task.read_items(chosen, path, tokenizer_of(gpt2), gpt2.config.context_length)
    found = task.measure(chosen, items, score(gpt2, task.join_requests(items)))
    for metric in found:
        value, close = PUBLISHED[name, protocol, file][metric.name]
        assert metric.value == pytest.approx(value, abs=close), metric
