"""Download a file so that it arrives complete and verified, or not at all; resume after a failure.

While PATH is downloaded from URL number 0, its bytes are in .PATH.0.part. A record of their origin
is in .PATH.0.part.json. Each URL has its own part, so that bytes of two servers are never combined.
A lost connection, Ctrl-C or a kill leaves both files. The next attempt resumes from them if the
server still has the same file. A complete file is verified, synced and renamed.

Servers are untrusted: no more bytes are accepted than expected or announced, one chunk is in memory
at a time, and every wait has a timeout.
"""

import base64
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from npgpt.download.http import (
    CorruptDownload,
    Digest,
    Progress,
    RequestError,
    copy,
    no_progress,
    open_url,
    retry,
    verify,
)
from npgpt.errors import DownloadError
from npgpt.system.atomic import new_file, sync, sync_file
from npgpt.system.files import open_regular, read_regular, require_space


@dataclass(frozen=True)
class Origin:
    """The file that a part belongs to."""

    url: str
    size: int  # of the complete file
    validator: str  # the server's name of this version, an ETag or a date; "" if not needed
    digests: tuple[Digest, ...]  # sent by the server


def fetch(
    urls: list[str],
    path: Path,
    *,
    size: int | None = None,
    digest: Digest | None = None,
    progress: Progress = no_progress,
) -> None:
    """Download `path` from the first of `urls` that delivers the file.

    An existing file of the right size and hash is not downloaded again. Without `size`, the size
    announced by the server is used. Hashes sent by the server are always verified.

    Parameters
    ----------
    urls : list of str
        Tried in this order.
    path : Path
        The file to write. It is unchanged if the download fails.
    size : int, optional
        The expected size in bytes.
    digest : Digest, optional
        The expected hash.
    progress : callable, optional
        Called as `progress(done, total)`, in bytes, after every chunk.

    Raises
    ------
    DownloadError
        If no URL delivers the file. The bytes received so far are kept for the next call.
    OSError
        If the file cannot be written.
    """
    if path.is_file() and matches(path, size, digest):
        return
    parts = {path.with_name(f".{path.name}.{i}.part"): url for i, url in enumerate(urls)}
    errors = []
    for part, url in parts.items():
        attempt = partial(download, url, part, size=size, digest=digest, progress=progress)
        try:
            retry(attempt, partial(size_of, part))
        except RequestError as error:
            errors.append(f"{urlsplit(url).netloc or url}: {error}")
            continue
        with open_regular(part, "ab") as file:
            sync_file(file)
        os.replace(part, path)
        sync(path.parent)
        for part in parts:
            remove_part(part)
        return
    has_digest = digest is not None
    kept = [size_of(part) for part, url in parts.items() if load_origin(part, url, has_digest)]
    text = f"{path.name} could not be downloaded ({'; '.join(errors)})"
    if most := max(kept, default=0):
        text += f". {most:,} bytes were kept: run this again to resume"
    raise DownloadError(text)


def matches(path: Path, size: int | None, digest: Digest | None) -> bool:
    """Return True if the file at `path` has the expected size and hash, where known."""
    if size is not None and path.stat().st_size != size:
        return False
    return digest is None or digest.compute(path) == digest.value


def download(
    url: str, part: Path, *, size: int | None, digest: Digest | None, progress: Progress
) -> None:
    """Download the rest of `url` into `part` and verify it: one attempt. Raises RequestError."""
    has_digest = digest is not None
    origin = load_origin(part, url, has_digest)
    have = size_of(part) if origin else 0
    try:
        if origin is None or have != origin.size:
            origin = download_rest(
                url, part, origin, have, size=size, has_digest=has_digest, progress=progress
            )
        for one in (digest, *origin.digests):
            verify(part, one)
    except CorruptDownload as error:
        remove_part(part)
        error.retry = have > 0  # the resumed bytes may be the wrong ones
        raise


def download_rest(
    url: str,
    part: Path,
    origin: Origin | None,
    have: int,
    *,
    size: int | None,
    has_digest: bool,
    progress: Progress,
) -> Origin:
    """Request the bytes after the first `have` and append them to `part`; return their origin.

    Raises RequestError if the server refuses, answers with other bytes, or closes too early.
    """
    headers = {}
    if have and origin:
        headers["Range"] = f"bytes={have}-"
        if origin.validator:
            headers["If-Range"] = origin.validator
    try:
        response = open_url(url, headers)
    except RequestError as error:
        if have and error.status == 416:
            raise CorruptDownload(f"the server has no bytes after {have:,}") from None
        error.retry = error.retry or (have > 0 and error.status is None)
        raise
    with response:
        resumed = response.status == 206 and origin and have and continues(response, origin, have)
        if response.status == 200:
            have, origin = 0, read_origin(response, url, size, has_digest)
        elif not origin or not resumed:
            raise CorruptDownload(
                f"answered with status {response.status} instead of the requested bytes"
            )
        require_space(part.parent, origin.size - have)
        with open_regular(part, "ab" if have else "wb") as file:
            if not have:
                save_origin(part, origin)  # after the bytes of another version were removed
            have = copy(response, file, have=have, max_size=origin.size, progress=progress)
    if have < origin.size:
        text = f"the connection was closed after {have:,} of {origin.size:,} bytes"
        raise RequestError(text, retry=True)
    return origin


def read_origin(response: HTTPResponse, url: str, size: int | None, has_digest: bool) -> Origin:
    """Return the origin that the headers of a response describe.

    Raises RequestError if the announced size is not `size`, or if neither is known.
    """
    announced = response.length
    if size is None:
        if announced is None:
            raise RequestError("did not announce the file's size")
        size = announced
    elif announced not in (None, size):
        raise RequestError(f"announced {announced:,} bytes, expected {size:,}")
    digests = []
    with suppress(ValueError):
        md5 = base64.b64decode(response.headers.get("Content-MD5", ""), validate=True).hex()
        digests += [Digest("md5", md5)] if len(md5) == 32 else []
    sha1 = response.headers.get("x-bz-content-sha1", "")
    digests += [Digest("sha1", sha1)] if re.fullmatch("[0-9a-f]{40}", sha1) else []
    return Origin(url, size, "" if has_digest else validator_of(response), tuple(digests))


def validator_of(response: HTTPResponse) -> str:
    """Return the server's name of this version: a strong ETag, else the date; "" if neither."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def continues(response: HTTPResponse, origin: Origin, have: int) -> bool:
    """Return True if a partial response starts at byte `have` of the same version of the file."""
    content_range = re.fullmatch(
        r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)", response.headers.get("Content-Range", "")
    )
    if content_range is None:
        return False
    start, total = int(content_range[1]), content_range[2]
    same = not origin.validator or validator_of(response) in ("", origin.validator)
    return start == have and total in ("*", str(origin.size)) and same


# The record of a part's origin


def load_origin(part: Path, url: str, has_digest: bool) -> Origin | None:
    """Return the origin recorded for a part, or None if it cannot be resumed.

    With `has_digest`, the expected hash is known and reveals bytes of two versions. Without it,
    the server must name the version of the file.
    """
    try:
        found = json.loads(read_regular(origin_path(part), 1 << 20))
        digests = tuple(Digest(str(name), str(value)) for name, value in found["digests"])
        origin = Origin(str(found["url"]), int(found["size"]), str(found["validator"]), digests)
    except (FileNotFoundError, ValueError, ArithmeticError, TypeError, KeyError, RecursionError):
        return None
    known = all(digest.algorithm in ("md5", "sha1") for digest in digests)
    usable = known and origin.url == url and (origin.validator or has_digest)
    return origin if usable and size_of(part) <= origin.size else None


def save_origin(part: Path, origin: Origin) -> None:
    """Record the origin of a part."""
    digests = [(digest.algorithm, digest.value) for digest in origin.digests]
    found = {"url": origin.url, "size": origin.size, "validator": origin.validator}
    origin_path(part).unlink(missing_ok=True)
    with new_file(origin_path(part)) as file:
        file.write(json.dumps(found | {"digests": digests}).encode())


def remove_part(part: Path) -> None:
    """Remove a part and its record, if they exist."""
    origin_path(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def origin_path(part: Path) -> Path:
    """Return the path of the record of a part's origin."""
    return part.with_name(part.name + ".json")


def size_of(path: Path) -> int:
    """Return the size of a file in bytes, 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0
