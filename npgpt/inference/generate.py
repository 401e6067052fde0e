"""Generate tokens one at a time from a prompt, or from several (npgpt/inference/batch.py).

The prompt is read in one pass. After that each new token is read alone, with the cached keys and
values of the tokens before it. Once the context is full, the window slides. GPT-2's positions are
absolute: every cached key would be wrong by one position, and the window is read again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from npgpt.arrays import Array, Flat, TokenIds
from npgpt.data.tokenizer import tokenizer_of
from npgpt.errors import InputError, show
from npgpt.gpt import GPT
from npgpt.inference.batch import Batch, check_biased, check_keep
from npgpt.inference.sampling import Sampling
from npgpt.inference.speculation import Speculation
from npgpt.inference.stop import StoppableText, check_stops
from npgpt.model.inputs import check_integer, check_kind, check_tokens
from npgpt.rng import Generator

Rngs = Generator | Sequence[Generator] | None


@overload
def generate(
    model: GPT, tokens: Flat, max_new_tokens: int, temperature: float = ...,
    top_k: int | None = ..., top_p: float | None = ..., eos_id: int | None = ..., rng: Rngs = ...,
    *, min_p: float | None = ..., repetition_penalty: float = ...,
    logit_bias: Mapping[int, float] | None = ..., keep: int | None = ...,
    stop: Sequence[str] = ..., speculate: Speculation | None = ..., cache_dtype: str | None = ...,
) -> Iterator[int]: ...  # fmt: skip
@overload
def generate(
    model: GPT, tokens: Sequence[Flat] | Sequence[Array], max_new_tokens: int,
    temperature: float = ..., top_k: int | None = ..., top_p: float | None = ...,
    eos_id: int | None = ..., rng: Rngs = ..., *, min_p: float | None = ...,
    repetition_penalty: float = ..., logit_bias: Mapping[int, float] | None = ...,
    keep: int | None = ..., stop: Sequence[str] = ..., speculate: Speculation | None = ...,
    cache_dtype: str | None = ...,
) -> Iterator[Array]: ...  # fmt: skip
@overload
def generate(
    model: GPT, tokens: Array, max_new_tokens: int, temperature: float = ...,
    top_k: int | None = ..., top_p: float | None = ..., eos_id: int | None = ..., rng: Rngs = ...,
    *, min_p: float | None = ..., repetition_penalty: float = ...,
    logit_bias: Mapping[int, float] | None = ..., keep: int | None = ...,
    stop: Sequence[str] = ..., speculate: Speculation | None = ..., cache_dtype: str | None = ...,
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
    *,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    logit_bias: Mapping[int, float] | None = None,
    keep: int | None = None,
    stop: Sequence[str] = (),
    speculate: Speculation | None = None,
    cache_dtype: str | None = None,
) -> Iterator[Any]:
    """Yield new tokens after a prompt, one at a time.

    Parameters
    ----------
    model : GPT
        The model. Only the last `context_length` tokens are read.
    tokens : (T,) int, (B, T) int, or B sequences of int
        One prompt or several, of any lengths, which are continued together. Each gets the tokens
        that it would get alone.
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
    min_p, repetition_penalty, logit_bias
        As of `Sampling`.
    keep : int or None, default None
        When the context is full, this number of first tokens and the last half of the others are
        kept, and read again once. None: the oldest token is dropped, and all others are read again
        for every further token.
    stop : sequence of str, default ()
        A sequence stops at the token that completes one of these strings, by the model's
        tokenizer. The token is repeated until all sequences have stopped.
    speculate : Speculation or None, default None
        Verify several tokens of a single prompt in one pass. The tokens are the same; a text that
        repeats itself, or a good draft model, makes them faster.
    cache_dtype : {"bfloat16"} or None, default None
        How keys and values are stored. "bfloat16": rounded, in half of the memory, which makes long
        texts faster. None: in the model's own dtype.

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
    settings = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, logit_bias)
    max_new_tokens = check_integer("max_new_tokens", max_new_tokens, least=0)
    check_kind("model", model, GPT)
    check_biased(settings, model.config)
    check_keep(keep, model.config)
    if eos_id is not None and check_integer("eos_id", eos_id) not in range(model.config.vocab_size):
        eos_id = None  # the model never generates it
    prompts, single = _prompts(model, tokens)
    generators: list[Any] = list(rng) if isinstance(rng, (list, tuple)) else [rng]
    if not settings.is_greedy and any(one is None for one in generators):
        raise InputError(f"temperature {temperature} draws at random: give it rng=Generator(seed)")
    if any(one is not None and not hasattr(one, "multinomial") for one in generators):
        raise InputError(f"rng must be one or more npgpt.Generator, not {show(rng)}")
    if isinstance(rng, (list, tuple)) and len(rng) != len(prompts):
        raise InputError(f"rng has {len(rng)} generators for {len(prompts)} prompts")
    batch = Batch(model, speculate=speculate, cache_dtype=cache_dtype)
    check_stops(stop)
    writers = []
    if stop:
        tokenizer = tokenizer_of(model)
        writers = [StoppableText(tokenizer, prompt.tolist(), stop) for prompt in prompts]
    steps = _steps(batch, prompts, max_new_tokens, eos_id, generators, settings, keep, writers)
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


def _steps(
    batch: Batch,
    prompts: list[Array],
    count: int,
    eos_id: int | None,
    rngs: list[Generator | None],
    settings: Sampling,
    keep: int | None,
    writers: list[StoppableText],
) -> Iterator[Array]:
    """Yield the new tokens (B,) of all prompts, step by step.

    `writers`: of each prompt, with stop strings; none without.
    """
    shared = len(rngs) == 1 and not settings.is_greedy  # it draws for rows that have ended, too
    tokens = np.zeros(len(prompts), np.int64)
    ended = np.full(len(prompts), count == 0)
    if count:
        for prompt, rng in zip(prompts, rngs * (len(prompts) // len(rngs)), strict=True):
            batch.add(
                prompt, settings, max_new_tokens=count, rng=rng, keep=keep,
                eos_id=None if shared else eos_id,
            )  # fmt: skip
    while batch and not ended.all():
        for new in batch.step():
            if ended[new.row]:
                continue
            tokens[new.row] = new.token
            ended[new.row] = eos_id is not None and new.token == eos_id
            if writers and not ended[new.row]:
                writers[new.row].feed(new.token)
                ended[new.row] = writers[new.row].has_stopped
                if ended[new.row] and not shared and not new.finish_reason:
                    batch.remove(new.row)
        yield tokens.copy()
