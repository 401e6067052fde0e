"""Continue any number of prompts in one batch. The results have the order of the prompts."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from npgpt.data.prompts import Prompt
from npgpt.data.tokenizer import Tokenizer
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.inference.batch import Batch, NewToken, check_biased, check_keep
from npgpt.inference.beams import Search
from npgpt.inference.sampling import Sampling
from npgpt.inference.speculation import Speculation
from npgpt.inference.stop import StoppableText, check_stops
from npgpt.inference.window import Reader
from npgpt.model.inputs import check_integer
from npgpt.rng import Generator


@dataclass(frozen=True)
class Options:
    """The settings of all prompts.

    Sample number n of a prompt, from 0, is drawn by Generator(seed + n), as it is alone.
    """

    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 200
    seed: int = 123
    num_samples: int = 1
    stops: Sequence[str] = ()
    keep: int | None = None
    log_probs: int | None = None
    batch_size: int = 8
    beams: int | None = None  # beam search, for the best num_samples continuations
    cache_dtype: str | None = None

    def check(self, model: GPT) -> None:
        """Raise InputError for a setting that this model cannot use."""
        check_integer("max_new_tokens", self.max_new_tokens, least=0)
        check_integer("num_samples", self.num_samples, least=1)
        check_integer("batch_size", self.batch_size, least=1)
        if self.log_probs is not None:
            check_integer("log_probs", self.log_probs, least=0)
        if self.beams is not None and self.num_samples > check_integer("beams", self.beams):
            raise InputError(f"{self.beams} beams have no {self.num_samples} continuations")
        check_stops(self.stops)
        check_keep(self.keep, model.config)
        check_biased(self.sampling, model.config)
        Generator(self.seed, ops="numpy")


class Continuation(NamedTuple):
    """The continuation of a prompt."""

    number: int  # of the prompt, from 0
    sample: int  # of the prompt's continuations, from 0
    prompt: str
    text: str  # without the prompt, without end-of-text and stop string
    tokens: list[int]  # all new ones
    finish_reason: str  # "stop" or "length"
    prompt_tokens: int
    cropped: int  # tokens of the prompt that were not read: the first ones
    log_probabilities: list[float]  # empty unless log_probs is given
    most_likely: list[list[tuple[int, float]]]


@dataclass
class _Running:
    """A continuation that is being generated."""

    number: int
    sample: int
    prompt: Prompt
    ids: list[int]
    writer: StoppableText
    text: str = ""
    new: list[NewToken] = field(default_factory=list)

    def feed(self, token: int) -> bool:
        """Add the text of a token. Return True if a stop string is complete."""
        self.text += self.writer.feed(token)
        return self.writer.has_stopped

    def finished(self, reason: str, context_length: int) -> Continuation:
        """Return the continuation."""
        probs = [one.log_probability for one in self.new if one.log_probability is not None]
        return Continuation(
            self.number, self.sample, self.prompt.text, self.text + self.writer.end(),
            [one.token for one in self.new], reason, len(self.ids),
            max(0, len(self.ids) - context_length), probs,
            [one.most_likely for one in self.new if one.most_likely],
        )  # fmt: skip


def continue_prompts(
    model: GPT, tokenizer: Tokenizer, prompts: Iterable[Prompt], options: Options,
    speculate: Speculation | None = None,
) -> Iterator[Continuation]:  # fmt: skip
    """Yield the continuations of the prompts in their order, each as soon as it is known.

    `prompts` is read as rows of the batch become free. Memory does not grow with their number.
    A batch of a single row may `speculate`.
    """
    options.check(model)
    if options.beams is not None:
        yield from _beams(model, tokenizer, prompts, options)
        return
    batch = Batch(model, speculate=speculate, cache_dtype=options.cache_dtype)
    rows, done = dict[int, _Running](), dict[int, Continuation]()
    waiting, following, more = _samples(tokenizer, prompts, options), 0, True
    while more or batch:
        while more and len(batch) < options.batch_size:
            one = next(waiting, None)
            if one is None:
                more = False
            elif options.max_new_tokens == 0:
                yield one.finished("length", model.config.context_length)
            else:  # rows are numbered in the order of the prompts
                rows[_add(batch, one, tokenizer.eot_token, options)] = one
        for new in batch.step() if batch else ():
            rows[new.row].new.append(new)
            if new.finish_reason:
                one = rows.pop(new.row)
                done[new.row] = one.finished(new.finish_reason, model.config.context_length)
        while following in done:
            yield done.pop(following)
            following += 1


def _samples(
    tokenizer: Tokenizer, prompts: Iterable[Prompt], options: Options
) -> Iterator[_Running]:
    """Yield every sample of every prompt."""
    for number, prompt in enumerate(prompts):
        with _errors_of(prompt.origin):
            ids = list(tokenizer.encode(prompt.text))
        for sample in range(options.num_samples):
            writer = StoppableText(tokenizer, ids, options.stops)
            yield _Running(number, sample, prompt, ids, writer)


def _beams(
    model: GPT, tokenizer: Tokenizer, prompts: Iterable[Prompt], options: Options
) -> Iterator[Continuation]:
    """Yield the best continuations of every prompt, of `batch_size` searches at a time."""
    assert options.beams is not None
    reader, eot = Reader(model, options.cache_dtype), tokenizer.eot_token
    groups = zip(*[_samples(tokenizer, prompts, options)] * options.num_samples, strict=True)
    started = deque[tuple[tuple[_Running, ...], Search]]()
    while True:
        running = [search for _, search in started if search.windows]
        while len(running) < options.batch_size and (group := next(groups, None)):
            with _errors_of(group[0].prompt.origin):
                search = Search(
                    reader, group[0].ids, options.max_new_tokens, options.beams, options.sampling,
                    eos_id=eot, keep=options.keep,
                )  # fmt: skip
            started.append((group, search))
            running.append(search)
        if not started:
            return
        logits = reader.logits([window for search in running for window in search.windows])
        for search in running:
            search.step(islice(logits, len(search.windows)))
        while started and not started[0][1].windows:
            group, search = started.popleft()
            for one, (tokens, _) in zip(group, search.best, strict=False):
                ends = (i for i, token in enumerate(tokens, 1) if token == eot or one.feed(token))
                end = next(ends, 0)  # as many tokens, if the text stops
                found = one.finished("stop" if end else "length", model.config.context_length)
                yield found._replace(tokens=tokens[:end] if end else tokens)


def _add(batch: Batch, one: _Running, eot: int | None, options: Options) -> int:
    """Add a row to the batch and return its number."""
    greedy = options.sampling.is_greedy
    with _errors_of(one.prompt.origin):
        return batch.add(
            one.ids, options.sampling, max_new_tokens=options.max_new_tokens,
            rng=None if greedy else Generator(options.seed + one.sample, ops=batch.model.ops),
            eos_id=eot, stop=one.feed, keep=options.keep, log_probs=options.log_probs,
        )  # fmt: skip


@contextmanager
def _errors_of(origin: str) -> Iterator[None]:
    """Name the place of a prompt in its errors."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None
