"""One HTTP request: redirects, proxies, retries, digests."""

import hashlib
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import npgpt
from npgpt.download.pacing import PacedHTTPHandler, PacedHTTPSHandler
from npgpt.errors import DownloadError, one_line

T = TypeVar("T")
Progress = Callable[[int, int], Any]  # called with the bytes received so far and the total

CHUNK = 1 << 20  # bytes in memory at once
TIMEOUT = 30  # seconds, for each connection and each read
MAX_ATTEMPTS = 5  # without progress
RETRY_DELAY = 1.0  # seconds before the second attempt; doubled for every further one
RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be temporary


class RequestError(DownloadError):
    """Raised when a URL does not deliver the file. `retry`: another attempt may succeed."""

    def __init__(self, text: str, *, retry: bool = False, status: int | None = None):
        super().__init__(text)
        self.retry = retry
        self.status = status


class CorruptDownload(RequestError):
    """Raised when the received bytes are not the expected file, so that none can be reused."""


@dataclass(frozen=True)
class Digest:
    """The expected hash of a file."""

    algorithm: str  # "sha256", "sha1", "md5", or "git": Git's SHA-1 of a header and the bytes
    value: str  # hexadecimal

    def compute(self, path: Path) -> str:
        """Return the hash of the file at `path` by this algorithm, hexadecimal."""
        git = self.algorithm == "git"
        hashed = hashlib.new("sha1" if git else self.algorithm, usedforsecurity=False)
        if git:
            hashed.update(b"blob %d\0" % path.stat().st_size)
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
        return hashed.hexdigest()


@dataclass(frozen=True)
class RemoteFile:
    """A file to download."""

    name: str
    urls: list[str]  # in the order in which they are tried
    size: int | None  # bytes, if known
    digest: Digest | None  # if known


def no_progress(done: int, total: int) -> None:
    """Progress callback that does nothing."""


def retry(attempt: Callable[[], T], received: Callable[[], int] = lambda: 0) -> T:
    """Return `attempt()`, repeated after temporary errors with exponentially growing delays.

    `received` returns the number of bytes received so far. After MAX_ATTEMPTS attempts that
    together received less than a chunk, the last error is raised: the loop always ends.
    """
    failures, furthest = 0, received()
    while True:
        try:
            return attempt()
        except RequestError as error:
            failures += 1
            if (now := received()) >= furthest + CHUNK:
                failures, furthest = 1, now
            if not error.retry or failures == MAX_ATTEMPTS:
                raise
        time.sleep(RETRY_DELAY * 2 ** (failures - 1))


def copy(
    response: HTTPResponse, file: BinaryIO, *, have: int, max_size: int, progress: Progress
) -> int:
    """Append the rest of a response to a file of `have` bytes and return the file's new size.

    Raises CorruptDownload if the file would become larger than `max_size` bytes.
    """
    # In some versions of Python, read1 continues after the end of the response.
    left = max_size + 1 if response.length is None else response.length
    end = min(max_size + 1, have + left)
    progress(have, max_size)
    while have < end and (chunk := read(response, min(CHUNK, end - have))):
        have += len(chunk)
        if have > max_size:
            raise CorruptDownload(f"received {have} bytes or more, expected {max_size}")
        file.write(chunk)
        progress(have, max_size)
    return have


def read(response: HTTPResponse, size: int) -> bytes:
    """Return the next bytes of a response, at most `size`, as soon as any arrive; b"" at the end.

    Raises RequestError if the connection fails.
    """
    try:
        return response.read1(size)
    except (OSError, HTTPException) as error:
        raise RequestError(one_line(error), retry=True) from None


def verify(path: Path, digest: Digest | None) -> None:
    """Raise CorruptDownload if the file at `path` does not have the expected hash."""
    if digest is not None and (found := digest.compute(path)) != digest.value:
        raise CorruptDownload(
            f"received {path.stat().st_size} bytes with {digest.algorithm} {found[:12]}..., "
            f"expected {digest.value[:12]}...: the file is truncated or has changed"
        )


class Redirect(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but never from https to another scheme."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request for `newurl`, with the headers of the first request.

        Raises URLError if it would leave https.
        """
        fp.close()  # otherwise urllib reads the body of the redirect, of any size
        if urlsplit(req.full_url).scheme == "https" != urlsplit(newurl).scheme:
            raise URLError(f"redirected from https to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(url: str, headers: dict[str, str]) -> HTTPResponse:
    """Request an http(s) URL, through the proxy named in the environment, if any.

    Returns the response, whose body has not been read. Raises RequestError if the status is not
    2xx, the connection fails, or the body is compressed.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        PacedHTTPHandler,
        PacedHTTPSHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        Redirect,
    ):
        opener.add_handler(handler())
    try:
        headers = {"User-Agent": f"npgpt/{npgpt.__version__}", **headers}
        response: Any = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()  # it holds the connection
        again = error.code in RETRY_STATUSES
        raise RequestError(one_line(error.reason), retry=again, status=error.code) from None
    except URLError as error:
        raise RequestError(one_line(error.reason)) from None
    except ValueError as error:
        raise RequestError(one_line(error)) from None
    except (OSError, HTTPException) as error:
        raise RequestError(one_line(error), retry=True) from None
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        response.close()
        raise RequestError(f"sent the file compressed ({encoding}), which was not requested")
    return response
