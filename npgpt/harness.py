"""Models in lm-evaluation-harness: an instance of `HarnessModel` goes to `simple_evaluate`.

    from lm_eval import simple_evaluate
    simple_evaluate(HarnessModel(npgpt.load("gpt2-small")), tasks=["lambada_openai"])["results"]

It needs the extra [eval]. docs/evaluation.md
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from npgpt.data.tokenizer import tokenizer_of
from npgpt.errors import InputError
from npgpt.evaluation.requests import end_of_text, rolling_windows
from npgpt.gpt import GPT
from npgpt.inference.generate import generate
from npgpt.inference.scoring import TOKENS, Request, score
from npgpt.model.inputs import check_count, check_kind
from npgpt.rng import Generator

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
    from tqdm import tqdm
except ImportError as error:
    raise ImportError(
        f"npgpt.harness needs lm-evaluation-harness ({error}): pip install 'npgpt[eval]'"
    ) from error

SAMPLING = ("temperature", "top_k", "top_p")  # the settings of generate that tasks may give


class HarnessModel(TemplateLM):
    """A model of npgpt for lm-evaluation-harness.

    Parameters
    ----------
    model : GPT
        The model. Its tokenizer must be known and have a token for the end of a text.
    batch_size : int, default 8
        Prompts per batch of generation. Requests for log-probabilities are batched by length.
    seed : int, default 1234
        Draws the tokens of tasks that sample.

    Raises
    ------
    InputError
        If an argument is invalid, or the tokenizer cannot be used.
    """

    def __init__(self, model: GPT, *, batch_size: int = 8, seed: int = 1234):
        super().__init__()
        check_kind("model", model, GPT)
        self.model, self.batch_size = model, check_count("batch_size", batch_size)
        self.own_tokenizer = tokenizer_of(model)
        self.end = end_of_text(self.own_tokenizer)
        self.rng = Generator(seed, ops=model.ops)

    @property
    def eot_token_id(self) -> int:
        """The token at the end of a text, which an empty context is."""
        return self.end

    @property
    def max_length(self) -> int:
        """The context length."""
        return self.model.config.context_length

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer, or the path of its files."""
        return str(self.own_tokenizer)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Return the token ids of a text. GPT-2 adds none before or after."""
        return self.own_tokenizer.encode(string)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation, and True if it is greedy."""
        pairs = [Request(context, continuation) for _, context, continuation in requests]
        answers = self._score(pairs, disable_tqdm)
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-probability of each text, in windows of the context length."""
        texts = [request.args[0] for request in requests]
        windows = [list(rolling_windows(self.own_tokenizer, t, self.max_length)) for t in texts]
        answers = iter(self._score([pair for some in windows for pair in some], disable_tqdm))
        totals = [sum(value for value, _ in islice(answers, len(some))) for some in windows]
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what follows each context, up to the first of its stop strings."""
        found = dict[int, str]()
        bar = tqdm(total=len(requests), disable=disable_tqdm, desc="Generating")
        for numbers in self._batches(requests):
            contexts = [requests[number].args[0] for number in numbers]
            settings = requests[numbers[0]].args[1]
            texts = self._generate(contexts, settings)
            for number, text in zip(numbers, texts, strict=True):
                found[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
            bar.update(len(numbers))
        bar.close()
        return [found[number] for number in range(len(requests))]

    def _score(self, pairs: list[Request], disable_tqdm: bool) -> list[tuple[float, bool]]:
        """Return the score of each request."""
        track = partial(tqdm, disable=disable_tqdm, desc="Scoring")
        scores = score(self.model, pairs, tokens=max(TOKENS, self.max_length), track=track)
        return [(float(log_prob), bool(greedy)) for log_prob, greedy in scores]

    def _batches(self, requests: Sequence[Any]) -> Iterator[list[int]]:
        """Yield the numbers of requests with the same settings, the longest contexts first."""
        by_settings = dict[str, list[int]]()
        for number in sorted(range(len(requests)), key=lambda n: -len(requests[n].args[0])):
            by_settings.setdefault(repr(requests[number].args[1]), []).append(number)
        for numbers in by_settings.values():
            for start in range(0, len(numbers), self.batch_size):
                yield numbers[start : start + self.batch_size]

    def _generate(self, contexts: list[str], settings: dict[str, Any]) -> list[str]:
        """Return the texts that follow some contexts, all with the same settings."""
        options = normalize_gen_kwargs(settings)
        end = self.own_tokenizer.decode([self.end])
        stops = [stop for stop in handle_stop_sequences(options["until"], eos=end) if stop]
        count = options["max_gen_toks"]
        if count >= self.max_length:
            raise InputError(
                f"a task generates {count} tokens, but the context length is {self.max_length}: "
                "give gen_kwargs=dict(max_gen_toks=...)"
            )
        prompts = [self.tok_encode(c)[count - self.max_length :] or [self.end] for c in contexts]
        sampling = {name: options[name] for name in SAMPLING if options.get(name) is not None}
        rows: list[list[int]] = [[] for _ in contexts]
        texts = [""] * len(contexts)
        is_done = [False] * len(contexts)
        for new in generate(self.model, prompts, count, rng=self.rng, **sampling):
            for i in range(len(rows)):
                if not is_done[i]:
                    rows[i].append(int(new[i]))
                    texts[i] = self.own_tokenizer.decode(rows[i], unknown="\ufffd")
                    is_done[i] = any(stop in texts[i] for stop in stops)
            if all(is_done):
                break
        for stop in stops:
            texts = [text.partition(stop)[0] for text in texts]
        return texts
