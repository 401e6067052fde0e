"""The JSON body of a request to the page's server."""

from npgpt.errors import InputError
from npgpt.model.json_fields import Fields
from npgpt.play.session import Session

MAX_TEXT = 20_000  # characters or tokens of a prompt
MAX_SEED = 2**53 - 1  # the largest integer of the page's language


class Body(Fields):
    """The fields of a request, of which some are the tokens that a view is about."""

    def tokens(self, session: Session) -> list[int]:
        """Return the tokens of the field "prompt", or those of the field "tokens"."""
        if "tokens" not in self.fields:
            return session.encode(self.text("prompt", MAX_TEXT))
        tokens, most = self.get("tokens"), session.require().config.vocab_size - 1
        if not isinstance(tokens, list) or not 0 < len(tokens) <= MAX_TEXT:
            raise InputError(f"tokens must be a list of 1 to {MAX_TEXT:,} token ids")
        return [Body({"a token": token}).integer("a token", 0, most) for token in tokens]

    def read_tokens(self, session: Session) -> tuple[list[int], int]:
        """Return those of `tokens` that the model reads, and how many come before them."""
        tokens = self.tokens(session)
        unread = max(0, len(tokens) - session.require().config.context_length)
        return tokens[unread:], unread
