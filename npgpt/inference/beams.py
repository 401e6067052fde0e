"""Beam search: the continuations of the largest probability, as far as a few beams find them.

At every step each of the n beams is continued by every token, and the best n of all these continue.
A continuation that ends is scored by its log-probability / length ** length_penalty, and the best n
are kept. The details, such as when the search ends, are those of transformers' `generate`.
"""

from collections.abc import Mapping
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
    keep : int or None, default None
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
    config = model.config
    prompt = check_sequence(tokens, config, "tokens").tolist()
    if not prompt:
        raise InputError("the prompt is empty: give at least one token to continue from")
    count = check_integer("max_new_tokens", max_new_tokens, least=1)
    if not 1 <= (beams := check_integer("beams", beams)) <= config.vocab_size // 2:
        most = config.vocab_size // 2
        raise InputError(f"beams is {beams}, but must be 1 to {most}: half of the vocabulary")
    power = check_number("length_penalty", length_penalty)
    if early_stopping not in (True, False, "never"):
        raise InputError(f"early_stopping is {show(early_stopping)}, but must be a bool or 'never'")
    settings = Sampling(repetition_penalty=repetition_penalty, logit_bias=logit_bias)
    check_biased(settings, config)
    check_keep(keep, config)
    reader = Reader(model)
    windows = [Window(prompt[-config.context_length :], reader.empty_cache(), keep)]
    running: list[list[int]] = [[]]  # the new tokens of each beam
    scores = np.zeros(1)
    ended: list[Beam] = []
    for length in range(1, count + 1):
        log_probs = np.stack([
            adjust(_log_probs(model, logits), settings, [*prompt, *new])
            for logits, new in zip(reader.logits(windows), running, strict=True)
        ])  # fmt: skip
        # twice as many as beams: at most half of them end
        best = most_likely((scores[:, None] + log_probs).reshape(-1), 2 * beams)
        found = [(*divmod(index, config.vocab_size), score) for index, score in best]
        ended += [
            Beam([*running[parent], token], score / length**power)
            for parent, token, score in found[:beams]
            if token == eos_id or length == count
        ]
        ended = sorted(ended, key=lambda beam: -beam.score)[:beams]
        going = [one for one in found if one[1] != eos_id][:beams]
        done = _is_done(ended, going[0][2], beams, length, count, power, early_stopping)
        if done or length == count:
            break
        windows = _continue(windows, [parent for parent, _, _ in going])
        for window, (_, token, _) in zip(windows, going, strict=True):
            window.append(token)
        running = [[*running[parent], token] for parent, token, _ in going]
        scores = np.array([score for _, _, score in going])
    return ended


def _log_probs(model: GPT, logits: Array) -> Array:
    """(V,) -> (V,). Raises RunError if a logit is nan, or the largest one infinite."""
    try:
        require_finite(logits.max(keepdims=True))
    except RunError as error:
        raise finite.error(str(error), model.params, model.path) from None
    return log_probabilities(logits)


def _is_done(
    ended: list[Beam], best: float, beams: int, length: int, count: int, power: float,
    early_stopping: bool | str,
) -> bool:  # fmt: skip
    """Return True if no beam that continues is expected to be among the best. `best`: its score."""
    if len(ended) < beams or early_stopping is True:
        return len(ended) == beams
    longest = count if early_stopping == "never" and power > 0 else length
    return best / longest**power <= ended[-1].score


def _continue(windows: list[Window], parents: list[int]) -> list[Window]:
    """Return the windows of the parents, copies of those that occur again."""
    return [
        windows[parent].fork() if parent in parents[:i] else windows[parent]
        for i, parent in enumerate(parents)
    ]
