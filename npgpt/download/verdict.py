"""Download The Verdict, the text that the book trains on."""

from pathlib import Path

from npgpt.download.cache_dir import cache_dir
from npgpt.download.http import Digest, Trouble, copy, opened, silent, verify
from npgpt.errors import RunError
from npgpt.system.files import atomic_write

VERDICT = "the-verdict.txt"

VERDICT_URL = (
    "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/"
    "ch02/01_main-chapter-code/the-verdict.txt"
)

VERDICT_SHA256 = "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"


def verdict() -> Path:
    """The path of The Verdict, fetched if it is not there yet."""
    return small(VERDICT_URL, cache_dir() / VERDICT, sha256=VERDICT_SHA256, most=1 << 20)


def small(url: str, path: Path, *, sha256: str, most: int) -> Path:
    """`path`, holding what `url` gives. What is there already and right is not fetched again.

    `most`: the largest number of bytes taken. Raises RunError where it cannot be fetched or is not
    what its hash says; `path` is then left as it was.
    """
    expected = Digest("sha256", sha256)
    by_hand = f"fetch it yourself and pass it as --data PATH: {url}"
    try:
        if path.is_file() and expected.of(path) == sha256:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            with opened(url, {}) as response, open(temporary, "wb") as file:
                copy(response, file, have=0, most=most, tell=silent)
            verify(temporary, expected)
    except Trouble as trouble:
        raise RunError(f"{path.name} could not be fetched ({trouble}); {by_hand}") from None
    except OSError as error:
        raise RunError(
            f"{path} could not be written: {error.strerror}; "
            "set NPGPT_CACHE to a folder that can be"
        ) from None
    return path
