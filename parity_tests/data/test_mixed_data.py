"""Several data in one run: exact shares, an order for each source, resumed bit for bit."""

import json
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest

from npgpt.cli.main import main
from npgpt.config import Config, RunConfig, TrainingConfig
from npgpt.data import tokenize
from npgpt.data.dataset import read_tokens
from npgpt.data.mapped_loader import MappedLoader
from npgpt.data.mapped_tokens import MappedTokens, MixedTokens
from npgpt.data.mixture import Mixture
from npgpt.data.sources import list_sources
from npgpt.data.tokenizer import tokenizer
from npgpt.errors import ConfigError, InputError
from npgpt.gpt import GPT
from npgpt.training import run, run_state
from parity_tests.support.runs import without_clock

CONFIG = Config(vocab_size=257, context_length=8, n_layer=1, n_head=2, n_embd=8, dropout=0.1)
TRAINING = TrainingConfig(batch_size=2, eval_every=3, eval_tokens=40, prompt="a", seed=9, epochs=2)
SETTINGS = RunConfig(ops="numpy", config=CONFIG, training=TRAINING, tokenizer="byte")


@pytest.mark.parametrize(
    "weights", [(1,), (1, 1), (3, 1), (0.7, 0.2, 0.1), (1e-9, 1), (5, 1, 1, 30, 2, 0.5)]
)
def test_shares_are_exact_at_any_point(weights):
    mixture, before = Mixture(weights), [0] * len(weights)
    assert mixture.counts(0) == before
    for g in range(1, 300):
        counts = mixture.counts(g)
        assert sum(counts) == g
        assert sorted(np.subtract(counts, before))[-2:] in ([0, 1], [1])  # one source has one more
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - g * weight / sum(weights)) < 2
        before = counts
    many = 10**15 * sum(int(weight * 10) for weight in weights)  # exact for any number
    expected = [many * int(w * 10) // sum(int(w * 10) for w in weights) for w in weights]
    assert min(weights) < 0.1 or mixture.counts(many) == expected


def sources(*sizes):
    """Sequences whose tokens tell where they are from."""
    return [
        MappedTokens.of_array(f"source {i}", np.arange(size) + 1000 * i, 10_000)
        for i, size in enumerate(sizes)
    ]


def numbers_of(loader, epoch):
    """The first token of each window of an epoch."""
    return [int(x[0]) for batch, _ in loader.batches(loader.order(epoch)) for x in batch]


def test_without_weights_every_window_is_used_once_an_epoch():
    loader = MappedLoader(MixedTokens(sources(41, 201, 81)), 8, 4, batch_size=1, seed=3)
    assert loader.sizes == [9, 49, 19]
    everything = [1000 * i + 4 * n for i, size in enumerate(loader.sizes) for n in range(size)]
    epochs = [numbers_of(loader, epoch) for epoch in range(3)]
    for found in epochs:
        assert sorted(found) == everything
    assert epochs[0] != epochs[1] != epochs[2]


def test_with_weights_a_source_that_is_used_up_begins_again():
    loader = MappedLoader(MixedTokens(sources(41, 201), (3, 1)), 8, 8, batch_size=1, seed=3)
    n, m = loader.sizes
    assert (n, m) == (5, 25)
    found = numbers_of(loader, 0) + numbers_of(loader, 1) + numbers_of(loader, 2)
    first, second = ([t for t in found if t // 1000 == i] for i in (0, 1))
    assert abs(len(first) - 3 * len(found) / 4) <= 1
    passes = [tuple(first[i : i + n]) for i in range(0, len(first) - n, n)]
    assert all(sorted(one) == [0, 8, 16, 24, 32] for one in passes)
    assert len(set(passes)) > 6
    assert len(set(second)) == len(second) == 22  # not used up yet


def test_a_batch_is_the_same_wherever_an_epoch_is_resumed():
    loader = MappedLoader(MixedTokens(sources(60, 90, 70), (1, 2, 3.5)), 8, 8, batch_size=4, seed=3)
    batches = list(loader.batches(loader.order(7)))
    assert len(batches) == len(loader) == 6
    for start in range(6):
        resumed = list(loader.batches(loader.order(7), start))
        assert len(resumed) == 6 - start
        for a, b in zip(batches[start:], resumed, strict=True):
            assert np.array_equal(a, b)
    inputs, targets = batches[0]
    assert np.array_equal(inputs + 1, targets)
    assert inputs.flags.c_contiguous and targets.flags.c_contiguous


def test_the_first_source_is_in_the_order_that_it_has_alone():
    tokens = sources(401, 401)
    mixed = MappedLoader(MixedTokens(tokens, (1, 1)), 8, 8, batch_size=1, seed=3)
    alone = MappedLoader(tokens[0], 8, 8, batch_size=1, seed=3)
    shared = [token for token in numbers_of(mixed, 0) if token < 1000]
    assert shared == numbers_of(alone, 0)[: len(shared)]


def write(path, text, **options):
    """Write the token files of a text."""
    source = path.with_suffix(".txt")
    source.write_text(text)
    files, _ = list_sources([str(source)])
    tokenize.Job(files, path, tokenizer(options.pop("by", "byte")), **options).run()
    return str(path)


@pytest.fixture
def paths(tmp_path):
    """Token files, and a short text."""
    text = tmp_path / "short.txt"
    text.write_text("a short text " * 20)
    return write(tmp_path / "a", "The keeper counts. " * 20, val_fraction=0), str(text)


def test_all_sources_are_read_and_said(paths):
    said = []
    settings = replace(SETTINGS, data=paths, data_weights=[3, 1])
    tokens = read_tokens(settings, say=said.append)
    assert [len(one) for one in tokens.train.sources] == [342, 234]
    assert [len(one) for one in tokens.val.sources] == [39, 26]
    assert len(tokens.train) == 576 and tokens.val.weights == tokens.train.weights == (3, 1)
    assert said[-2] == (
        f"{paths[0]}: 342 training tokens, 75.0% of the windows, each used 1.27 times an epoch"
    )
    assert said[-1].startswith(f"{paths[1]}: 234 training tokens, 25.0% of the windows")
    digests = {
        read_tokens(changed).sha256
        for changed in (
            settings,
            replace(settings, data_weights=(1, 3)),
            replace(settings, data_weights=None),
            replace(settings, data=paths[::-1]),
            replace(settings, data=(*paths, paths[1]), data_weights=None),
            replace(settings, data=paths[0], data_weights=None),
            replace(settings, val_data=paths[1]),
            replace(settings, val_data=paths),
        )
    }
    assert len(digests) == 8
    several = read_tokens(replace(settings, val_data=paths))
    assert [len(one) for one in several.val.sources] == [381, 260]
    assert several.val.weights is None


def test_a_run_on_several_data_resumes_bit_for_bit(paths, tmp_path):
    settings = replace(SETTINGS, data=paths, data_weights=(0.3, 0.7))
    tokens, path = read_tokens(settings), tmp_path / "checkpoint.h5"

    def result(trainer):
        history = [without_clock(line) for line in trainer.progress.history]
        return trainer.model.params.wte.weight.tobytes(), trainer.rng.state.tobytes(), history

    whole = run.start(settings, tokens)
    list(whole.events())
    per_epoch = len(whole.steps_data)
    assert whole.total_steps == 2 * per_epoch == 70
    for stop in (11, per_epoch + 5):
        trainer = run.start(settings, tokens)
        for event in trainer.events():
            if getattr(event, "norm", 0) is None and event.step == stop:
                break
        run_state.write(path, trainer, run_state.Record(settings, tokens.sha256))
        saved_settings, model, saved = run_state.read(path)
        assert saved_settings == settings
        resumed = run.resume(saved_settings, tokens, model, saved)
        list(resumed.events())
        assert result(resumed) == result(whole)


def test_settings_of_one_source_are_written_as_before(tmp_path):
    written = json.loads(json.dumps(asdict(replace(SETTINGS, data=["x"], data_weights=[2]))))
    assert (written["data"], written["data_weights"], written["val_data"]) == ("x", None, None)
    older = {key: value for key, value in written.items() if key != "data_weights"}
    older["training"].pop("eval_tokens")
    assert run_state.to_settings(older).data == "x"
    several = replace(SETTINGS, data=("x", "y"), data_weights=(1, 2), val_data=["v"])
    assert run_state.to_settings(json.loads(json.dumps(asdict(several)))) == several


BAD = {
    "zero": ({"data_weights": (0, 1)}, "data_weights has 0, but must be positive numbers"),
    "negative": ({"data_weights": (1, -2.5)}, "data_weights has -2.5, but must be positive"),
    "nan": ({"data_weights": (1, float("nan"))}, "data_weights has nan, but must be positive"),
    "infinite": ({"data_weights": (float("inf"), 1)}, "data_weights has inf, but must be positive"),
    "true": ({"data_weights": (True, 1)}, "data_weights has True, but must be positive numbers"),
    "text": ({"data_weights": ("1", 1)}, "data_weights has '1', but must be positive numbers"),
    "too few": ({"data_weights": (1,)}, "must be one number for each of the 2 data"),
    "too many": ({"data_weights": (1, 2, 3)}, "must be one number for each of the 2 data"),
    "one number": ({"data_weights": 2}, "must be one number for each of the 2 data"),
    "no data": ({"data": ()}, "data is (), but must be str, or several"),
    "a number": ({"data": ("x", 3)}, "but must be str, or several"),
}


@pytest.mark.parametrize("name", BAD)
def test_weights_that_are_not_valid(name):
    changes, message = BAD[name]
    with pytest.raises(ConfigError) as error:
        replace(SETTINGS, **{"data": ("x", "y")} | changes)
    assert message in str(error.value)


def test_sources_that_do_not_fit(paths, tmp_path, bpe):
    other = write(tmp_path / "gpt2", "ships " * 50, by="gpt2", val_fraction=0)
    with pytest.raises(InputError) as error:
        read_tokens(replace(SETTINGS, data=(paths[0], other)))
    assert str(error.value) == (
        f"{paths[0]} was made with the tokenizer byte, {other} with gpt2: all data of a run must "
        "have one tokenizer"
    )
    short = tmp_path / "tiny.txt"
    short.write_text("a few words here")
    tokens = read_tokens(replace(SETTINGS, data=(paths[0], str(short))))
    with pytest.raises(InputError, match=r"the validation split of .*tiny.txt has 2 tokens"):
        run.start(SETTINGS, tokens)
    many = replace(SETTINGS, data=paths, training=replace(TRAINING, batch_size=200))
    with pytest.raises(InputError, match=r"makes 71 windows \(576 tokens, .* one step needs 200"):
        run.start(many, read_tokens(many))


@pytest.mark.parametrize(
    "flags",
    ["--data A B --data-weights 1 3", "--data A --data-weights 1 --data=B --data_weights 3"],
)
def test_flags_may_be_repeated(flags, paths, tmp_path, capsys):
    """--data A --data B is not a run on B alone."""
    names = dict(zip("AB", paths, strict=True))
    words = [names.get(word, word) for word in flags.replace("=B", f"={paths[1]}").split()]
    out = tmp_path / "run"
    shape = "--context-length 8 --n-layer 1 --n-head 1 --n-embd 4 --steps 2 --sample-tokens 1"
    assert main(["train", "--ops", "numpy", *words, *shape.split(), "--out", str(out)]) == 0
    settings = json.loads((out / "config.json").read_text())
    assert settings["data"] == list(paths) and settings["data_weights"] == [1, 3]
    err = capsys.readouterr().err
    assert "75.0% of the windows" in err
    assert main(["train", "--resume", str(out), "--steps", "3", "--data-weights", "1", "2"]) == 2
    assert "--data-weights 1.0 2.0 does not fit" in capsys.readouterr().err


@pytest.mark.parametrize("weights", ["0 1", "1 -1", "nan 1", "1", "1 2 3"])
def test_invalid_weights_are_one_line(weights, capsys):
    flags = ["train", "--data", "bundled", "bundled", "--data-weights", *weights.split()]
    assert main(flags) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "data_weights" in err


def test_a_mixture_uses_each_window_of_a_text_that_is_named_twice_twice():
    loader = MappedLoader(MixedTokens(sources(41)[:1] * 2), 8, 8, batch_size=1, seed=1)
    assert set(Counter(numbers_of(loader, 0)).values()) == {2}


def test_evaluate_reads_token_files(paths, tmp_path, capsys):
    model = tmp_path / "model.h5"
    GPT(CONFIG, seed=1, tokenizer="byte", ops="numpy").save(model)

    def result(*words):
        assert main(["evaluate", "--model", str(model), "--data", *words]) == 0
        return capsys.readouterr().out

    text = tmp_path / "a.txt"
    whole = result(paths[0])
    assert "over 380 tokens (byte) in windows of 8" in whole  # one more at the end of the document
    assert "over 379 tokens" in result(str(text))
    assert "over 40 tokens (byte) in windows of 8\n" in result(paths[0], "--eval-tokens", "47")
    lines = tmp_path / "documents.jsonl"
    lines.write_text(json.dumps({"text": text.read_text()}) + "\n")
    assert result(str(lines)) == whole  # documents, not raw JSON
    split = write(tmp_path / "b", "one two three<|endoftext|>four five", val_fraction=0.5)
    assert "over 9 tokens" in result(split)  # the validation split alone
