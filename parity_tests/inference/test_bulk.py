"""Many prompts in one batch: each is what it is alone, in the order of the prompts."""

from dataclasses import replace

import numpy as np
import pytest

import npgpt
from npgpt import Sampling
from npgpt.data.prompts import Prompt
from npgpt.distributed import generation
from npgpt.distributed.world import World
from npgpt.errors import InputError
from npgpt.inference.bulk import Options, continue_prompts
from npgpt.inference.window import Reader
from parity_tests.inference.test_generate import model_of
from parity_tests.support import thread_ranks

TOKENIZER = npgpt.tokenizer("byte")
TEXTS = ["Lamp", "T", "The lighthouse keeper", "sea", "the storm was over", "öl"]
PROMPTS = [Prompt(text, f"line {i}") for i, text in enumerate(TEXTS)]
OPTIONS = Options(Sampling(1.0, top_k=20), max_new_tokens=9, num_samples=2, log_probs=1)


@pytest.fixture(scope="module")
def model():
    return model_of("numpy", vocab_size=257, context_length=16, n_embd=8)


def test_each_continuation_is_that_of_generate(model):
    found = list(continue_prompts(model, TOKENIZER, PROMPTS, OPTIONS))
    assert [(one.number, one.sample) for one in found] == [(i, s) for i in range(6) for s in (0, 1)]
    for one in found:
        ids = TOKENIZER.encode(TEXTS[one.number])
        rng = npgpt.Generator(OPTIONS.seed + one.sample, ops="numpy")
        alone = list(npgpt.generate(
            model, ids, 9, **vars(OPTIONS.sampling), rng=rng, eos_id=TOKENIZER.eot_token
        ))  # fmt: skip
        assert one.tokens == alone
        ends = alone[-1] == TOKENIZER.eot_token
        assert one.finish_reason == ("stop" if ends else "length")
        assert one.text == TOKENIZER.decode(alone[: len(alone) - ends])
        assert one.prompt == TEXTS[one.number]
        assert (one.prompt_tokens, one.cropped) == (len(ids), max(0, len(ids) - 16))
        assert len(one.log_probabilities) == len(one.most_likely) == len(alone)


def test_beams_of_several_prompts_are_read_together(model, monkeypatch):
    """Each prompt's continuations are those of its own search."""
    rows, logits = [], Reader.logits

    def count(reader, windows):
        rows.append(len(windows))
        return logits(reader, windows)

    monkeypatch.setattr(Reader, "logits", count)
    options = Options(max_new_tokens=7, num_samples=2, beams=3, batch_size=4)
    found = list(continue_prompts(model, TOKENIZER, PROMPTS, options))
    assert max(rows) == 4 * 3 and len(rows) <= 2 * 7, "two rounds of seven tokens at most"
    assert [(one.number, one.sample) for one in found] == [(i, s) for i in range(6) for s in (0, 1)]
    for one in found:
        ids = TOKENIZER.encode(TEXTS[one.number])
        best = npgpt.beam_search(model, ids, 7, 3, eos_id=TOKENIZER.eot_token)
        assert one.tokens == best[one.sample].tokens
    i, free = next((i, one) for i, one in enumerate(found) if one.text[:1].isalnum())
    options = replace(options, stops=[free.text[0]])
    bound = list(continue_prompts(model, TOKENIZER, PROMPTS, options))[i]
    assert bound.finish_reason == "stop" and bound.text == ""
    assert TOKENIZER.decode(bound.tokens) == free.text[0], "tokens end with the stop string, too"


def test_a_stop_string_ends_a_continuation(model):
    free = next(continue_prompts(model, TOKENIZER, PROMPTS, Options(max_new_tokens=9)))
    stop = free.text[3:5]
    bound = next(
        continue_prompts(model, TOKENIZER, PROMPTS, Options(max_new_tokens=9, stops=[stop]))
    )
    assert bound.text == free.text[: free.text.index(stop)]
    assert bound.finish_reason == "stop"
    assert bound.tokens == free.tokens[: len(bound.tokens)]
    assert len(bound.tokens) < 9


def test_no_more_prompts_are_read_than_are_needed(model):
    read = []

    def prompts():
        for one in PROMPTS:
            read.append(one)
            yield one

    found = continue_prompts(model, TOKENIZER, prompts(), Options(max_new_tokens=2, batch_size=2))
    next(found)
    assert len(read) == 2
    assert len(list(found)) == 5
    assert [
        one.text for one in continue_prompts(model, TOKENIZER, PROMPTS, Options(max_new_tokens=0))
    ] == [""] * 6


def test_an_error_names_the_place_of_the_prompt(model):
    with pytest.raises(InputError, match="line 7: the prompt is empty"):
        list(continue_prompts(model, TOKENIZER, [*PROMPTS, Prompt("", "line 7")], Options()))


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_gives_the_same(size, model, monkeypatch):
    monkeypatch.setattr(generation, "once_per_machine", lambda world, work: work())
    monkeypatch.setattr(generation, "ROUND", 1)
    options = Options(Sampling(1.0), max_new_tokens=5, num_samples=2, log_probs=2, batch_size=1)

    def program(here):
        return list(generation.continue_prompts(here, model, TOKENIZER, PROMPTS, options, "x"))

    first, *others = thread_ranks.run(size, program)
    assert others == [[]] * (size - 1)
    alone = program(World())
    assert [one._replace(most_likely=0) for one in first] == [
        one._replace(most_likely=0) for one in alone
    ]
    np.testing.assert_array_equal(
        np.array([one.most_likely for one in first]), np.array([one.most_likely for one in alone])
    )


def test_ranks_with_other_prompts_are_refused(model):
    def program(here):
        with pytest.raises(InputError, match="the prompts must be equal on all ranks"):
            list(generation.continue_prompts(here, model, TOKENIZER, [], Options(), here.rank))
        return True

    assert all(thread_ranks.run(2, program))
