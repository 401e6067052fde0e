"""Beam search: the continuations of the largest probability, as far as a few beams find them.

At every step each of the n beams is continued by every token, and the best n of all these continue.
A continuation that ends is scored by its log-probability / length ** length_penalty, and the best n
are kept. The details, such as when the search ends, are those of transformers' `generate`.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, Flat
from npgpt.errors import InputError, RunError, show
from npgpt.gpt import GPT
from npgpt.inference.batch import check_biased, check_keep, most_likely
from npgpt.inference.sampling import Sampling, adjust, log_probabilities, require_finite
from npgpt.inference.window import Reader, Window
from npgpt.model import finite
from npgpt.model.inputs import check_integer, check_kind, check_number, check_sequence


class Beam(NamedTuple):
    """A continuation that beam search has found.

    Attributes
    ----------
    tokens : list of int
        The new tokens. The last one may be `eos_id`.
    score : float
        Log-probability / length ** length_penalty.
    """

    tokens: list[int]
    score: float


def beam_search(
    model: GPT,
    tokens: Flat,
    max_new_tokens: int,
    beams: int,
    *,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    eos_id: int | None = None,
    repetition_penalty: float = 1.0,
    logit_bias: Mapping[int, float] | None = None,
    keep: int | None = None,
    cache_dtype: str | None = None,
) -> list[Beam]:
    """Return the best continuations of a prompt that beam search finds, the best one first.

    Parameters
    ----------
    model : GPT
    tokens : (T,) int
        The prompt. Only the last `context_length` tokens are read.
    max_new_tokens : int
        Number of tokens to generate, at most.
    beams : int
        Number of continuations that are followed at once, and returned.
    length_penalty : float, default 1.0
        Exponent of the length by which a log-probability is divided. Above 0, longer continuations
        are preferred.
    early_stopping : bool or "never", default False
        True: end as soon as there are `beams` continuations that have ended. False: when those that
        continue have a lower score now. "never": when they cannot have a higher one.
    eos_id : int or None, default None
        A continuation ends with this token.
    repetition_penalty, logit_bias
        As of `Sampling`, applied to log-probabilities.
    keep, cache_dtype
        As of `generate`.

    Returns
    -------
    list of Beam

    Raises
    ------
    InputError
        If an argument is invalid.
    RunError
        If the logits are nan or infinite.

    Source
    ------
    transformers, GenerationMixin._beam_search, with num_beams and do_sample=False
    """
    check_kind("model", model, GPT)
    settings = Sampling(repetition_penalty=repetition_penalty, logit_bias=logit_bias)
    reader = Reader(model, cache_dtype)
    search = Search(
        reader, tokens, max_new_tokens, beams, settings, length_penalty=length_penalty,
        early_stopping=early_stopping, eos_id=eos_id, keep=keep,
    )  # fmt: skip
    while search.windows:
        search.step(reader.logits(search.windows))
    return search.best


class Search:
    """Beam search from one prompt. The beams of several searches can be read in one pass.

    The arguments are those of `beam_search`.

    Attributes
    ----------
    windows : list of Window
        Of the beams that continue, to be read next. Empty when the search has ended.
    best : list of Beam
        The best continuations that have ended, the best one first.
    """

    def __init__(
        self, reader: Reader, tokens: Flat, max_new_tokens: int, beams: int, settings: Sampling, *,
        length_penalty: float = 1.0, early_stopping: bool | str = False, eos_id: int | None = None,
        keep: int | None = None,
    ):  # fmt: skip
        self.model = reader.model
        config = self.model.config
        self.prompt = check_sequence(tokens, config, "tokens").tolist()
        if not self.prompt:
            raise InputError("the prompt is empty: give at least one token to continue from")
        self.count = check_integer("max_new_tokens", max_new_tokens, least=1)
        most, self.beams = config.vocab_size // 2, check_integer("beams", beams)
        if not 1 <= self.beams <= most:
            raise InputError(f"beams is {beams}, but must be 1 to {most}: half of the vocabulary")
        self.power = check_number("length_penalty", length_penalty)
        if early_stopping not in (True, False, "never"):
            text = f"early_stopping is {show(early_stopping)}, but must be a bool or 'never'"
            raise InputError(text)
        if eos_id is not None:
            check_integer("eos_id", eos_id)
        check_biased(settings, config)
        check_keep(keep, config)
        self.settings, self.early_stopping, self.eos_id = settings, early_stopping, eos_id
        window = Window(self.prompt[-config.context_length :], reader.empty_cache(), keep)
        self.windows, self.best = [window], list[Beam]()
        self.running: list[list[int]] = [[]]  # the new tokens of each beam
        self.scores = np.zeros(1)  # and their log-probabilities

    def step(self, logits: Iterable[Array]) -> None:
        """Continue the beams by a token each. `logits`: the next token's of each window, (V,).

        Raises RunError if logits are nan or infinite.
        """
        beams, length = self.beams, len(self.running[0]) + 1
        log_probs = np.stack([
            adjust(_log_probs(self.model, one), self.settings, [*self.prompt, *new])
            for one, new in zip(logits, self.running, strict=True)
        ])  # fmt: skip
        # twice as many as beams: at most half of them end
        likely = most_likely((self.scores[:, None] + log_probs).reshape(-1), 2 * beams)
        found = [(*divmod(index, log_probs.shape[1]), score) for index, score in likely]
        ended = [
            Beam([*self.running[parent], token], score / length**self.power)
            for parent, token, score in found[:beams]
            if token == self.eos_id or length == self.count
        ]
        self.best = sorted(self.best + ended, key=lambda beam: -beam.score)[:beams]
        going = [one for one in found if one[1] != self.eos_id][:beams]
        if length == self.count or self._is_done(going[0][2], length):
            self.windows = []
            return
        self.windows = _continue(self.windows, [parent for parent, _, _ in going])
        for window, (_, token, _) in zip(self.windows, going, strict=True):
            window.append(token)
        self.running = [[*self.running[parent], token] for parent, token, _ in going]
        self.scores = np.array([score for _, _, score in going])

    def _is_done(self, score: float, length: int) -> bool:
        """Return True if no beam that continues is expected to be among the best.

        `score`: the log-probability of the most likely one.
        """
        if len(self.best) < self.beams or self.early_stopping is True:
            return len(self.best) == self.beams
        longest = self.count if self.early_stopping == "never" and self.power > 0 else length
        return score / longest**self.power <= self.best[-1].score


def _log_probs(model: GPT, logits: Array) -> Array:
    """(V,) -> (V,). Raises RunError if a logit is nan, or the largest one infinite."""
    try:
        require_finite(logits.max(keepdims=True))
    except RunError as error:
        raise finite.error(str(error), model.params, model.path) from None
    return log_probabilities(logits)


def _continue(windows: list[Window], parents: list[int]) -> list[Window]:
    """Return the windows of the parents, copies of those that occur again."""
    return [
        windows[parent].fork() if parent in parents[:i] else windows[parent]
        for i, parent in enumerate(parents)
    ]
