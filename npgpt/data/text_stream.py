"""Token ids -> text, while they are generated: each character as soon as it is complete."""

import codecs
from collections.abc import Sequence

from npgpt.data.tokenizer import REPLACEMENT, Tokenizer

PENDING = 8  # tokens of one character, at most; and tokens before it that its spacing depends on


class TextStream:
    """Turns token ids into characters. A character of several tokens waits for its last one.

    `context`: the ids before the first one. The text of a token may depend on them, unless the
    tokenizer is bytewise.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()):
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.shown, self.waiting = list(context)[-PENDING:], list[int]()

    def feed(self, token: int) -> str:
        """Return the characters that this token completes, or "".

        An id outside the tokenizer's vocabulary becomes U+FFFD: that of a model may be larger.
        """
        if self.tokenizer.is_bytewise:
            piece = self.tokenizer.token_bytes(token)
            return self.decoder.decode(REPLACEMENT.encode() if piece is None else piece)
        self.waiting.append(int(token))
        found = self._text_of_waiting()
        cut = found.endswith(REPLACEMENT) and self.tokenizer.has(int(token))
        if cut and len(self.waiting) < PENDING:
            return ""
        self.shown, self.waiting = self.waiting, []
        return found

    def end(self) -> str:
        """Return the remaining characters: an incomplete one becomes U+FFFD."""
        if self.tokenizer.is_bytewise:
            return self.decoder.decode(b"", final=True)
        return self._text_of_waiting() if self.waiting else ""

    def _text_of_waiting(self) -> str:
        """Return the text that the waiting tokens add to the tokens before them."""
        before, both = (
            self.tokenizer.decode(ids, unknown=REPLACEMENT)
            for ids in (self.shown, self.shown + self.waiting)
        )
        return both[len(before) :]
