"""Choose the next token from logits: greedy, temperature, top-k, top-p.

The order is top-k, temperature, top-p, then one draw. Temperature 0 is greedy and draws nothing.
"""

from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, RunError
from npgpt.model.inputs import check_integer, check_number
from npgpt.ops.attention import softmax
from npgpt.rng import Generator


def check(temperature: Any, top_k: Any, top_p: Any) -> dict[str, Any]:
    """Return the settings of `next_token`. Raise InputError for one that is out of range."""
    settings: dict[str, Any] = {"temperature": check_number("temperature", temperature)}
    if settings["temperature"] < 0:
        raise InputError(f"temperature is {temperature}, but must be 0 (greedy) or above")
    settings["top_k"] = None if top_k is None else check_integer("top_k", top_k, least=1)
    settings["top_p"] = None if top_p is None else check_number("top_p", top_p)
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}, but must be in (0, 1]")
    return settings


def next_token(
    logits: Array,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: Generator | None = None,
) -> Array:
    """(B, V) -> (B,) int64. `rng` may be None if the temperature is 0.

    Raises RunError if a logit is nan, or the largest one infinite.
    """
    if temperature == 0 or rng is None:
        best = logits.argmax(-1)  # the first nan, if there is one
        require_finite(logits[np.arange(len(logits)), best])
        return best
    return rng.multinomial(probabilities(logits, temperature, top_k=top_k, top_p=top_p))


def probabilities(
    logits: Array, temperature: float, *, top_k: int | None = None, top_p: float | None = None
) -> Array:
    """(B, V) -> (B, V): return the probabilities that `next_token` draws from."""
    largest = logits.max(-1, keepdims=True)  # nan if any logit is
    require_finite(largest)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    # The largest logit becomes 0 first: a tiny temperature cannot make inf - inf of it. The others
    # may become -inf. The temperature must not round to 0.
    temperature = logits.dtype.type(max(temperature, np.finfo(logits.dtype).tiny))
    with np.errstate(over="ignore"):
        scaled = (logits - largest) / temperature
    probs = softmax(scaled)
    return probs if top_p is None else keep_top_p(probs, top_p)


def require_finite(largest: Array) -> None:
    """Raise RunError unless the largest logit of each row is finite. The others may be -inf."""
    if not (finite := np.isfinite(largest)).all():
        raise RunError(f"the logits are {largest[~finite][0]}")


def keep_top_k(logits: Array, k: int) -> Array:
    """Set logits below the k-th largest to -inf. Ties with it stay."""
    k = min(k, logits.shape[-1])
    threshold = np.partition(logits, -k, axis=-1)[..., -k, None]
    return np.where(logits < threshold, logits.dtype.type(-np.inf), logits)


def keep_top_p(probs: Array, p: float) -> Array:
    """Keep the smallest set of most likely tokens that reaches `p`, rescaled to sum to 1.

    The nucleus of Holtzman et al. 2020, arXiv:1904.09751. The most likely token always stays.
    """
    order = np.argsort(-probs, axis=-1, kind="stable")
    ranked = np.take_along_axis(probs, order, -1)
    before = ranked.cumsum(-1) - ranked  # the mass of all tokens more likely
    before[..., 0] = -1  # a tiny `p` may round to 0
    ranked = np.where(before < p, ranked, 0)
    kept = np.zeros_like(probs)
    np.put_along_axis(kept, order, ranked, -1)
    return kept / kept.sum(-1, keepdims=True)
