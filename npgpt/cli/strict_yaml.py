"""Read YAML from a file without trusting it: strings, numbers, true, false and null, by YAML 1.2.

PyYAML's safe loader follows YAML 1.1, where 5e-5 is a string, `no` is false and 1:30 is 90.
Refused are aliases, which let a short text stand for a large one, tags, and keys that occur twice.
"""

import re
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent

from npgpt.errors import InputError, show

MAX_SIZE = 1 << 16  # characters: PyYAML reads about 200,000 in a second


def parse_yaml(text: str, about: str) -> Any:
    """Return the value of a YAML text. Raises InputError if it is invalid or too large."""
    if len(text) > MAX_SIZE:
        raise InputError(
            f"{about} has {len(text):,} characters; at most {MAX_SIZE:,} of YAML are read"
        )
    try:
        return yaml.load(text, Loader)  # a subclass of SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{about} is not valid YAML ({line}{problem})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{about} is not valid YAML ({error})") from None


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the scalars of YAML 1.2, without aliases and tags."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # those of YAML 1.1 are not inherited

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node. Raise ConstructorError if it is an alias or has a tag."""
        event = self.peek_event()
        if isinstance(event, AliasEvent) or getattr(event, "tag", None) is not None:
            kind = "aliases" if isinstance(event, AliasEvent) else "tags"
            raise ConstructorError(None, None, f"{kind} are not read", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a dict. Raise ConstructorError if a key is repeated or no string."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            problem = None
            if not isinstance(name, str):
                problem = f"the key {show(name)} is no string"
            elif name in seen:
                problem = f"the key {show(name)} occurs twice"
            if problem:
                raise ConstructorError(None, None, problem, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


for tag, pattern, first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", "[-+]?(0|[1-9][0-9_]*)", list("-+0123456789")),
    ("float", r"[-+]?([0-9][0-9_]*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", list("-+0123456789.")),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), first)
