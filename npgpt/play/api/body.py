"""The JSON body of a request, and the checks of its fields."""

import json
from typing import Any

from npgpt.errors import InputError, show
from npgpt.model.inputs import check_bool, check_integer, check_number
from npgpt.play.session import Session

MAX_TEXT = 20_000  # characters or tokens of a prompt
MAX_SEED = 2**53 - 1  # the largest integer of the page's language


class Body:
    """The fields of a request. Each method returns one, and raises InputError if it is invalid."""

    def __init__(self, fields: dict[str, Any]):
        self.fields = fields

    @classmethod
    def parse(cls, content: bytes) -> "Body":
        """Return the fields in a JSON object. Raise InputError for anything else."""
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError):
            raise InputError("the request must be JSON") from None
        if not isinstance(fields, dict):
            raise InputError("the request must be a JSON object")
        return cls(fields)

    def get(self, name: str) -> Any:
        """Return a field that may have any value. Raise InputError if it is missing."""
        if name not in self.fields:
            raise InputError(f"{name} is missing")
        return self.fields[name]

    def number(self, name: str, least: float, most: float) -> float:
        """Return a number in [least, most]."""
        number = check_number(name, self.get(name))
        if not least <= number <= most:
            raise InputError(f"{name} is {number:g}, but must be from {least:g} to {most:g}")
        return number

    def integer(self, name: str, least: int, most: int) -> int:
        """Return an integer in [least, most]."""
        number = check_integer(name, self.get(name))
        if not least <= number <= most:
            raise InputError(f"{name} is {show(number)}, but must be from {least} to {most}")
        return number

    def flag(self, name: str) -> bool:
        """Return a bool."""
        return check_bool(name, self.get(name))

    def choice(self, name: str, *choices: str) -> str:
        """Return one of these strings."""
        value = self.get(name)
        if not isinstance(value, str) or value not in choices:
            raise InputError(f"{name} is {show(value)}, but must be one of {', '.join(choices)}")
        return value

    def text(self, name: str, most: int = MAX_TEXT) -> str:
        """Return a string of at most `most` characters."""
        value = self.get(name)
        if not isinstance(value, str):
            raise InputError(f"{name} is {show(value)}, but must be a text")
        if len(value) > most:
            raise InputError(f"{name} has {len(value):,} characters, but may have {most:,}")
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            raise InputError(f"{name} must be a text of whole characters") from None
        return value

    def tokens(self, session: Session) -> list[int]:
        """Return the tokens of the field "prompt", or those of the field "tokens"."""
        if "tokens" not in self.fields:
            return session.encode(self.text("prompt"))
        tokens, most = self.get("tokens"), session.require().config.vocab_size - 1
        if not isinstance(tokens, list) or not 0 < len(tokens) <= MAX_TEXT:
            raise InputError(f"tokens must be a list of 1 to {MAX_TEXT:,} token ids")
        return [Body({"a token": token}).integer("a token", 0, most) for token in tokens]

    def read_tokens(self, session: Session) -> tuple[list[int], int]:
        """Return those of `tokens` that the model reads, and how many come before them."""
        tokens = self.tokens(session)
        unread = max(0, len(tokens) - session.require().config.context_length)
        return tokens[unread:], unread
