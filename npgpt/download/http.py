"""One HTTP request: redirects, proxies, retries, digests."""

import hashlib
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import npgpt

T = TypeVar("T")

Tell = Callable[[int, int], None]  # how many bytes are there, of how many

PIECE = 1 << 20  # bytes in memory at a time

TIMEOUT = 30  # seconds, for each connection and each read

TRIES = 5  # without getting further

PAUSE = 1.0  # seconds before the second try; it doubles from try to try

PASSING = {408, 425, 429, 500, 502, 503, 504}  # what a server may say now and not a second later


class Trouble(Exception):
    """An address did not give the file. `again`: asking once more may help."""

    def __init__(self, text: str, *, again: bool = False, status: int | None = None):
        super().__init__(text)
        self.again = again
        self.status = status


class Wrong(Trouble):
    """What arrived is not the file, so that there is nothing to go on from."""


class Digest(NamedTuple):
    """What a file's hash has to be."""

    kind: str  # "sha256", "sha1", "md5", or "git": Git's sha1, of a header and the bytes
    value: str  # hexadecimal

    def of(self, path: Path) -> str:
        """The hash of this kind that the file has."""
        hashed = hashlib.new("sha1" if self.kind == "git" else self.kind, usedforsecurity=False)
        if self.kind == "git":
            hashed.update(b"blob %d\0" % path.stat().st_size)
        with open(path, "rb") as file:
            while piece := file.read(PIECE):
                hashed.update(piece)
        return hashed.hexdigest()


def silent(done: int, total: int) -> None:
    """Tells nobody."""


def patiently(attempt: Callable[[], T], reached: Callable[[], int] = lambda: 0) -> T:
    """`attempt()`, repeated while its Trouble may pass, with longer and longer pauses between.

    Given up after so many attempts that together did not get a piece further than any before them,
    by what `reached` tells: so it ends, whatever a server does.
    """
    failures, furthest = 0, reached()
    while True:
        try:
            return attempt()
        except Trouble as trouble:
            failures += 1
            if (now := reached()) >= furthest + PIECE:
                failures, furthest = 1, now
            if not trouble.again or failures == TRIES:
                raise
        time.sleep(PAUSE * 2 ** (failures - 1))


def copy(response: HTTPResponse, file: BinaryIO, *, have: int, most: int, tell: Tell) -> int:
    """Adds what the response still gives to a file of `have` bytes; its size then.

    Raises Wrong for more than `most` bytes in all.
    """
    # Not every Python's read1 stops where the response does.
    end = min(most + 1, have + (most + 1 if response.length is None else response.length))
    tell(have, most)
    while have < end and (piece := read(response, min(PIECE, end - have))):
        have += len(piece)
        if have > most:
            raise Wrong(f"arrived as {have} bytes or more where {most} are expected")
        file.write(piece)
        tell(have, most)
    return have


def read(response: HTTPResponse, most: int) -> bytes:
    """The next bytes, as soon as there are any; none at the end."""
    try:
        return response.read1(most)
    except (OSError, HTTPException) as error:
        raise Trouble(reason(error), again=True) from None


def verify(path: Path, digest: Digest | None) -> None:
    """Raises Wrong if the file has another hash."""
    if digest is not None and (found := digest.of(path)) != digest.value:
        raise Wrong(
            f"arrived as {path.stat().st_size} bytes with {digest.kind} {found[:12]}..., "
            f"expected {digest.value[:12]}...: cut, or changed"
        )


class Redirect(urllib.request.HTTPRedirectHandler):
    """Follows a server elsewhere, but not out of TLS."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """The next request, with the headers of the first."""
        fp.close()  # else urllib reads what comes with the redirection, however much it is
        if urlsplit(req.full_url).scheme == "https" != urlsplit(newurl).scheme:
            raise URLError(f"it was redirected from https to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def opened(url: str, headers: dict[str, str]) -> HTTPResponse:
    """The answer of an http(s) server, through the proxy that the environment names, if any.

    Raises Trouble for any answer but a file.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        Redirect,
    ):
        opener.add_handler(handler())
    try:
        headers = {"User-Agent": f"npgpt/{npgpt.__version__}", **headers}
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()  # it holds the connection
        raise Trouble(reason(error), again=error.code in PASSING, status=error.code) from None
    except (URLError, ValueError) as error:
        raise Trouble(reason(error)) from None
    except (OSError, HTTPException) as error:
        raise Trouble(reason(error), again=True) from None
    packed = response.headers.get("Content-Encoding", "identity")
    if packed != "identity":
        response.close()
        raise Trouble(f"sends it packed ({packed}), which was not asked for")
    return response


def reason(error: Exception) -> str:
    """An error in a few words on one line."""
    text = " ".join(str(getattr(error, "reason", error)).split())
    return text[:200] or type(error).__name__
