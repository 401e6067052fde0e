"""Find a model: a path as it is given, or the directory of a downloaded GPT-2 given by its name."""

import os
from pathlib import Path

from npgpt.errors import InputError


def resolve(name_or_path: str | Path) -> Path:
    """Return the directory of a downloaded model for its name, and every other path unchanged.

    An existing file or directory comes first: a directory called "gpt2-small" is that directory.

    Raises
    ------
    InputError
        If the model of this name has not been downloaded.
    """
    path = Path(name_or_path)
    if os.path.lexists(path) or path.parent != Path():
        return path
    from npgpt.download import gpt2  # here, because HTTP and TLS take time and memory

    if path.name not in gpt2.MODELS:
        return path
    found = gpt2.find_downloaded(path.name)
    if found is None:
        raise InputError(f"{path} has not been downloaded yet: run npgpt download {path}")
    return found
