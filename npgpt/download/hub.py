"""Look up files on the Hugging Face Hub and in the Hub's local cache."""

from functools import partial
from pathlib import Path

from npgpt.download.http import (
    RETRY_STATUSES,
    TIMEOUT,
    Digest,
    RemoteFile,
    RequestError,
    retry,
)
from npgpt.download.pacing import HEADER_TIME
from npgpt.errors import DownloadError, one_line
from npgpt.system.time_limit import within

CONNECTION_ERRORS = "RemoteProtocolError", "ReadError", "ReadTimeout", "TimeoutError"  # lost
ALGORITHMS = {64: "sha256", 40: "git"}  # by the length of the ETag: large files, small files


def hub_files(repository: str, names: tuple[str, ...]) -> list[RemoteFile]:
    """Return the URL, size and hash of each file, all of one commit of the repository.

    Raises DownloadError if the Hub does not answer, or not with these.
    """
    from huggingface_hub import hf_hub_url

    commit, files = None, []
    for name in names:
        try:
            commit, size, digest = retry(partial(read_metadata, repository, name, commit))
        except RequestError as error:
            raise DownloadError(
                f"the files of {repository} could not be found on the Hugging Face Hub ({error})"
            ) from None
        files.append(
            RemoteFile(name, [hf_hub_url(repository, name, revision=commit)], size, digest)
        )
    return files


def read_metadata(repository: str, name: str, commit: str | None) -> tuple[str, int, Digest]:
    """Return commit, size and hash of a file on the Hub. `commit`: the newest one if None.

    Raises RequestError if the Hub does not answer, or not with all three.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository, name, revision=commit)
    try:
        request = partial(get_hf_file_metadata, url, timeout=TIMEOUT)
        found = within(HEADER_TIME, request)
    except MemoryError:
        raise
    except Exception as error:  # the Hub's HTTP library differs between its versions
        status = getattr(getattr(error, "response", None), "status_code", None)
        again = status in RETRY_STATUSES or type(error).__name__ in CONNECTION_ERRORS
        raise RequestError(one_line(error), retry=again, status=status) from None
    etag = found.etag or ""
    algorithm = ALGORITHMS.get(len(etag))
    if found.commit_hash is None or found.size is None or algorithm is None:
        raise RequestError(f"the answer of {found.location} has no commit, size or hash of {name}")
    return found.commit_hash, found.size, Digest(algorithm, etag)


def find_in_hub_cache(repository: str, names: tuple[str, ...]) -> Path | None:
    """Return the directory with all the files in the Hub's local cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repository, name) for name in names]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return paths[0].parent if len(paths) == len(names) else None
