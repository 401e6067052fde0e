"""The paths in the settings of a run, which may be resumed elsewhere.

They are absolute. The directory of the run is stored beside them: if a run was moved together with
its data, a path that no longer exists is looked up at the same place relative to the run.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from npgpt.config import VOCABULARIES, RunConfig

NAMES = {  # values that name no path, even if there is a file of this name
    "data": ("bundled", "verdict"),
    "val_data": ("bundled", "verdict"),
    "init_from": (),
    "tokenizer": tuple(VOCABULARIES),
}


def absolute_paths(settings: RunConfig) -> RunConfig:
    """Return settings in which every path that exists is absolute."""
    return map_paths(
        settings, lambda path: os.path.abspath(path) if os.path.lexists(path) else path
    )


def relocate(settings: RunConfig, before: str | None, directory: Path) -> RunConfig:
    """Return the settings of a run in `directory` with absolute paths.

    `before`: the directory of the run when the settings were written, None if it is not known.
    """

    def find(path: str) -> str:
        if os.path.lexists(path):
            return os.path.abspath(path)
        if before is not None and os.path.isabs(path):
            moved = os.path.abspath(directory / os.path.relpath(path, before))
            return moved if os.path.lexists(moved) else path
        return path

    return map_paths(settings, find)


def map_paths(settings: RunConfig, change: Callable[[str], str]) -> RunConfig:
    """Return settings with `change(path)` in place of every path."""
    changed: dict[str, Any] = {}
    for field, names in NAMES.items():
        value = getattr(settings, field)
        if isinstance(value, tuple):
            changed[field] = tuple(one if one in names else change(one) for one in value)
        elif value is not None and value not in names:
            changed[field] = change(value)
    return replace(settings, **changed)
