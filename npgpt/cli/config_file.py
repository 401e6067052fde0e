"""Read the configuration file of `npgpt train --config`: settings by name, in YAML or JSON."""

from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from npgpt.cli.suggestions import nearest
from npgpt.config import Config, RunConfig, TrainingConfig
from npgpt.config_checks import is_one_of
from npgpt.errors import InputError, show

SECTIONS = {"config": Config, "training": TrainingConfig}  # as in the config.json of a run
FLAGS_ONLY = ("out", "resume")


def read(path: Path) -> dict[str, Any]:
    """Return the settings in a configuration file, by the names of their flags.

    They may stand in the sections `config` and `training`, as in a run's config.json, or outside.
    Raises InputError if the file cannot be read, or a setting is unknown, repeated or of another
    type.
    """
    found: dict[str, Any] = {}
    kinds = setting_kinds()
    for name, value in list_settings(parse(path), path):
        if name in found:
            raise InputError(f"{path} has the setting {show(name)} twice")
        if name not in kinds:
            raise InputError(f"{path} has the unknown setting {show(name)}: {advise(name, kinds)}")
        if not fits(value, kinds[name]):
            raise InputError(
                f"{path}: {name} is {show(value)}, but must be {describe(kinds[name])}"
            )
        found[name] = value
    return found


def parse(path: Path) -> dict[str, Any]:
    """Return the object in a file of JSON, which begins with a brace, or of YAML."""
    from npgpt.weights.mapped import MappedFile
    from npgpt.weights.strict_json import MAX_TEXT, parse_json_object

    data = MappedFile(path).data
    if data.size > MAX_TEXT:
        raise InputError(f"{path} has {data.size:,} bytes; at most {MAX_TEXT:,} are read")
    try:
        text = str(data.tobytes(), "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None
    if text.lstrip().startswith("{"):
        return parse_json_object(text, str(path))
    from npgpt.cli.strict_yaml import parse_yaml

    found = parse_yaml(text, str(path))
    if not isinstance(found, dict):
        raise InputError(f"{path} is {show(found)}, but must have lines such as lr: 5e-5")
    return found


def list_settings(found: dict[str, Any], path: Path) -> list[tuple[str, Any]]:
    """Return the settings in an object, those of its sections too, without derived numbers."""
    from npgpt.training.run_state import DERIVED

    settings: list[tuple[str, Any]] = []
    for name, value in found.items():
        if name in SECTIONS:
            if not isinstance(value, dict):
                raise InputError(f"{path}: {name} is {show(value)}, but must be several settings")
            settings += value.items()
        elif name not in DERIVED:
            settings.append((name, value))
    return [(name.replace("-", "_"), value) for name, value in settings]


def setting_kinds() -> dict[str, Any]:
    """Return the type of every setting."""
    kinds: dict[str, Any] = {}
    for part in (RunConfig, *SECTIONS.values()):
        kinds |= get_type_hints(part)
    return {name: kind for name, kind in kinds.items() if name not in SECTIONS}


def advise(name: str, kinds: dict[str, Any]) -> str:
    """Return what to write in place of an unknown setting."""
    if name in FLAGS_ONLY:
        return f"it is a flag only, --{name}"
    flag = nearest(name.replace("_", "-").lower(), [kind.replace("_", "-") for kind in kinds])
    return f"did you mean {flag.replace('-', '_')}?" if flag else "see npgpt train --help"


def fits(value: Any, kind: Any) -> bool:
    """Return True if a value from a file is of a setting's type."""
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if get_origin(kind) is Literal:
        return is_one_of(value, parts)
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(fits(one, parts[0]) for one in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def describe(kind: Any) -> str:
    """Return a setting's type as text."""
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(describe, parts))
    if get_origin(kind) is Literal:
        return " or ".join(parts)
    if get_origin(kind) is tuple:
        return f"a list of {describe(parts[0])}"
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    return names.get(kind, "null")
