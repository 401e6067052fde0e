"""The directory of downloaded files."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the directory of downloaded files: NPGPT_CACHE, or else the platform's user cache."""
    if directory := os.environ.get("NPGPT_CACHE"):
        return Path(directory)
    import platformdirs

    return Path(platformdirs.user_cache_dir("npgpt"))
