"""Choose the next token from logits: bias, penalty, top-k, temperature, top-p, min-p, one draw.

The filters and their order are those of transformers' `generate`. Temperature 0 is greedy and draws
nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.arrays import Array, Flat
from npgpt.errors import InputError, RunError, show
from npgpt.model.inputs import check_integer, check_number
from npgpt.ops.attention import softmax
from npgpt.rng import Generator


@dataclass(frozen=True)
class Sampling:
    """The settings by which a token is chosen from the logits.

    Parameters
    ----------
    temperature : float, default 0.0
        0 chooses the most likely token. Above 0, tokens are sampled; higher values make the
        distribution more even.
    top_k : int or None, default None
        Choose among the k most likely tokens.
    top_p : float or None, default None
        Choose among the most likely tokens that together have this probability, in (0, 1].
    min_p : float or None, default None
        Choose among tokens of at least this share of the largest probability, in [0, 1].
    repetition_penalty : float, default 1.0
        Logits of all tokens of the prompt and of the text so far are divided by this number, or
        multiplied if they are negative.
    logit_bias : dict of int to float, or None, default None
        Numbers that are added to the logits of these tokens.

    Raises
    ------
    InputError
        If a number is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | None = None

    def __post_init__(self) -> None:
        numbers = {
            name: check_number(name, value)
            for name in ("temperature", "top_p", "min_p", "repetition_penalty")
            if (value := getattr(self, name)) is not None
            or name in ("temperature", "repetition_penalty")
        }
        if numbers["temperature"] < 0:
            raise InputError(f"temperature is {self.temperature}, but must be 0 (greedy) or above")
        if not 0 < numbers.get("top_p", 1) <= 1:
            raise InputError(f"top_p is {self.top_p}, but must be in (0, 1]")
        if not 0 <= numbers.get("min_p", 0) <= 1:
            raise InputError(f"min_p is {self.min_p}, but must be in [0, 1]")
        if (penalty := numbers["repetition_penalty"]) <= 0:
            raise InputError(f"repetition_penalty is {penalty}, but must be above 0")
        if self.top_k is not None:
            numbers["top_k"] = check_integer("top_k", self.top_k, least=1)
        if self.logit_bias is not None:
            object.__setattr__(self, "logit_bias", check_bias(self.logit_bias))
        for name, number in numbers.items():  # as Python's: NumPy's may overflow
            object.__setattr__(self, name, number)

    @property
    def is_greedy(self) -> bool:
        """True if the most likely token is chosen."""
        return self.temperature == 0

    def probabilities(self, logits: Array, text: Flat = ()) -> Array:
        """Return the probability of each token to be the next one.

        Parameters
        ----------
        logits : (V,) array
            A row of what `GPT.next_logits` returns, float32 or float64.
        text : (T,) int, default ()
            The tokens before, which `repetition_penalty` is about.

        Returns
        -------
        (V,) array
            `npgpt.generate` draws from these. At temperature 0, one is 1 and the others are 0.

        Raises
        ------
        InputError
            If the logits are not of shape (V,), or a token is outside the vocabulary.
        RunError
            If a logit is nan, or the largest one infinite.
        """
        logits = check_logits(logits)
        try:
            tokens: list[Any] = list(text)
        except TypeError:
            raise InputError(f"text must be token ids, not {show(text)}") from None
        for token in (*tokens, *(self.logit_bias or ())):
            if check_integer("a token of text", token, least=0) >= len(logits):
                raise InputError(f"token {show(token)} is outside the vocabulary of {len(logits)}")
        logits = adjust(logits, self, tokens)
        if not self.is_greedy:
            return probabilities(
                logits[None], self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p
            )[0]
        probs = np.zeros_like(logits)
        probs[next_token(logits[None])] = 1
        return probs


def check_logits(logits: Any) -> Array:
    """Return logits (V,). Raise InputError for anything else."""
    try:
        found = np.asarray(logits)
    except (ValueError, TypeError):
        found = np.empty(0)
    if found.ndim != 1 or not found.size or found.dtype not in (np.float32, np.float64):
        raise InputError(f"logits must be float32 or float64 of shape (V,), not {show(logits)}")
    return found


def check_bias(bias: Any) -> dict[int, float]:
    """Return a dict of tokens and numbers. Raise InputError for anything else."""
    if not isinstance(bias, Mapping):
        raise InputError(f"logit_bias must be a dict or None, not {show(bias)}")
    return {
        check_integer("a token of logit_bias", token, least=0): check_number(
            f"logit_bias[{show(token)}]", number
        )
        for token, number in bias.items()
    }


def choose(logits: Array, settings: Sampling, text: Iterable[int], rng: Generator | None) -> int:
    """Return the next token from logits (V,), after the tokens of a text (T,).

    Raises RunError if a logit is nan, or the largest one infinite.
    """
    new = next_token(
        adjust(logits, settings, text)[None], temperature=settings.temperature,
        top_k=settings.top_k, top_p=settings.top_p, min_p=settings.min_p, rng=rng,
    )  # fmt: skip
    return int(new[0])


def adjust(logits: Array, settings: Sampling, text: Iterable[int]) -> Array:
    """(V,) -> (V,). Add the bias; apply the penalty to the tokens of `text` (T,)."""
    bias, penalty = settings.logit_bias, saturate(settings.repetition_penalty, logits.dtype)
    if bias or penalty != 1:
        logits = logits.copy()
    if bias:
        logits[list(bias)] += [saturate(number, logits.dtype) for number in bias.values()]
    if penalty != 1:
        seen = np.unique(np.fromiter(text, np.int64))
        found, most = logits[seen], np.finfo(logits.dtype).max
        with np.errstate(over="ignore"):  # a finite logit stays finite, others are an error later
            changed = np.where(found < 0, found * penalty, found / penalty)
        logits[seen] = np.where(np.isfinite(found), changed.clip(-most, most), found)
    return logits


def saturate(number: float, dtype: np.dtype[Any]) -> Any:
    """Return a number as this dtype. It does not become inf, and above 0 it does not become 0."""
    limits = np.finfo(dtype)
    least = limits.tiny if number > 0 else limits.min
    return dtype.type(min(max(number, float(least)), float(limits.max)))


def next_token(
    logits: Array,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    rng: Generator | None = None,
) -> Array:
    """(B, V) -> (B,) int64. `rng` may be None if the temperature is 0.

    Raises RunError if a logit is nan, or the largest one infinite.
    """
    if temperature == 0 or rng is None:
        best = logits.argmax(-1)  # the first nan, if there is one
        require_finite(logits[np.arange(len(logits)), best])
        return best
    probs = probabilities(logits, temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return rng.multinomial(probs)


def probabilities(
    logits: Array,
    temperature: float,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Array:
    """(B, V) -> (B, V): return the probabilities that `next_token` draws from."""
    largest = logits.max(-1, keepdims=True)  # nan if any logit is
    require_finite(largest)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    # The largest logit becomes 0 first: a tiny temperature cannot make inf - inf of it. The others
    # may become -inf. The temperature must not round to 0 or inf.
    temperature = saturate(temperature, logits.dtype)
    with np.errstate(over="ignore"):
        scaled = (logits - largest) / temperature
    probs = softmax(scaled)
    if top_p is not None:
        probs = keep_top_p(probs, top_p)
    return probs if min_p is None else keep_min_p(probs, min_p)


def log_probabilities(logits: Array) -> Array:
    """(..., V) -> (..., V) float64: log-softmax, the model's own, without filters."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, dtype=np.float64, keepdims=True))


def require_finite(largest: Array) -> None:
    """Raise RunError unless the largest logit of each row is finite. The others may be -inf."""
    if not (finite := np.isfinite(largest)).all():
        raise RunError(f"the logits are {largest[~finite][0]}")


def keep_top_k(logits: Array, k: int) -> Array:
    """Set logits below the k-th largest to -inf. Ties with it stay."""
    k, rows = min(k, logits.shape[-1]), logits.reshape(-1, logits.shape[-1])
    threshold = np.array([kth_largest(row, k) for row in rows]).reshape(*logits.shape[:-1], 1)
    return np.where(logits < threshold, logits.dtype.type(-np.inf), logits)


def kth_largest(row: Array, k: int) -> np.floating:
    """(V,) -> scalar. Only numbers that reach the k-th largest maximum of 4 k blocks are sorted."""
    if width := len(row) // (4 * k):
        blocks = row[: 4 * k * width].reshape(4 * k, width)
        row = row[row >= np.partition(blocks.max(-1), -k)[-k]]
    return np.partition(row, -k)[-k]


def keep_top_p(probs: Array, p: float) -> Array:
    """Keep the smallest set of most likely tokens that reaches `p`, rescaled to sum to 1.

    The nucleus of Holtzman et al. 2020, arXiv:1904.09751. The most likely token always stays.
    """
    rows = probs.reshape(-1, probs.shape[-1])
    kept = np.stack([nucleus(row, p) for row in rows]).reshape(probs.shape)
    return kept / kept.sum(-1, keepdims=True)


def nucleus(row: Array, p: float) -> Array:
    """(V,) -> (V,). Set probabilities outside the set to 0. Of equal ones, the first ones stay."""
    # Those below (1 - p) / V have less than 1 - p together. The others are enough, but for rounding
    for bound in ((1 - p) / len(row), 0):
        ranked = np.sort(row[row >= bound])[::-1]
        before = ranked.cumsum() - ranked  # the mass of all tokens more likely
        before[:1] = -1  # a tiny `p` may round to 0
        inside = before < p
        if not inside.all():
            break
    count = len(inside) if inside.all() else int(inside.argmin())
    last = ranked[count - 1]
    kept = np.where(row < last, row.dtype.type(0), row)
    if too_many := np.count_nonzero(ranked >= last) - count:
        kept[np.flatnonzero(row == last)[-too_many:]] = 0
    return kept


def keep_min_p(probs: Array, p: float) -> Array:
    """Keep tokens of at least `p` times the largest probability, rescaled to sum to 1.

    Nguyen et al. 2024, arXiv:2407.01082. The most likely token always stays.
    """
    kept = np.where(probs < p * probs.max(-1, keepdims=True), 0, probs)
    return kept / kept.sum(-1, keepdims=True)
