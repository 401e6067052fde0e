"""Prompt in, tokens out one at a time.

The prompt is read in one pass; after that each new token is read alone, against the keys and
values remembered of those before it. When the context is full the window slides: positions are
absolute in GPT-2, so every remembered key would be wrong by one, and the window is read anew.
"""

import codecs
from collections.abc import Iterator

import numpy as np

from npgpt.arrays import Array
from npgpt.data.tokenizer import token_bytes
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.inference import sampling
from npgpt.model import kv_cache
from npgpt.rng import Generator


def generate(
    model: GPT,
    tokens,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_id: int | None = None,
    rng: Generator | None = None,
) -> Iterator[Array]:
    """Yields the new token ids (B,) int64, step by step, after the prompt `tokens` (T,) or (B, T).

    `temperature` 0 is greedy; above it, one token is drawn per row from `rng`. Rows end on their
    own: one that has given `eos_id` gives it again until all have. A prompt longer than the context
    is read from its end. Raises InputError for settings or tokens that make no sense.
    """
    sampling.check(temperature, top_k, top_p)
    if temperature > 0 and rng is None:
        raise InputError(f"temperature {temperature} draws at random: give it rng=Generator(seed)")
    if max_new_tokens < 0:
        raise InputError(f"max_new_tokens is {max_new_tokens}, but has to be at least 0")
    tokens = np.atleast_2d(np.asarray(tokens))
    if tokens.shape[-1] == 0:
        raise InputError("the prompt is empty: give at least one token to continue from")
    model.check(tokens[:, -model.config.context_length :])
    settings = dict(temperature=temperature, top_k=top_k, top_p=top_p, rng=rng)
    return _steps(model, tokens, max_new_tokens, eos_id, settings)


def _steps(model, tokens, max_new_tokens, eos_id, settings):
    T_max = model.config.context_length
    window = tokens[:, -T_max:]
    past = kv_cache.empty_cache(len(window), model.config, model.dtype)
    unread, ended = window, np.zeros(len(window), bool)
    for _ in range(max_new_tokens):
        new = sampling.next_token(model.next_logits(unread, past=past), **settings)
        if eos_id is not None:
            new = np.where(ended, eos_id, new)
            ended |= new == eos_id
        yield new
        if ended.all():
            return
        slides = window.shape[1] == T_max
        window = np.concatenate([window, new[:, None]], axis=1)[:, -T_max:]
        unread, past = (window, None) if slides else (new[:, None], past)


class TextStream:
    """Token ids in, whole characters out: one spread over several tokens waits for its end."""

    def __init__(self, encoding):
        """`encoding`: a tiktoken.Encoding, see `npgpt.tokenizer`."""
        self.encoding = encoding
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The characters that this token completes; maybe none."""
        return self.decoder.decode(token_bytes(self.encoding, token))

    def end(self) -> str:
        """What was still waiting: a character cut off in its middle shows as U+FFFD."""
        return self.decoder.decode(b"", final=True)
