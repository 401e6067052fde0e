"""Bringing a file from an address: whole and right, or not at all.

While it comes, the bytes of PATH are in .PATH.0.part, and .PATH.0.part.json says what they are a
part of; 0 is the place of the address in the list, because bytes of two addresses are never glued
together. A cut connection, Ctrl-C or a kill leave both behind, and the next attempt goes on from
there, if the server still has the same file. What is whole is checked, synced and renamed.

Addresses are untrusted: no more is taken than was announced or is expected, one piece in memory at
a time, and every wait ends.
"""

import base64
import errno
import hashlib
import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import npgpt
from npgpt.errors import RunError
from npgpt.files import sync

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


class Origin(NamedTuple):
    """What a part is a part of."""

    url: str
    size: int  # of the whole file
    validator: str  # how the server names this version: an ETag or a date; "" where none is needed
    digests: tuple[Digest, ...]  # the server's


def silent(done: int, total: int) -> None:
    """Tells nobody."""


def fetch(
    urls: list[str],
    path: Path,
    *,
    size: int | None = None,
    digest: Digest | None = None,
    tell: Tell = silent,
) -> None:
    """Makes `path` what the first of `urls` that works gives.

    What is there already and right is not fetched again. `size`, `digest`: where known; the size is
    otherwise the one that the server announces, and hashes that it sends are checked too. `tell` is
    called with how many bytes are there, again and again. Raises Trouble when no address gives the
    file, OSError when it cannot be written; `path` is then as it was, and what arrived is kept.
    """
    if path.is_file() and right(path, size, digest):
        return
    parts = {path.with_name(f".{path.name}.{i}.part"): url for i, url in enumerate(urls)}
    troubles = []
    for part, url in parts.items():
        ask = partial(receive, url, part, size=size, digest=digest, tell=tell)
        try:
            patiently(ask, partial(size_of, part))
        except Trouble as trouble:
            troubles.append(f"{urlsplit(url).netloc or url}: {trouble}")
            continue
        sync(part)
        os.replace(part, path)
        for part in parts:
            forget(part)
        return
    vouched = digest is not None
    kept = max([0, *(size_of(part) for part, url in parts.items() if recall(part, url, vouched))])
    text = f"{path.name} could not be fetched ({'; '.join(troubles)})"
    if kept:
        text += f". {kept:,} bytes of it are there: run this again to go on from them"
    raise Trouble(text)


def right(path: Path, size: int | None, digest: Digest | None) -> bool:
    """Is the file what it should be, as far as that is known?"""
    if size is not None and path.stat().st_size != size:
        return False
    return digest is None or digest.of(path) == digest.value


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


# One attempt


def receive(url: str, part: Path, *, size: int | None, digest: Digest | None, tell: Tell) -> None:
    """Makes `part` the whole file at `url`, going on from what it holds. Raises Trouble."""
    vouched = digest is not None
    origin = recall(part, url, vouched)
    have = size_of(part) if origin else 0
    try:
        if origin is None or have != origin.size:
            origin = complete(url, part, origin, have, size=size, vouched=vouched, tell=tell)
        for one in (digest, *origin.digests):
            verify(part, one)
    except Wrong as wrong:
        forget(part)
        wrong.again = have > 0  # perhaps what was there before is to blame
        raise


def complete(
    url: str,
    part: Path,
    origin: Origin | None,
    have: int,
    *,
    size: int | None,
    vouched: bool,
    tell: Tell,
) -> Origin:
    """Asks for what is missing after the `have` bytes that are there, and adds it."""
    headers = {}
    if have:
        headers["Range"] = f"bytes={have}-"
        if origin.validator:
            headers["If-Range"] = origin.validator
    try:
        response = opened(url, headers)
    except Trouble as trouble:
        if have and trouble.status == 416:
            raise Wrong(f"there is nothing after byte {have:,}") from None
        trouble.again = trouble.again or (have > 0 and trouble.status is None)
        raise
    with response:
        if response.status == 200:
            have, origin = 0, announced(response, url, size, vouched)
        elif response.status != 206 or not have or not continues(response, origin, have):
            raise Wrong(f"answers with status {response.status} and not with what was asked for")
        room(part.parent, origin.size - have)
        with open(part, "ab" if have else "wb") as file:
            if not have:
                remember(part, origin)  # once the bytes of another version are gone
            have = copy(response, file, have=have, most=origin.size, tell=tell)
    if have < origin.size:
        raise Trouble(f"cut after {have:,} of {origin.size:,} bytes", again=True)
    return origin


def announced(response: HTTPResponse, url: str, size: int | None, vouched: bool) -> Origin:
    """What a server says of the file that it is about to send.

    Raises Trouble unless it has the right size, or says its size where none is known.
    """
    said = response.length
    if size is None and said is None:
        raise Trouble("does not say how large it is")
    if size is not None and said not in (None, size):
        raise Trouble(f"announces {said:,} bytes where {size:,} are expected")
    digests = []
    with suppress(ValueError):
        md5 = base64.b64decode(response.headers.get("Content-MD5", ""), validate=True).hex()
        digests += [Digest("md5", md5)] if len(md5) == 32 else []
    sha1 = response.headers.get("x-bz-content-sha1", "")
    digests += [Digest("sha1", sha1)] if re.fullmatch("[0-9a-f]{40}", sha1) else []
    name = "" if vouched else version(response)
    return Origin(url, said if size is None else size, name, tuple(digests))


def version(response: HTTPResponse) -> str:
    """How the server names this version of a file; a weak ETag does not name it."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def continues(response: HTTPResponse, origin: Origin, have: int) -> bool:
    """Is it the part of the same version that begins where we stopped?"""
    said = re.fullmatch(
        r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)", response.headers.get("Content-Range", "")
    )
    same = not origin.validator or version(response) in ("", origin.validator)
    return bool(said) and int(said[1]) == have and said[2] in ("*", str(origin.size)) and same


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


# What is known of a part


def recall(part: Path, url: str, vouched: bool) -> Origin | None:
    """What the part is a part of; None if it cannot be gone on with.

    `vouched`: its hash is known, and says in the end whether the pieces belong together. Where it
    is not, the server has to say whether it still has the same version.
    """
    try:
        found = json.loads(note(part).read_text("utf-8"))
        digests = tuple(Digest(str(kind), str(value)) for kind, value in found["digests"])
        origin = Origin(str(found["url"]), int(found["size"]), str(found["validator"]), digests)
    except (OSError, ValueError, ArithmeticError, TypeError, KeyError, RecursionError):
        return None
    known = all(digest.kind in ("md5", "sha1") for digest in digests)
    usable = known and origin.url == url and (origin.validator or vouched)
    return origin if usable and size_of(part) <= origin.size else None


def remember(part: Path, origin: Origin) -> None:
    """Writes down what the part is a part of."""
    note(part).write_text(json.dumps(origin._asdict()), "utf-8")


def forget(part: Path) -> None:
    """Removes a part, if there is one."""
    note(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def note(part: Path) -> Path:
    """Where it is written down."""
    return part.with_name(part.name + ".json")


def size_of(path: Path) -> int:
    """How many bytes are there."""
    return path.stat().st_size if path.exists() else 0


# Connections


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


# The disk


def room(folder: Path, needed: int) -> None:
    """Raises OSError unless the disk has room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        text = f"{megabytes(needed)} are still to come and the disk has {megabytes(free)} left"
        raise OSError(errno.ENOSPC, text)


def megabytes(count: int) -> str:
    """For people."""
    return f"{count / 1e6:,.1f} MB"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock, a file at `path`, that this process loses when it ends, however it ends.

    Raises RunError if another process has it. Where the file system knows no locks there is none:
    the files are checked all the same.
    """
    while True:
        file = open(path, "ab")
        try:
            hold(file.fileno(), path)
            # whoever had it before us may have removed it between our opening and our locking
            if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        except BaseException:
            file.close()
            raise
        file.close()
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)  # Windows leaves it there, empty: it is open
        file.close()


def hold(handle: int, path: Path) -> None:
    """Locks an open file without waiting."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise RunError(
                f"another process is fetching into {path.parent}: run this again when it is done"
            ) from None
