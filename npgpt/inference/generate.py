"""Generate tokens one at a time from a prompt.

The prompt is read in one pass. After that each new token is read alone, with the cached keys and
values of the tokens before it. Once the context is full, the window slides. GPT-2's positions are
absolute: every cached key would be wrong by one position, and the window is read again.
"""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from npgpt.arrays import Array, Flat, TokenIds
from npgpt.errors import InputError, RunError, show
from npgpt.gpt import GPT
from npgpt.inference import sampling
from npgpt.model import finite, kv_cache
from npgpt.model.inputs import check_integer, check_kind, check_tokens
from npgpt.model.kv_cache import LayerCache
from npgpt.rng import Generator

Rngs = Generator | Sequence[Generator] | None


@overload
def generate(
    model: GPT, tokens: Flat, max_new_tokens: int, temperature: float = ...,
    top_k: int | None = ..., top_p: float | None = ..., eos_id: int | None = ..., rng: Rngs = ...,
) -> Iterator[int]: ...  # fmt: skip
@overload
def generate(
    model: GPT, tokens: Sequence[Flat] | Sequence[Array], max_new_tokens: int,
    temperature: float = ..., top_k: int | None = ..., top_p: float | None = ...,
    eos_id: int | None = ..., rng: Rngs = ...,
) -> Iterator[Array]: ...  # fmt: skip
@overload
def generate(
    model: GPT, tokens: Array, max_new_tokens: int, temperature: float = ...,
    top_k: int | None = ..., top_p: float | None = ..., eos_id: int | None = ..., rng: Rngs = ...,
) -> Iterator[Any]: ...  # fmt: skip
def generate(
    model: GPT,
    tokens: TokenIds,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_id: int | None = None,
    rng: Rngs = None,
) -> Iterator[Any]:
    """Yield new tokens after a prompt, one at a time.

    Parameters
    ----------
    model : GPT
        The model. Only the last `context_length` tokens are read.
    tokens : (T,) int, (B, T) int, or B sequences of int
        One prompt or several. Prompts of equal length form a group. Each group is a batch of its
        own and takes the time of one.
    max_new_tokens : int
        Number of tokens to generate per prompt, at most.
    temperature : float, default 0.0
        0 chooses the most likely token. Above 0, tokens are sampled; higher values make the
        distribution more even.
    top_k : int or None, default None
        Choose among the k most likely tokens.
    top_p : float or None, default None
        Choose among the most likely tokens that together have this probability, in (0, 1].
    eos_id : int or None, default None
        A sequence stops at this token, which is repeated until all sequences have stopped.
    rng : Generator, B generators, or None, default None
        Draws the tokens; required if `temperature` is above 0. One generator draws for all prompts
        in turn. With one generator each, a prompt's tokens do not depend on the other prompts.

    Yields
    ------
    int, or (B,) int64
        The next token of the prompt, or of each prompt.

    Raises
    ------
    InputError
        If an argument is invalid, when `generate` is called.
    RunError
        If the logits are nan or infinite, when the next token is asked for.
    """
    settings = sampling.check(temperature, top_k, top_p)
    max_new_tokens = check_integer("max_new_tokens", max_new_tokens, least=0)
    check_kind("model", model, GPT)
    if eos_id is not None and check_integer("eos_id", eos_id) not in range(model.config.vocab_size):
        eos_id = None  # the model never generates it
    prompts, single = _prompts(model, tokens)
    generators: list[Any] = list(rng) if isinstance(rng, (list, tuple)) else [rng]
    if settings["temperature"] > 0 and any(one is None for one in generators):
        raise InputError(f"temperature {temperature} draws at random: give it rng=Generator(seed)")
    if any(one is not None and not hasattr(one, "multinomial") for one in generators):
        raise InputError(f"rng must be one or more npgpt.Generator, not {show(rng)}")
    if isinstance(rng, (list, tuple)) and len(rng) != len(prompts):
        raise InputError(f"rng has {len(rng)} generators for {len(prompts)} prompts")
    steps = _steps(model, prompts, max_new_tokens, eos_id, generators, settings)
    return (int(new[0]) for new in steps) if single else steps


def _prompts(model: GPT, tokens: Any) -> tuple[list[Array], bool]:
    """Return the part of each prompt that is read, (T,) each, and whether it is a single one."""
    try:
        rows = np.asarray(tokens)
        single = rows.ndim < 2
        prompts = list(np.atleast_2d(rows))
    except ValueError:  # unequal lengths
        single = False
        try:
            prompts = [np.asarray(row) for row in tokens]
        except (ValueError, TypeError):
            prompts = []
        if not prompts or any(prompt.ndim != 1 for prompt in prompts):
            raise InputError("tokens must be one prompt, or a list of prompts") from None
    if not prompts or any(prompt.size == 0 for prompt in prompts):
        raise InputError("the prompt is empty: give at least one token to continue from")
    T_max = model.config.context_length
    return [check_tokens(p[-T_max:][None], model.config)[0] for p in prompts], single


class _Group:
    """Prompts of one length, which share a key/value cache."""

    def __init__(self, model: GPT, window: Array):
        self.model, self.window, self.unread = model, window, window
        empty = kv_cache.empty_cache(len(window), model.config, model.dtype)
        self.past: list[LayerCache] | None = empty

    @finite.ignore_overflow()
    def logits(self) -> Array:
        """Return the next token's logits (B, V)."""
        return self.model.next_logits(self.unread, past=self.past)

    def append(self, new: Array) -> None:
        """Append the new tokens (B,)."""
        T_max = self.model.config.context_length
        slides = self.window.shape[1] == T_max
        self.window = np.concatenate([self.window, new[:, None]], axis=1)[:, -T_max:]
        self.unread, self.past = (self.window, None) if slides else (new[:, None], self.past)


def _steps(
    model: GPT,
    prompts: list[Array],
    count: int,
    eos_id: int | None,
    rngs: list[Generator | None],
    settings: dict[str, Any],
) -> Iterator[Array]:
    """Yield the new tokens (B,) of all prompts, step by step."""
    lengths = np.array([len(prompt) for prompt in prompts])
    members = [np.flatnonzero(lengths == length) for length in dict.fromkeys(lengths.tolist())]
    groups = [_Group(model, np.stack([prompts[i] for i in rows])) for rows in members]
    logits, ended = np.empty(0), np.zeros(len(prompts), bool)
    for _ in range(count):
        for rows, group in zip(members, groups, strict=True):
            found = group.logits()
            if len(groups) == 1:
                logits = found
                continue
            if not logits.size:
                logits = np.empty((len(prompts), found.shape[1]), found.dtype)
            logits[rows] = found
        try:
            new = _choose(logits, rngs, ended, settings)
        except RunError as error:
            raise finite.error(str(error), model.params, model.path) from None
        if eos_id is not None:
            new = np.where(ended, eos_id, new)
            ended |= new == eos_id
        yield new
        if ended.all():
            return
        for rows, group in zip(members, groups, strict=True):
            group.append(new[rows])


def _choose(
    logits: Array, rngs: list[Generator | None], ended: Array, settings: dict[str, Any]
) -> Array:
    """(B, V) -> (B,) int64. One generator draws for all rows, or each row has its own."""
    if len(rngs) == 1:
        return sampling.next_token(logits, **settings, rng=rngs[0])
    new = np.zeros(len(logits), np.int64)
    for i in np.flatnonzero(~ended):
        new[i] = sampling.next_token(logits[i : i + 1], **settings, rng=rngs[i])[0]
    return new
