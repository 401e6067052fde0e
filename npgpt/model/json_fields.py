"""The fields of a JSON object from a client, each with its check."""

import json
import math
from typing import Any, Self

from npgpt.errors import InputError, show
from npgpt.model.inputs import check_bool, check_integer, check_number

REQUIRED: Any = object()


class Fields:
    """The fields of a request. Each method returns one, and raises InputError if it is invalid.

    `default`: the value of a field that is missing or null. Without it, the field is required.
    """

    def __init__(self, fields: dict[str, Any]):
        self.fields = fields

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Return the fields in a JSON object. Raise InputError for anything else."""
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the request must be JSON: {show(str(error))}") from None
        if not isinstance(fields, dict):
            raise InputError(f"the request must be a JSON object, not {show(fields)}")
        return cls(fields)

    def get(self, name: str) -> Any:
        """Return a field that may have any value. Raise InputError if it is missing."""
        if name not in self.fields:
            raise InputError(f"{name} is missing")
        return self.fields[name]

    def is_left_out(self, name: str, default: Any) -> bool:
        """Return True if a field has its default."""
        return default is not REQUIRED and self.fields.get(name) is None

    def number(
        self, name: str, least: float = -math.inf, most: float = math.inf, default: Any = REQUIRED
    ) -> float:
        """Return a number in [least, most]."""
        if self.is_left_out(name, default):
            return default
        number = check_number(name, self.get(name))
        if not least <= number <= most:
            raise InputError(f"{name} is {number:g}, but must be from {least:g} to {most:g}")
        return number

    def integer(self, name: str, least: int, most: int, default: Any = REQUIRED) -> int:
        """Return an integer in [least, most]."""
        if self.is_left_out(name, default):
            return default
        number = check_integer(name, self.get(name))
        if not least <= number <= most:
            raise InputError(f"{name} is {show(number)}, but must be from {least} to {most}")
        return number

    def flag(self, name: str, default: Any = REQUIRED) -> bool:
        """Return a bool."""
        return default if self.is_left_out(name, default) else check_bool(name, self.get(name))

    def choice(self, name: str, *choices: str) -> str:
        """Return one of these strings."""
        value = self.get(name)
        if not isinstance(value, str) or value not in choices:
            raise InputError(f"{name} is {show(value)}, but must be one of {', '.join(choices)}")
        return value

    def text(self, name: str, most: float = math.inf) -> str:
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
