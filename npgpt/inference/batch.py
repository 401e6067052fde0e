"""Generate for any number of prompts at once: rows join and leave while others continue.

Every row has its own key/value cache, settings and generator. A step reads the prompts that have
joined, computes one new position of all other rows in one pass, and chooses a token for each. Each
row's tokens are those of its own run alone (npgpt/inference/window.py).
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError, RunError, show
from npgpt.gpt import GPT
from npgpt.inference.drafts import Chooser
from npgpt.inference.sampling import Sampling, choose, kth_largest, log_probabilities
from npgpt.inference.speculation import Speculation, Speculator, check_draft
from npgpt.inference.window import Reader, Window, clear
from npgpt.model import finite
from npgpt.model.inputs import check_integer, check_kind, check_sequence, check_vocabulary
from npgpt.model.kv_cache import LayerCache
from npgpt.rng import Generator


class NewToken(NamedTuple):
    """A token that `Batch.step` has chosen.

    Attributes
    ----------
    row : int
        The number that `Batch.add` returned.
    token : int
    log_probability : float or None
        Of the token, by the model alone, without temperature, filters and bias. None unless
        `log_probs` was given.
    finish_reason : {"stop", "length"} or None
        "stop": this is `eos_id`, or `stop` returned True. "length": it is the last of
        `max_new_tokens`. The row has left. None: it continues.
    most_likely : list of (int, float)
        The `log_probs` most likely tokens and their log-probabilities, the most likely one first.
    """

    row: int
    token: int
    log_probability: float | None
    finish_reason: str | None
    most_likely: list[tuple[int, float]]


@dataclass
class _Row:
    """A prompt and its continuation."""

    number: int
    window: Window
    text: deque[int] | list[int]  # all tokens, for the repetition penalty
    sampling: Sampling
    rng: Generator | None
    left: int  # tokens to generate
    eos_id: int | None
    stop: Callable[[int], bool] | None
    log_probs: int | None
    chosen: int | None = None  # a token that was drawn, and that the row does not have yet

    def chooser(self) -> Chooser:
        """Return a Chooser of the next tokens, which leaves the row as it is."""
        return Chooser(self.sampling, self.text, self.rng)


class Batch:
    """Rows of any length that are continued together.

    >>> import npgpt
    >>> config = npgpt.Config(vocab_size=257, context_length=64, n_layer=2, n_head=2, n_embd=32)
    >>> batch = npgpt.Batch(npgpt.GPT(config, ops="numpy"))
    >>> first = batch.add([1, 2, 3], max_new_tokens=2)
    >>> second = batch.add([4, 5], max_new_tokens=3)
    >>> while batch:
    ...     for new in batch.step():
    ...         if new.finish_reason:
    ...             print(new.row, new.finish_reason)
    0 length
    1 length

    A row may be added or removed between any two steps. One thread at a time may use a batch.

    Parameters
    ----------
    model : GPT
    speculate : Speculation or None, default None
        Verify drafts while the batch has a single row: more rows share a pass already. No token
        changes.
    cache_dtype : {"bfloat16"} or None, default None
        How keys and values are stored. "bfloat16": rounded, in half of the memory. None: in the
        model's own dtype.

    Raises
    ------
    InputError
        If `model` is not a GPT, the draft model has other tokens, or `cache_dtype` is another one.
    """

    def __init__(
        self,
        model: GPT,
        *,
        speculate: Speculation | None = None,
        cache_dtype: str | None = None,
    ):
        check_kind("model", model, GPT)
        self.model = model
        self._rows: dict[int, _Row] = {}
        self._added = 0
        self._free: list[list[LayerCache]] = []  # of rows that have left
        self._chosen: list[NewToken] = []  # by a step that was interrupted
        self._reader = Reader(model, cache_dtype)
        self._speculator: Speculator | None = None
        if speculate is not None:
            check_kind("speculate", speculate, Speculation)
            check_draft(speculate, model)
            self._speculator = Speculator(self._reader, speculate)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def add(
        self,
        prompt: Sequence[int] | Array,
        sampling: Sampling | None = None,
        *,
        max_new_tokens: int,
        rng: Generator | None = None,
        eos_id: int | None = None,
        stop: Callable[[int], bool] | None = None,
        keep: int | None = None,
        log_probs: int | None = None,
    ) -> int:
        """Add a row, which the next `step` reads. Return its number.

        Parameters
        ----------
        prompt : (T,) int
            Token ids. Only the last `context_length` are read.
        sampling : Sampling, default Sampling()
            How tokens are chosen; greedy by default.
        max_new_tokens : int
            Number of tokens to generate, at least 1.
        rng : Generator or None, default None
            Draws the tokens; required unless `sampling` is greedy. Rows may share one: it draws for
            them in the order in which they were added.
        eos_id : int or None, default None
            The row ends with this token.
        stop : callable or None, default None
            Called with each new token but `eos_id`; the row ends if it returns True. If it raises
            an exception, the next step calls it with the same token.
        keep : int or None, default None
            When the context is full, this number of first tokens and the last half of the others
            are kept, and read again once. None: the oldest token is dropped, and all others are
            read again for every further token.
        log_probs : int or None, default None
            Return log-probabilities: of the token, and of this number of most likely ones.

        Returns
        -------
        int
            0 for the first row, and one more for each further one.

        Raises
        ------
        InputError
            If an argument is invalid.
        """
        config = self.model.config
        ids = check_sequence(prompt, config, "prompt")
        if not ids.size:
            raise InputError("the prompt is empty: give at least one token to continue from")
        sampling = Sampling() if sampling is None else sampling
        check_kind("sampling", sampling, Sampling)
        check_biased(sampling, config)
        count = check_integer("max_new_tokens", max_new_tokens, least=1)
        if not sampling.is_greedy and not hasattr(rng, "multinomial"):
            raise InputError(
                f"temperature {sampling.temperature} draws at random: give it rng=Generator(seed)"
            )
        check_keep(keep, config)
        if eos_id is not None:
            check_integer("eos_id", eos_id)
        if log_probs is not None:
            check_integer("log_probs", log_probs, least=0)
        number, self._added = self._added, self._added + 1
        caches = self._free.pop() if self._free else self._reader.empty_cache()
        self._rows[number] = _Row(
            number=number,
            window=Window(ids[-config.context_length :].tolist(), caches, keep),
            text=ids.tolist() if sampling.repetition_penalty != 1 else deque(maxlen=0),
            sampling=sampling, rng=rng, left=count, eos_id=eos_id, stop=stop, log_probs=log_probs,
        )  # fmt: skip
        return number

    def remove(self, row: int) -> None:
        """Remove a row before it has ended. Its number is not used again.

        Parameters
        ----------
        row : int
            The number that `add` returned.

        Raises
        ------
        InputError
            If there is no such row: it may have ended.
        """
        if row not in self._rows:
            raise InputError(f"row {show(row)} is not in the batch")
        caches = self._rows.pop(row).window.caches
        clear(caches)
        self._free.append(caches)

    def step(self) -> list[NewToken]:
        """Choose the next token of every row. Rows that end leave.

        An exception, such as KeyboardInterrupt, drops what is cached of all rows. The next step
        reads them again and completes this one: no row is given two tokens.

        Returns
        -------
        list of NewToken
            One for each row, in the order in which they were added.

        Raises
        ------
        RunError
            If the logits are nan or infinite. The batch cannot be used any more.
        """
        done = {new.row for new in self._chosen}
        rows = [row for row in self._rows.values() if row.number not in done]
        try:
            for row, logits in zip(rows, self._logits(rows), strict=True):
                if row.chosen is None:  # else by a step that was interrupted
                    row.chosen = self._choose(row, logits)
                self._extend(row, row.chosen, logits)
        except BaseException:
            self._forget()
            raise
        found, self._chosen = self._chosen, []
        return found

    def _forget(self) -> None:
        """Drop what is cached of all rows: some blocks may have read more than others."""
        for row in self._rows.values():
            clear(row.window.caches)
        if self._speculator is not None:
            self._speculator.forget()

    def _logits(self, rows: list[_Row]) -> Iterable[Array]:
        """Return the next token's logits of each row, (V,)."""
        if self._speculator is None:
            return self._reader.logits([row.window for row in rows])
        if len(rows) == 1:
            (row,) = rows
            return [self._speculator.next_logits(row.window, row.left - 1, row.chooser)]
        self._speculator.forget()
        return self._reader.logits([row.window for row in rows])

    def _choose(self, row: _Row, logits: Array) -> int:
        """Return the next token of a row. Raises RunError that names what is not finite."""
        try:
            return choose(logits, row.sampling, row.text, row.rng)
        except RunError as error:
            raise finite.error(str(error), self.model.params, self.model.path) from None

    def _extend(self, row: _Row, token: int, logits: Array) -> None:
        """Append the chosen token to a row, which may end. A failure leaves the row as it was."""
        stops = token == row.eos_id or (row.stop is not None and row.stop(token))
        reason = "stop" if stops else "length" if row.left == 1 else None
        new = NewToken(row.number, token, None, reason, [])
        if row.log_probs is not None:
            log_probs = log_probabilities(logits)
            best = most_likely(log_probs, row.log_probs)
            new = NewToken(row.number, token, float(log_probs[token]), reason, best)
        row.left, row.chosen = row.left - 1, None
        self._chosen.append(new)
        if reason:
            self.remove(row.number)
        else:
            row.window.append(token)
            row.text.append(token)


def check_biased(sampling: Sampling, config: Config) -> None:
    """Raise InputError unless every token of `logit_bias` is in the vocabulary."""
    if sampling.logit_bias:
        check_vocabulary(np.array(list(sampling.logit_bias)), config, "logit_bias: token id")


def check_keep(keep: int | None, config: Config) -> None:
    """Raise InputError unless this number of first tokens, and two more, fit the context."""
    most = config.context_length - 2
    if keep is not None and check_integer("keep", keep, least=0) > most:
        raise InputError(f"keep is {show(keep)}, but must be at most {most} in this context")


def most_likely(log_probs: Array, count: int) -> list[tuple[int, float]]:
    """Return the `count` most likely tokens and their log-probabilities, largest first."""
    count = min(count, len(log_probs))
    if not count:
        return []
    best: Any = np.flatnonzero(log_probs >= kth_largest(log_probs, count))
    best = best[np.lexsort((best, -log_probs[best]))][:count]  # of equal ones, the first
    return [(int(token), float(log_probs[token])) for token in best]
