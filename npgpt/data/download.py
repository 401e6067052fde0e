"""Files fetched once, checked, and kept in the platform's cache folder."""

import hashlib
import os
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from npgpt.errors import RunError
from npgpt.files import replacing

VERDICT = "the-verdict.txt"
VERDICT_URL = (
    "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/"
    "ch02/01_main-chapter-code/the-verdict.txt"
)
VERDICT_SHA256 = "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"


def cache_folder() -> Path:
    """Where fetched files are kept: NPGPT_CACHE, or the platform's cache folder."""
    if folder := os.environ.get("NPGPT_CACHE"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_cache_dir("npgpt"))


def verdict() -> Path:
    """The path of The Verdict, fetched if it is not there yet."""
    return fetch(VERDICT_URL, cache_folder() / VERDICT, sha256=VERDICT_SHA256, most=1 << 20)


def fetch(url: str, path: Path, *, sha256: str, most: int) -> Path:
    """`path`, holding what `url` gives. What is there already and right is not fetched again.

    `most`: the largest number of bytes taken. Raises RunError where it cannot be fetched or is not
    what its hash says; `path` is then left as it was.
    """
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
        return path
    by_hand = f"fetch it yourself and pass it as --data PATH: {url}"
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            raw = response.read(most + 1)
    except (OSError, ValueError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise RunError(f"{path.name} could not be fetched ({reason}); {by_hand}") from None
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise RunError(
            f"{path.name} arrived as {len(raw)} bytes with sha256 {found[:12]}..., "
            f"expected {sha256[:12]}...: cut, or changed; {by_hand}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(raw)
    except OSError as error:
        raise RunError(
            f"{path} could not be written: {error.strerror}; "
            "set NPGPT_CACHE to a folder that can be"
        ) from None
    return path
