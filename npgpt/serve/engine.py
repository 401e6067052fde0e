"""One thread that continues all clients' prompts in one batch.

A choice joins the batch when a row is free, and leaves it when it ends or its client leaves. The
model is used by this thread alone.
"""

import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from npgpt.data.tokenizer import Tokenizer
from npgpt.errors import RunError
from npgpt.gpt import GPT
from npgpt.inference.batch import Batch, NewToken, most_likely
from npgpt.inference.sampling import log_probabilities
from npgpt.inference.speculation import Speculation
from npgpt.inference.stop import StoppableText
from npgpt.model import finite, transformer
from npgpt.rng import Generator
from npgpt.serve.request import CompletionRequest

ROWS = 64  # of a prompt, whose logits exist at once: 13 MB for GPT-2's vocabulary
ENDING = "the server is ending"


class Token(NamedTuple):
    """A token of a choice: its first character's position in the text, and its probability."""

    id: int
    offset: int
    log_probability: float | None  # None: it was not asked for, or nothing comes before the token
    most_likely: list[tuple[int, float]]


class Piece(NamedTuple):
    """The part that a step adds to a choice. The last piece has a finish reason, or an error."""

    choice: int
    text: str
    tokens: list[Token]
    finish_reason: str | None = None
    error: str | None = None


@dataclass(eq=False)
class Choice:
    """A prompt that is being continued. The engine's thread calls `deliver` with each piece."""

    index: int  # in the response
    prompt: list[int]
    request: CompletionRequest
    tokenizer: Tokenizer
    deliver: Callable[[Piece], None]
    row: int | None = None  # of the batch
    generated: int = 0
    length: int = 0  # characters of the text that are settled
    held: list[Token] = field(default_factory=list)  # tokens whose text is not

    def __post_init__(self) -> None:
        self.writer = StoppableText(self.tokenizer, self.prompt, self.request.stops)
        self.settled, self.offset = "", 0

    def feed(self, token: int) -> bool:
        """Add the text of a token. Return True if a stop string is complete."""
        self.offset = self.length + len(self.writer.waiting)
        self.settled = self.writer.feed(token)
        return self.writer.has_stopped

    def extend(self, new: NewToken, eos_id: int | None) -> Piece:
        """Return the piece of a new token."""
        self.generated += 1
        if new.token == eos_id:
            self.settled = ""
        else:
            self.held.append(Token(new.token, self.offset, new.log_probability, new.most_likely))
        text = self.settled
        if new.finish_reason:
            text += self.writer.end()
        return self.piece(text, new.finish_reason)

    def piece(self, text: str, finish_reason: str | None) -> Piece:
        """Return the piece of a text. A token belongs to it if its text begins in it."""
        self.length += len(text)
        end = len(self.held) if finish_reason == "length" else 0
        while end < len(self.held) and self.held[end].offset < self.length:
            end += 1
        tokens, self.held = self.held[:end], self.held[end:]
        return Piece(self.index, text, tokens, finish_reason)


class Engine:
    """The thread and its batch.

    `size`: rows that are continued together. The other choices wait. `speculate`: how a single row
    is. `cache_dtype`: of keys and values.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, size: int, speculate: Speculation | None = None,
        cache_dtype: str | None = None,
    ):  # fmt: skip
        self.model, self.tokenizer, self.size = model, tokenizer, size
        self.new_batch = partial(Batch, model, speculate=speculate, cache_dtype=cache_dtype)
        self.waiting = deque[Choice]()
        self.running = dict[int, Choice]()  # by row
        self.left = set[Choice]()  # whose client has left
        self.closed = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, name="npgpt engine", daemon=True)
        self.thread.start()

    @property
    def load(self) -> int:
        """The number of choices that have not ended."""
        return len(self.waiting) + len(self.running)

    def submit(self, choices: list[Choice]) -> None:
        """Continue these choices when rows are free."""
        with self.changed:
            if not self.closed:
                self.waiting.extend(choices)
                self.changed.notify()
                return
        for one in choices:
            one.deliver(Piece(one.index, "", [], error=ENDING))

    def cancel(self, choices: list[Choice]) -> None:
        """End these choices, if they have not ended."""
        with self.changed:
            self.left.update(choices)
            self.changed.notify()

    def close(self) -> None:
        """End all choices and the thread."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join()

    def _run(self) -> None:
        """Run the thread. However it ends, no client waits for it."""
        try:
            self._continue()
        finally:
            with self.changed:
                self.closed = True
            self._fail(ENDING, waiting=True)

    def _continue(self) -> None:
        """Continue all choices until the engine is closed."""
        batch = self.new_batch()
        while True:
            with self.changed:
                while not (self.waiting or self.running or self.closed):
                    self.left.clear()
                    self.changed.wait()
                left, self.left = self.left, set()
                self.waiting = deque(one for one in self.waiting if one not in left)
                if self.closed:
                    return
            for one in left.intersection(self.running.values()):
                batch.remove(self._row(one))
                del self.running[self._row(one)]
            try:
                self._join(batch)
                for new in batch.step() if batch else ():
                    one = self.running[new.row]
                    one.deliver(one.extend(new, self.tokenizer.eot_token))
                    if new.finish_reason:
                        del self.running[new.row]
            except (RunError, MemoryError) as error:
                batch = self.new_batch()
                self._fail(reason(error))
            except Exception as error:  # a mistake in the program: the operator sees where
                traceback.print_exc()
                batch = self.new_batch()
                self._fail(f"the server has failed: {type(error).__name__}", waiting=True)

    def _row(self, one: Choice) -> int:
        assert one.row is not None
        return one.row

    def _fail(self, error: str, *, waiting: bool = False) -> None:
        """End all choices that are running, or `waiting` too, with an error."""
        with self.changed:
            failed, self.running = [*self.running.values()], {}
            if waiting:
                failed += self.waiting
                self.waiting.clear()
        for one in failed:
            one.deliver(Piece(one.index, "", [], error=error))

    def _join(self, batch: Batch) -> None:
        """Add waiting choices to the batch, while rows are free."""
        while len(batch) < self.size:
            with self.changed:
                if not self.waiting:
                    return
                one = self.waiting.popleft()
            try:
                self._start(batch, one)
            except (RunError, MemoryError) as error:
                one.deliver(Piece(one.index, "", [], error=reason(error)))
            except BaseException:  # it waits again, so that its client is told, too
                with self.changed:
                    self.waiting.appendleft(one)
                raise

    def _start(self, batch: Batch, one: Choice) -> None:
        """Add a choice to the batch, after the pieces of its prompt."""
        request, left = one.request, self.model.config.context_length - len(one.prompt) + 1
        count = min(request.max_new_tokens, left)
        if request.echo:
            one.deliver(self._echo(one, ends=count == 0))
        if count == 0:
            return
        greedy = request.sampling.is_greedy
        one.row = batch.add(
            one.prompt, request.sampling, max_new_tokens=count,
            rng=None if greedy else Generator(request.seed + one.index, ops=self.model.ops),
            eos_id=self.tokenizer.eot_token, stop=one.feed, log_probs=request.log_probs,
        )  # fmt: skip
        self.running[one.row] = one

    def _echo(self, one: Choice, *, ends: bool) -> Piece:
        """Return the piece of the prompt itself."""
        writer, text = StoppableText(self.tokenizer, (), ()), ""
        scores = prompt_scores(self.model, one.prompt, one.request.log_probs)
        for token, score in zip(one.prompt, scores, strict=True):
            one.held.append(Token(token, len(text), *score))
            text += writer.feed(token)
        one.length = len(text := text + writer.end())
        tokens, one.held = one.held, []
        return Piece(one.index, text, tokens, "length" if ends else None)


def reason(error: Exception) -> str:
    """Return the line that tells a client why its text ends."""
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}".removesuffix(": ")
    return str(error)


def prompt_scores(
    model: GPT, prompt: list[int], count: int | None
) -> list[tuple[float | None, list[tuple[int, float]]]]:
    """Return the log-probability of each token of a prompt, and the `count` most likely ones.

    The first token follows nothing. The logits of ROWS positions exist at once.
    """
    found: list[Any] = [(None, [])]
    if count is None or len(prompt) == 1:
        return found + [(None, [])] * (len(prompt) - 1)
    tokens = np.array([prompt[:-1]])
    with finite.ignore_overflow():
        x = transformer.hidden(model.params, tokens, model.config, ops=model.ops)[0]
        for start in range(0, len(x), ROWS):
            logits = transformer.scores(model.params, x[start : start + ROWS], ops=model.ops)
            if not np.isfinite(logits.max()):
                raise finite.error("the logits are not finite", model.params, model.path)
            for row, token in zip(logits, prompt[start + 1 :], strict=False):
                log_probs = log_probabilities(row)
                found.append((float(log_probs[token]), most_likely(log_probs, count)))
    return found
