"""Sources of draft tokens: the text itself, or a smaller model.

A draft is a guess of the next tokens. `propose` returns one of at most `count` tokens. `follow`
makes a Chooser of the text that is continued.
"""

from collections.abc import Callable, Iterable

from npgpt.arrays import Array
from npgpt.errors import RunError
from npgpt.gpt import GPT
from npgpt.inference.sampling import Sampling, choose
from npgpt.inference.window import Reader, Window, clear
from npgpt.rng import Generator


class Chooser:
    """Chooses tokens as a row does that is continued, without touching it.

    Draws are made with a copy of the row's generator. The same random numbers choose the same
    token if two models' probabilities are about equal.
    """

    def __init__(self, sampling: Sampling, text: Iterable[int], rng: Generator | None):
        self.sampling, self.text = sampling, list(text)
        self.rng = rng.copy() if isinstance(rng, Generator) else None  # None: greedy

    def choose(self, logits: Array) -> int:
        """Return the next token from logits (V,)."""
        token = choose(logits, self.sampling, self.text, self.rng)
        if self.sampling.repetition_penalty != 1:
            self.text.append(token)
        return token


class PromptLookup:
    """Proposes what followed the last time that the last few tokens occurred (Saxena 2023,
    github.com/apoorvumang/prompt-lookup-decoding).

    The position that is continued moves along with the text, as long as the text repeats it.
    """

    least = 1  # a token that is proposed and not verified costs nothing, and tells the hit rate
    hit_rate, drift = 0.2, 0.0  # (speculation.Pace)
    SIZES = 4, 3, 2  # numbers of tokens that are looked up, in this order

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.after: dict[tuple[int, ...], int] = {}  # the position after each n-gram
        self.position: int | None = None  # of the token that would repeat the text

    def propose(self, tokens: list[int], count: int, follow: Callable[[], Chooser]) -> list[int]:
        """Return the next tokens, if the text repeats itself."""
        known = len(self.tokens)
        if tokens[:known] != self.tokens:  # another text, or its first tokens were dropped
            self.tokens.clear()
            self.after.clear()
            self.position, known = None, 0
        for token in tokens[known:]:
            self._append(token)
        if self.position is None:
            return []
        period = len(tokens) - self.position  # the draft may repeat itself, too
        return [tokens[self.position + i % period] for i in range(count)]

    def _append(self, token: int) -> None:
        """Append a token, and find the position of the next one."""
        if self.position is not None:
            repeated = self.tokens[self.position] == token
            self.position = self.position + 1 if repeated else None
        self.tokens.append(token)
        end = len(self.tokens)
        for size in self.SIZES:
            if size <= end:
                ngram = tuple(self.tokens[-size:])
                if self.position is None:
                    self.position = self.after.get(ngram)
                self.after[ngram] = end


class DraftModel:
    """Proposes what a smaller model generates."""

    least = 0
    hit_rate, drift = 0.5, 0.003

    def __init__(self, model: GPT, cache_dtype: str | None = None):
        self.reader = Reader(model, cache_dtype)
        self.window = Window([], self.reader.empty_cache())

    def propose(self, tokens: list[int], count: int, follow: Callable[[], Chooser]) -> list[int]:
        """Return the next tokens of the draft model. None, if they do not fit its context."""
        if not count or len(tokens) + count > self.reader.model.config.context_length:
            return []
        chooser, draft = follow(), list[int]()
        try:
            self._continue_from(tokens)
            while len(draft) < count:
                draft.append(chooser.choose(next(self.reader.logits([self.window]))))
                self.window.append(draft[-1])
        except BaseException as error:
            clear(self.window.caches)  # some blocks may have read more than others
            if isinstance(error, RunError):  # logits that are not finite: only the model's count
                return []
            raise
        return draft

    def _continue_from(self, tokens: list[int]) -> None:
        """Keep what is cached of these tokens, and read the others but the last."""
        window = self.window
        cached = min(window.caches[0].length, len(tokens) - 1)
        pairs = enumerate(zip(window.tokens[:cached], tokens, strict=False))
        common = next((i for i, (one, other) in pairs if one != other), cached)
        for layer in window.caches:
            layer.length = common
        window.tokens = list(tokens)
        if common:  # else it is read as a prompt
            self.reader.catch_up(window)
