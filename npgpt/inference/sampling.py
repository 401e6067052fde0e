"""Logits -> the next token: greedy, temperature, top-k, top-p.

In the order top-k, temperature, top-p; then one draw. Temperature 0 is greedy and draws nothing.
"""

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.ops.attention import softmax


def check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises InputError for settings that mean nothing."""
    if not temperature >= 0 or np.isinf(temperature):
        raise InputError(f"temperature is {temperature}, but has to be 0 (greedy) or above")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k is {top_k}, but at least 1 token has to be left to choose")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}, but has to be in (0, 1]")


def next_token(logits: Array, *, temperature=0.0, top_k=None, top_p=None, rng=None) -> Array:
    """(B, V) -> (B,) int64"""
    if temperature == 0:
        return logits.argmax(-1)
    return rng.multinomial(probabilities(logits, temperature, top_k=top_k, top_p=top_p))


def probabilities(logits: Array, temperature: float, *, top_k=None, top_p=None) -> Array:
    """(B, V) -> (B, V), what `next_token` draws from."""
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    # the largest logit goes to 0 first, so that a tiny temperature cannot make inf - inf of it;
    # the others may go to -inf, and a temperature may not round to 0
    temperature = logits.dtype.type(max(temperature, np.finfo(logits.dtype).tiny))
    with np.errstate(over="ignore"):
        scaled = (logits - logits.max(-1, keepdims=True)) / temperature
    probs = softmax(scaled)
    return probs if top_p is None else keep_top_p(probs, top_p)


def keep_top_k(logits: Array, k: int) -> Array:
    """What is below the k-th largest becomes -inf. Ties with it stay."""
    k = min(k, logits.shape[-1])
    threshold = np.partition(logits, -k, axis=-1)[..., -k, None]
    return np.where(logits < threshold, logits.dtype.type(-np.inf), logits)


def keep_top_p(probs: Array, p: float) -> Array:
    """The fewest of the likeliest tokens that together reach `p`, rescaled to sum to 1.

    Holtzman et al. 2020, arXiv:1904.09751: the nucleus. The likeliest token always stays.
    """
    order = np.argsort(-probs, axis=-1, kind="stable")
    ranked = np.take_along_axis(probs, order, -1)
    before = ranked.cumsum(-1) - ranked  # the mass of everything likelier
    ranked = np.where(before < p, ranked, 0)
    kept = np.zeros_like(probs)
    np.put_along_axis(kept, order, ranked, -1)
    return kept / kept.sum(-1, keepdims=True)
