"""Speculative decoding: several tokens of one text in one pass, without changing one of them.

A draft guesses the next tokens. One pass reads the last token and the draft, and gives the logits
after each of them: the weights are read once for all. The next token is chosen from the first
logits, as without a draft. If it is the draft's first token, the second logits are those of the
token after it, and so on. At the first other token the remaining logits are dropped.

The text is the one of decoding without drafts, greedy and sampled, bit for bit. Logits do not
depend on the number of positions that are read together, and each token is drawn when it is due,
from the model's distribution, by the same random numbers. A draft only decides what is computed in
advance. (Leviathan et al. 2023, arXiv:2211.17192, instead reject at random, which keeps the
distribution but not the text.)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.inference.drafts import Chooser, DraftModel, PromptLookup
from npgpt.inference.window import FEW, Reader, Window, advance
from npgpt.model.inputs import check_kind
from npgpt.model.kv_cache import BFLOAT16


@dataclass
class Speculation:
    """Several tokens of a text in one pass, which changes no token.

    A draft of the next tokens is verified by the model in one pass over its weights. Its length
    follows the time of the passes and the share of accepted tokens.

    Parameters
    ----------
    draft : GPT or None, default None
        A smaller model with the same tokens, which proposes the next ones. None: those that
        followed when the last few tokens occurred before in the text.

    Attributes
    ----------
    proposed : int
        The number of draft tokens that were verified.
    accepted : int
        The number of these that the model chose, too.

    Raises
    ------
    InputError
        If `draft` is not a GPT.
    """

    draft: GPT | None = None
    proposed: int = field(default=0, init=False)
    accepted: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.draft is not None:
            check_kind("draft", self.draft, GPT)


def check_draft(speculation: Speculation, model: GPT) -> None:
    """Raise InputError unless the draft model has the tokens of this model."""
    if speculation.draft is None:
        return
    theirs, ours = speculation.draft.config.vocab_size, model.config.vocab_size
    if theirs != ours:
        raise InputError(
            f"the draft model has {theirs:,} tokens, but must have the {ours:,} of the model: "
            "choose one with the same tokenizer"
        )


class Speculator:
    """Returns the logits that follow a text, most of them computed in an earlier pass.

    It serves one text at a time. `forget` is called when another reader has continued it.
    """

    def __init__(self, reader: Reader, speculation: Speculation):
        self.reader, self.speculation = reader, speculation
        draft = speculation.draft
        rounded = BFLOAT16 if reader.cache_dtype == BFLOAT16 else None
        self.source = PromptLookup() if draft is None else DraftModel(draft, rounded)
        self.pace = Pace(self.source.hit_rate, self.source.drift)
        self.forget()

    def forget(self) -> None:
        """Drop the draft and its logits."""
        self.window: Window | None = None
        self.draft: list[int] = []  # of the tokens that are due; only the first may be verified
        self.logits: list[Array] = []  # after the first ones of them, (V,) each

    def next_logits(self, window: Window, left: int, follow: Callable[[], Chooser]) -> Array:
        """Return the logits (V,) of the next token. At most `left` tokens follow it. `follow`
        returns a Chooser, which chooses as the text's own settings do."""
        if window is not self.window or window.unread != 1:
            self.forget()
        elif self.draft:
            hit = window.tokens[-1] == self.draft.pop(0)
            self.pace.note_token(hit)
            if self.logits and hit:
                self.speculation.accepted += 1
                advance(window)
                return self.logits.pop(0)
        else:
            self.pace.note_no_draft()
        if window.unread != 1:  # a prompt, or a context that is full
            return next(self.reader.logits([window]))
        return self._read(window, left, follow)

    def _read(self, window: Window, left: int, follow: Callable[[], Chooser]) -> Array:
        """Read the last token and a draft in one pass."""
        started, tokens = time.perf_counter(), window.tokens
        unused = window.caches[0].max_length - len(tokens)  # positions of the context
        count = min(self.pace.count(), FEW - 1, unused, left)
        draft = self.source.propose(tokens, max(count, self.source.least), follow)
        verified = draft[:count]
        if verified:
            first, *self.logits = self.reader.logits_ahead(window, verified)
        else:
            first, self.logits = next(self.reader.logits([window])), []
        self.window, self.draft = window, draft
        self.speculation.proposed += len(verified)
        self.pace.note_pass(len(verified), time.perf_counter() - started)
        return first


class Pace:
    """The number of draft tokens that gives the most tokens per second, by the passes so far.

    With the probability p that a draft token is accepted, a pass with n of them gives
    1 + p + p**2 + ... + p**n tokens. `hit_rate` is the first p. Without a draft, p returns to it by
    the factor `drift` per token: a draft model is tried again now and then.
    """

    COUNTS = 0, 1, 3, 7, 15, 31  # with the last token, rows of a product: at most FEW
    MARGIN = 1.15  # tokens per second with a draft, of those without one, at least
    LEAST = 0.03  # time of a draft token, of a pass without one, at least
    RECENT = 0.12  # weight of the last token in p
    TRIES = 2  # passes until a time counts: one may wait for memory, or for another program
    SLOWER = 1.03  # a pass counts as at most this much slower than the one before
    FORGOTTEN = 0.999  # factor per pass of a time that is not measured again

    def __init__(self, hit_rate: float, drift: float):
        self.hit_rate, self.first, self.drift = hit_rate, hit_rate, drift
        self.passes = 0
        self.times: dict[int, float] = {}  # in seconds
        self.tries, self.measured = dict.fromkeys(self.COUNTS, 0), dict.fromkeys(self.COUNTS, 0)

    def count(self) -> int:
        """Return the number of tokens to propose."""
        if self.tries[0] < self.TRIES:
            return 0
        best = max(self.COUNTS, key=self._rate)
        return best if self._rate(best) > self.MARGIN * self._rate(0) else 0

    def _rate(self, count: int) -> float:
        """Return the tokens per second of passes with this number of draft tokens."""
        tried = max(n for n in self.COUNTS if n <= count and self.tries[n] >= self.TRIES)
        plain = self._time(0)
        seconds = self._time(tried)
        if 0 < tried < count:  # on a line through the smaller ones
            seconds = plain + (seconds - plain) * count / tried
        tokens = sum(self.hit_rate**i for i in range(count + 1))
        return tokens / max(seconds, plain * (1 + self.LEAST * count))

    def _time(self, count: int) -> float:
        """Return the seconds of a pass, fewer if it was not made for long: it is tried again."""
        return self.times[count] * self.FORGOTTEN ** (self.passes - self.measured[count])

    def note_token(self, hit: bool) -> None:
        """Note whether the draft token that was due was chosen."""
        self.hit_rate += self.RECENT * (hit - self.hit_rate)

    def note_no_draft(self) -> None:
        """Note that no draft token was due."""
        self.hit_rate += self.drift * (self.first - self.hit_rate)

    def note_pass(self, count: int, seconds: float) -> None:
        """Note the time of a pass with this number of draft tokens."""
        if count in self.COUNTS:  # else the text or the context ends
            self.passes += 1
            self.times[count] = min(seconds, self.SLOWER * self.times.get(count, seconds))
            self.tries[count] += 1
            self.measured[count] = self.passes
