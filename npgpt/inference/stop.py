"""Text that ends at a stop string, which may begin and end within any tokens."""

from collections.abc import Sequence

from npgpt.data.text_stream import TextStream
from npgpt.data.tokenizer import Tokenizer
from npgpt.errors import InputError, show


class StoppableText:
    """Turns token ids into text up to the first stop string, as they are generated.

    Text that may be the beginning of a stop string waits until that is known.

    `context`: the ids before the first one, as of TextStream. `stops`: the stop strings.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int], stops: Sequence[str]):
        self.stream, self.stops = TextStream(tokenizer, context), stops
        self.waiting, self.has_stopped = "", False

    def feed(self, token: int) -> str:
        """Return the text that this token settles, or ""."""
        return self._settle(self.stream.feed(token))

    def end(self) -> str:
        """Return the remaining text."""
        if self.has_stopped:
            return ""
        settled = self._settle(self.stream.end())
        return settled + self.waiting if not self.has_stopped else settled

    def _settle(self, piece: str) -> str:
        """Return the text up to a stop string, or else up to what may begin one."""
        text = self.waiting + piece
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        self.has_stopped = bool(found)
        end = min(found) if found else len(text) - self._possible(text)
        self.waiting = text[end:]
        return text[:end]

    def _possible(self, text: str) -> int:
        """Return the number of last characters that a stop string begins with."""
        longest = max(map(len, self.stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self.stops):
                return size
        return 0


def check_stops(stops: Sequence[str]) -> None:
    """Raise InputError unless every stop string has a character."""
    if isinstance(stops, str) or not all(isinstance(stop, str) and stop for stop in stops):
        raise InputError(f"stop is {show(stops)}, but must be strings that are not empty")
