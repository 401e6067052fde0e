"""lm-evaluation-harness: npgpt beside its own backend for transformers, on the same weights.

Local files, no network. One process imports the harness: 3 s of CPU.
"""

from types import SimpleNamespace

import numpy as np
import pytest

import npgpt
from npgpt.cli.main import main
from npgpt.data.tokenizer import tokenizer_of
from npgpt.evaluation import task, wikitext
from npgpt.evaluation.tasks import find
from npgpt.inference.scoring import score
from parity_tests.support import task_files

CONFIG = npgpt.Config(vocab_size=257, context_length=128, n_layer=2, n_head=2, n_embd=32)
TASKS = "lambada", "hellaswag", "wikitext"
METRICS = {  # the harness's names
    "accuracy": "acc", "accuracy_norm": "acc_norm", "perplexity": "perplexity",
    "word_perplexity": "word_perplexity", "byte_perplexity": "byte_perplexity",
    "bits_per_byte": "bits_per_byte",
}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # warnings are of libraries


def local_tasks(paths, cache):
    """The harness's own tasks as in its YAML files, on local files."""
    from lm_eval.tasks.hellaswag import utils
    from lm_eval.tasks.wikitext import preprocess_wikitext

    def common(name):
        files = {"test": str(paths[name])}
        return dict(task=name, dataset_path="json", test_split="test",
                    dataset_kwargs=dict(data_files=files, cache_dir=str(cache)))  # fmt: skip

    def measured(*names):
        return [dict(metric=name) for name in names]

    return [
        common("lambada") | dict(
            output_type="loglikelihood",
            doc_to_text="{{text.split(' ')[:-1]|join(' ')}}",
            doc_to_target="{{' '+text.split(' ')[-1]}}",
            metric_list=measured("perplexity", "acc"),
        ),
        common("hellaswag") | dict(
            output_type="multiple_choice", process_docs=utils.process_docs,
            doc_to_text="{{query}}", doc_to_target="{{label}}", doc_to_choice="choices",
            metric_list=measured("acc", "acc_norm"),
        ),
        common("wikitext") | dict(
            output_type="loglikelihood_rolling", doc_to_text="",
            doc_to_target=preprocess_wikitext.wikitext_detokenizer,
            process_results=preprocess_wikitext.process_results,
            metric_list=measured("word_perplexity", "byte_perplexity", "bits_per_byte"),
        ),
        common("lambada") | dict(
            task="generated", output_type="generate_until",
            doc_to_text="{{text}}", doc_to_target="{{text}}",
            generation_kwargs=dict(until=["e", "\n"], max_gen_toks=24, do_sample=False),
            metric_list=measured("exact_match"),
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The answers and results of both backends; the model, and the files of the tasks."""
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install '.[eval]'")
    from huggingface_hub import constants  # first: it reads the variables once for all tests

    folder = tmp_path_factory.mktemp("harness")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.setenv(name, "1")
        patch.setenv("HF_HOME", str(folder / "home"))
        yield compute(folder, patch)


def compute(folder, patch):
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from npgpt.harness import HarnessModel

    # which asks pip and git about the machine, in processes
    patch.setattr(evaluator, "add_env_info", lambda results: None)
    model = npgpt.GPT(CONFIG, seed=3, scheme="book", tokenizer="byte")
    model.params.ln_f.bias[...] = 1.5 * model.params.wte.weight[ord(" ")]  # greedy after any text
    model.save(folder / "model.h5")
    export = f"export --model {folder}/model.h5 --to huggingface --out {folder}/exported"
    assert main(export.split()) == 0
    files = task_files.write(folder)
    pages = wikitext.split_pages(files["wikitext"].read_text("utf-8"))
    documents = folder / "pages.jsonl"
    documents.write_text(task_files.json_lines([{"page": page} for page in pages]))
    backends = {
        "npgpt": HarnessModel(model, batch_size=3),
        "transformers": HFLM(pretrained=str(folder / "exported"), device="cpu", batch_size=4),
    }
    manager = TaskManager(include_defaults=False)
    found = {
        name: evaluator.simple_evaluate(
            backend, tasks=local_tasks(files | {"wikitext": documents}, folder / "datasets"),
            task_manager=manager, bootstrap_iters=0, num_fewshot=0,
        )
        for name, backend in backends.items()
    }  # fmt: skip
    return SimpleNamespace(found=found, model=model, files=files, backends=backends)


def answers(found, name):
    """The answers to each request of a task, in order: (log-probability, greedy) or a text."""
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return [reply for sample in samples for replies in sample["resps"] for reply in replies]


@pytest.mark.parametrize("name", ["lambada", "hellaswag"])
def test_every_log_likelihood_and_every_is_greedy(name, outputs):
    ours, theirs = (answers(one, name) for one in outputs.found.values())
    assert len(ours) == len(theirs) == {"lambada": 7, "hellaswag": 16}[name]
    for (log_prob, greedy), (expected, as_greedy) in zip(ours, theirs, strict=True):
        assert log_prob == pytest.approx(expected, abs=1e-3)
        assert greedy == as_greedy
    assert name != "lambada" or [greedy for _, greedy in ours] == [False] * 6 + [True]


def test_every_log_likelihood_of_rolling_windows(outputs):
    ours, theirs = (answers(one, "wikitext") for one in outputs.found.values())
    assert len(ours) == len(theirs) == 2
    np.testing.assert_allclose(np.ravel(ours), np.ravel(theirs), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", TASKS)
def test_metrics_and_npgpt_evaluate_are_equal_to_both(name, outputs):
    from lm_eval.api.metrics import mean_stderr

    ours, theirs = (one["results"][name] for one in outputs.found.values())
    chosen = find(name)
    items = task.read_items(
        chosen, outputs.files[name], tokenizer_of(outputs.model), CONFIG.context_length
    )
    scores = score(outputs.model, task.join_requests(items))
    answered = np.ravel(
        [np.ravel(answer)[0] for answer in answers(outputs.found["transformers"], name)]
    )
    counts = [len(item.requests) for item in items] if name == "wikitext" else [1] * len(scores)
    starts = np.cumsum([0, *counts[:-1]])
    np.testing.assert_allclose(np.add.reduceat(scores[:, 0], starts), answered, rtol=0, atol=1e-3)
    for metric in task.measure(chosen, items, scores):
        key = f"{METRICS[metric.name]},none"
        assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key
        assert metric.value == pytest.approx(theirs[key], rel=1e-5), key
        if "acc" in key:
            each = [
                sample[METRICS[metric.name]] for sample in outputs.found["npgpt"]["samples"][name]
            ]
            assert metric.error == pytest.approx(mean_stderr(each), rel=1e-6), key


def test_generated_texts(outputs):
    ours, theirs = (answers(one, "generated") for one in outputs.found.values())
    assert ours == theirs
    assert len(ours) == 7 and any(ours)
    assert not any("e" in text or "\n" in text for text in ours)


def test_the_models_own_words(outputs):
    model = outputs.backends["npgpt"]
    assert model.eot_token_id == model.prefix_token_id == 256
    assert model.max_length == 128 and model.tokenizer_name == "byte"
    assert model.tok_encode("ab<|endoftext|>") == [97, 98, 256]
    request = SimpleNamespace(args=("a", dict(until="x")))  # 256 tokens by default
    with pytest.raises(npgpt.InputError, match="generates 256 tokens, but the context length is"):
        model.generate_until([request], disable_tqdm=True)
    settings = dict(max_gen_toks=9, do_sample=True, temperature=1.0, top_k=5)
    (text,) = model.generate_until([SimpleNamespace(args=("a", settings))], disable_tqdm=True)
    assert 0 < len(text) <= 9


def test_the_texts_of_the_tasks_are_the_harnesss(outputs, rng):
    """On random texts of the pieces that the rules are about."""
    from lm_eval.tasks.hellaswag.utils import preprocess
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    from npgpt.evaluation.hellaswag import clean

    pieces = [
        *"()[]{}\"' \n,.;:!?=N\u00b0s",
        " @-@ ",
        " @,@ ",
        "  ",
        "word",
        "= ",
        " 's",
        " [title]",
    ]
    for _ in range(3000):
        text = "".join(rng.choice(pieces, rng.integers(1, 25)))
        assert wikitext.detokenize(text) == wikitext_detokenizer({"page": text}), repr(text)
        assert clean(text) == preprocess(text), repr(text)
