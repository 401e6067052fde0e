"""Bringing a file from an address: whole and right, or not at all.

While it comes, the bytes of PATH are in .PATH.0.part, and .PATH.0.part.json says what they are a
part of; 0 is the place of the address in the list, because bytes of two addresses are never glued
together. A cut connection, Ctrl-C or a kill leave both behind, and the next attempt goes on from
there, if the server still has the same file. What is whole is checked, synced and renamed.

Addresses are untrusted: no more is taken than was announced or is expected, one piece in memory at
a time, and every wait ends.
"""

import base64
import json
import os
import re
from contextlib import suppress
from functools import partial
from http.client import HTTPResponse
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from npgpt.download.http import (
    Digest,
    Tell,
    Trouble,
    Wrong,
    copy,
    opened,
    patiently,
    silent,
    verify,
)
from npgpt.system.files import room, sync


class Origin(NamedTuple):
    """What a part is a part of."""

    url: str
    size: int  # of the whole file
    validator: str  # how the server names this version: an ETag or a date; "" where none is needed
    digests: tuple[Digest, ...]  # the server's


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


# The disk
