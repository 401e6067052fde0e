"""What npgpt fetches, from where, and where it is kept: The Verdict, and GPT-2's weights.

A model's files gather in a hidden folder inside the one that they are for, are checked there, and
are put in their places only when all are right; the one that says the shape comes last, so that a
folder that has it has everything. Nothing that is there already is ever written over.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.config import PRESETS
from npgpt.download.cache_dir import cache_dir
from npgpt.download.http import PASSING, TIMEOUT, Digest, Trouble, patiently, reason, silent
from npgpt.download.resumable import fetch
from npgpt.errors import InputError, RunError
from npgpt.system.files import locked, sync

# GPT-2


class Home(NamedTuple):
    """Where one of the models is."""

    repository: str  # on the Hugging Face Hub
    folder: str  # at OpenAI
    sizes: tuple[int | None, ...]  # bytes of FILES["openai"], where known


HOMES = {
    "gpt2-small": Home("openai-community/gpt2", "124M", (497759232, 5215, 77, 90)),
    "gpt2-medium": Home("openai-community/gpt2-medium", "355M", (1419292672, 10399, 77, 91)),
    "gpt2-large": Home("openai-community/gpt2-large", "774M", (None,) * 4),
    "gpt2-xl": Home("openai-community/gpt2-xl", "1558M", (None,) * 4),
}
# The largest first, so that a disk that is too small is noticed at once; last the shape.
FILES = {
    "huggingface": ("model.safetensors", "config.json"),
    "openai": ("model.ckpt.data-00000-of-00001", "model.ckpt.index", "checkpoint", "hparams.json"),
}
OPENAI = (
    "https://openaipublic.blob.core.windows.net/gpt-2/models",
    "https://f001.backblazeb2.com/file/LLMs-from-scratch/gpt2",
)
SHAPE = ("n_layer", "n_head", "n_embd")
DROPPED = ("RemoteProtocolError", "ReadError", "ReadTimeout")  # what httpx says of a cut connection


class File(NamedTuple):
    """A file to fetch."""

    name: str
    urls: list[str]  # in the order in which they are tried
    size: int | None  # bytes, where known
    digest: Digest | None  # where known


def model(
    name: str,
    *,
    source: str = "huggingface",
    to: str | Path | None = None,
    check: Callable[[Path], Any] | None = None,
    progress: Callable[[str, int, int], Any] | None = None,
) -> Path:
    """The folder that holds a released GPT-2, fetched if it is not there yet.

    `name`: "gpt2-small", "gpt2-medium", "gpt2-large" or "gpt2-xl". `source`: "huggingface" for
    config.json and model.safetensors, "openai" for the TensorFlow checkpoint and hparams.json.
    `to`: the folder, by default one in npgpt's cache; without it, what Hugging Face's own cache
    holds is used from there. What is there needs no network.

    `check(folder)` sees what arrived before it is put in its place, and raises InputError where it
    is damaged. `progress(file, done, total)` is called with how many bytes are there.

    Raises InputError for a name or source that there is not, and for a folder with something else
    in the files' places; RunError when fetching or writing fails, with what to do. What arrived by
    then is kept, and the next call goes on from there.
    """
    if name not in HOMES:
        raise InputError(f"there is no {name!r} to download; there are {', '.join(HOMES)}")
    if source not in FILES:
        raise InputError(f"there is no source {source!r}; there are {', '.join(FILES)}")
    folder = cache_dir() / source / name if to is None else Path(to)
    try:
        if there(folder, name, source):
            return folder
        if source == "huggingface" and to is None and (found := in_hub_cache(name)):
            return found
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".npgpt.lock"):
            if there(folder, name, source):  # by now
                return folder
            whole = hidden(folder, name, source, "whole")
            if not whole.exists():
                gathering = hidden(folder, name, source, "part")
                gathering.mkdir(exist_ok=True)
                try:
                    gather(gathering, name, source, check, progress)
                    os.rename(gathering, whole)
                finally:
                    with suppress(OSError):
                        gathering.rmdir()  # unless something is in it
            for file in FILES[source]:
                if (whole / file).exists():
                    os.replace(whole / file, folder / file)
            sync(folder)
            shutil.rmtree(whole)
    except Trouble as trouble:
        other = next(other for other in FILES if other != source)
        raise RunError(f"{trouble}; it can also be had with --source {other}") from None
    except OSError as error:
        raise RunError(
            f"{name} could not be put into {folder}: {error.strerror or error}; "
            "change that, or choose another folder with --to"
        ) from None
    return folder


def at_hand(name: str) -> Path | None:
    """The folder that `model` left a released GPT-2 in, or Hugging Face's own cache: no network."""
    for source in FILES:
        folder = cache_dir() / source / name
        if there(folder, name, source):
            return folder
    return in_hub_cache(name)


def hidden(folder: Path, name: str, source: str, state: str) -> Path:
    """Where files gather ("part"), and where they are once all are right ("whole")."""
    return folder / f".{name}-{source}.{state}"


def there(folder: Path, name: str, source: str) -> bool:
    """Is all of it in its place? Raises InputError where something else is."""
    if hidden(folder, name, source, "whole").exists():
        return False  # somebody was killed while putting it there
    found = [file for file in FILES[source] if (folder / file).exists()]
    away = "move it away, or choose another folder with --to"
    if found and len(found) < len(FILES[source]):
        raise InputError(
            f"{folder / found[0]} is there already, without the rest of {name}: {away}"
        )
    for file, size in zip(found, sizes(name, source), strict=False):
        if size is not None and (actual := (folder / file).stat().st_size) != size:
            raise InputError(
                f"{folder / file} is there already, with {actual:,} bytes and not the {size:,} "
                f"of {name}: {away}"
            )
    if found:
        try:
            check_shape(folder, name, source)
        except InputError as error:
            raise InputError(f"{error}: {away}") from None
    return bool(found)


def sizes(name: str, source: str) -> tuple[int | None, ...]:
    """Of FILES[source], where they are known without asking anyone."""
    return HOMES[name].sizes if source == "openai" else (None,) * len(FILES[source])


def check_shape(folder: Path, name: str, source: str) -> None:
    """Raises InputError unless the file that says the shape says that of the model."""
    path = folder / FILES[source][-1]
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(1 << 20))
        shape = [found[key] for key in SHAPE]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path} does not say {', '.join(SHAPE)} in JSON") from None
    expected = [getattr(PRESETS[name].config, key) for key in SHAPE]
    if shape != expected:
        raise InputError(f"{path} says {', '.join(SHAPE)} = {shape}, where {name} has {expected}")


def gather(folder: Path, name: str, source: str, check, progress) -> None:
    """Fills a folder with the files and checks them; what is damaged is thrown away."""
    if source == "huggingface" and (cached := in_hub_cache(name)):
        for file in FILES[source]:
            shutil.copyfile(cached / file, folder / file)
    else:
        for file in at_hub(name) if source == "huggingface" else at_openai(name):
            tell = silent if progress is None else partial(progress, file.name)
            path = folder / file.name
            fetch(file.urls, path, size=file.size, digest=file.digest, tell=tell)
    try:
        check_shape(folder, name, source)
        if check is not None:
            check(folder)
    except InputError as error:
        shutil.rmtree(folder)
        raise Trouble(f"{name} arrived damaged and was thrown away ({error})") from None


def at_openai(name: str) -> list[File]:
    """OpenAI's files, with a second address for each. Their hashes are not known."""
    home = HOMES[name]
    return [
        File(file, [f"{base}/{home.folder}/{file}" for base in OPENAI], size, None)
        for file, size in zip(FILES["openai"], home.sizes, strict=True)
    ]


# The Hugging Face Hub


def at_hub(name: str) -> list[File]:
    """The Hub's files, with their sizes and hashes, all of one commit. Raises Trouble."""
    from huggingface_hub import hf_hub_url

    repository, commit, files = HOMES[name].repository, None, []
    for file in FILES["huggingface"]:
        try:
            commit, size, digest = patiently(partial(look_up, repository, file, commit))
        except Trouble as trouble:
            raise Trouble(f"the Hub could not be asked for {repository} ({trouble})") from None
        files.append(File(file, [hf_hub_url(repository, file, revision=commit)], size, digest))
    return files


def look_up(repository: str, file: str, commit: str | None) -> tuple[str, int, Digest]:
    """Commit (by default the newest), size and hash of a file on the Hub. Raises Trouble."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        found = get_hf_file_metadata(hf_hub_url(repository, file, revision=commit), timeout=TIMEOUT)
    except Exception as error:  # its HTTP library changes from version to version
        status = getattr(getattr(error, "response", None), "status_code", None)
        again = status in PASSING or type(error).__name__ in DROPPED
        raise Trouble(reason(error), again=again, status=status) from None
    kind = {64: "sha256", 40: "git"}.get(len(found.etag or ""))  # large files, small files
    if found.commit_hash is None or found.size is None or kind is None:
        raise Trouble(f"no commit, size or hash of {file} in the answer of {found.location}")
    return found.commit_hash, found.size, Digest(kind, found.etag)


def in_hub_cache(name: str) -> Path | None:
    """The folder in Hugging Face's own cache that has the files, without any network."""
    from huggingface_hub import try_to_load_from_cache

    repository = HOMES[name].repository
    found = [try_to_load_from_cache(repository, file) for file in FILES["huggingface"]]
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) else None
