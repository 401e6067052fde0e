"""Download The Verdict, the text that the book trains on."""

from pathlib import Path

from npgpt.download.cache_dir import cache_dir
from npgpt.download.http import Digest, copy, no_progress, open_url, verify
from npgpt.errors import DownloadError, RunError
from npgpt.system.atomic import atomic_write, make_directory

VERDICT = "the-verdict.txt"
VERDICT_URL = (
    "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/"
    "ch02/01_main-chapter-code/the-verdict.txt"
)
VERDICT_SHA256 = "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"


def download_verdict() -> Path:
    """Return the path of The Verdict in the cache directory; download it if it is missing.

    Raises DownloadError as `download_small`.
    """
    path = cache_dir() / VERDICT
    return download_small(VERDICT_URL, path, sha256=VERDICT_SHA256, max_size=1 << 20)


def download_small(
    url: str, path: Path, *, sha256: str, max_size: int, use: str = "pass it as --data PATH"
) -> Path:
    """Download a file in one request and return `path`. A file with the right hash is kept.

    `use`: how a copy of the file can be used. Raises DownloadError if the download fails, if the
    file has more than `max_size` bytes or another hash, or if it cannot be written. An existing
    file at `path` is then unchanged.
    """
    expected = Digest("sha256", sha256)
    try:
        if path.is_file() and expected.compute(path) == sha256:
            return path
        make_directory(path.parent)
        with atomic_write(path) as file:
            with open_url(url, {}) as response:
                copy(response, file, have=0, max_size=max_size, progress=no_progress)
            file.flush()
            verify(Path(file.name), expected)
    except DownloadError as error:
        raise DownloadError(
            f"{path} could not be downloaded ({error}); download it yourself and {use}: {url}"
        ) from None
    except (RunError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError):
            text = f"{path} could not be written: {error.strerror or error}"
        raise DownloadError(f"{text}; set NPGPT_CACHE to a directory that can be written") from None
    return path
