"""The directory that downloaded files are kept in."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Where fetched files are kept: NPGPT_CACHE, or the platform's cache folder."""
    if folder := os.environ.get("NPGPT_CACHE"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_cache_dir("npgpt"))
