"""A request for completions, as OpenAI's protocol has it, with every field checked."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from npgpt.data.tokenizer import Tokenizer
from npgpt.errors import InputError, show
from npgpt.gpt import GPT
from npgpt.inference.batch import check_biased
from npgpt.inference.sampling import Sampling
from npgpt.model.inputs import check_number
from npgpt.model.json_fields import Fields

MAX_CHOICES = 128  # of one request: prompts x n
MAX_STOPS = 16
MAX_STOP = 1000  # characters of a stop string
MAX_LOG_PROBS = 20  # most likely tokens at each position
MAX_SEED = 2**63 - 1
# Fields of the protocol that change the result and are not implemented: the value that is accepted
UNSUPPORTED = {"suffix": None, "presence_penalty": 0, "frequency_penalty": 0}
FIELDS = {
    "model", "prompt", "max_tokens", "temperature", "top_p", "n", "best_of", "stream",
    "stream_options", "logprobs", "echo", "stop", "seed", "logit_bias", "user", *UNSUPPORTED,
    "top_k", "min_p", "repetition_penalty",  # not OpenAI's, but of other servers too
}  # fmt: skip


class UnknownModel(InputError):
    """The request names a model that is not served."""


@dataclass(frozen=True)
class CompletionRequest:
    """A request: `n` choices for each prompt. Choice number i is drawn by Generator(seed + i)."""

    prompts: list[list[int]]
    n: int
    sampling: Sampling
    max_new_tokens: int
    seed: int
    stops: Sequence[str]
    log_probs: int | None
    echo: bool
    stream: bool
    include_usage: bool


def parse(content: bytes, name: str, model: GPT, tokenizer: Tokenizer) -> CompletionRequest:
    """Return the request in a JSON text.

    `name`: of the model that is served. Raises UnknownModel for another one, and InputError for
    anything that is invalid.
    """
    body = Fields.parse(content)
    fields = body.fields
    served = fields.get("model", name)
    if served != name:
        raise UnknownModel(f"the model {show(served)} is not served here, but {name!r} is")
    if unknown := [key for key in fields if key not in FIELDS]:
        raise InputError(f"{show(unknown[0])} is not a field of a completion request")
    for key, value in UNSUPPORTED.items():
        if fields.get(key) not in (None, value) or isinstance(fields.get(key), bool):
            raise InputError(f"{key} is not supported: leave it out")
    n = body.integer("n", 1, MAX_CHOICES, default=1)
    if body.integer("best_of", 1, 1 << 30, default=n) != n:
        raise InputError(f"best_of is {show(fields['best_of'])}, but must be n, which is {n}")
    prompts = parse_prompts(fields.get("prompt"), model, tokenizer)
    if len(prompts) * n > MAX_CHOICES:
        raise InputError(
            f"{len(prompts)} prompts with {n} choices each are more than {MAX_CHOICES} choices"
        )
    sampling = Sampling(
        temperature=body.number("temperature", default=1.0),
        top_p=body.number("top_p", default=1.0),
        top_k=fields.get("top_k"),
        min_p=fields.get("min_p"),
        repetition_penalty=body.number("repetition_penalty", default=1.0),
        logit_bias=parse_bias(fields.get("logit_bias")),
    )
    check_biased(sampling, model.config)
    echo = body.flag("echo", default=False)
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise InputError(f"stream_options is {show(options)}, but must be an object")
    least = 0 if echo else 1
    return CompletionRequest(
        prompts=prompts,
        n=n,
        sampling=sampling,
        max_new_tokens=body.integer("max_tokens", least, 1 << 30, default=16),
        seed=body.integer("seed", 0, MAX_SEED - MAX_CHOICES, default=secrets.randbits(62)),
        stops=parse_stops(fields.get("stop")),
        log_probs=body.integer("logprobs", 0, MAX_LOG_PROBS, default=None),
        echo=echo,
        stream=body.flag("stream", default=False),
        include_usage=Fields(options or {}).flag("include_usage", default=False),
    )


def parse_prompts(prompt: Any, model: GPT, tokenizer: Tokenizer) -> list[list[int]]:
    """Return the token ids of each prompt: of a text, a list of texts, of ids, or of lists of ids.

    An empty prompt is the end-of-text token, after which a new text begins.
    """
    if prompt is None:
        prompt = ""
    if isinstance(prompt, str):
        prompts: list[Any] = [prompt]
    elif not isinstance(prompt, list) or not prompt:
        raise InputError(
            f"prompt is {show(prompt)}, but must be a text or a list that is not empty"
        )
    elif all(isinstance(item, (str, list)) for item in prompt):
        prompts = prompt
    else:
        prompts = [prompt]
    if len(prompts) > MAX_CHOICES:
        raise InputError(f"{len(prompts):,} prompts are more than {MAX_CHOICES}")
    return [parse_prompt(item, model, tokenizer) for item in prompts]


def parse_prompt(prompt: Any, model: GPT, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of one prompt."""
    if isinstance(prompt, str):
        ids = list(tokenizer.encode(Fields({"prompt": prompt}).text("prompt")))
    else:
        last = model.config.vocab_size - 1
        ids = [Fields({"a token": one}).integer("a token", 0, last) for one in prompt]
    if not ids:
        if tokenizer.eot_token is None:
            raise InputError("the prompt is empty, and the tokenizer has no end-of-text token")
        ids = [tokenizer.eot_token]
    if len(ids) > (most := model.config.context_length):
        raise InputError(
            f"the prompt has {len(ids):,} tokens, but the model reads {most:,}: shorten it"
        )
    return ids


def parse_bias(bias: Any) -> dict[int, float] | None:
    """Return the logit bias of each token id; JSON has the ids as texts."""
    if bias is None:
        return None
    if not isinstance(bias, dict):
        raise InputError(f"logit_bias is {show(bias)}, but must be an object")
    found = {}
    for key, value in bias.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise InputError(f"logit_bias has {show(key)}, which is not a token id")
        number = check_number("a logit_bias", value)
        if not math.isfinite(number) or not -100 <= number <= 100:
            raise InputError(f"a logit_bias is {show(value)}, but must be from -100 to 100")
        found[int(key)] = number
    return found or None


def parse_stops(stop: Any) -> list[str]:
    """Return the stop strings: of a text or of a list of texts."""
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
        raise InputError(f"stop is {show(stop)}, but must be a text or a list of texts, none empty")
    if len(stops) > MAX_STOPS or any(len(one) > MAX_STOP for one in stops):
        raise InputError(f"stop may have {MAX_STOPS} texts of {MAX_STOP:,} characters")
    return stops
