"""Download OpenAI's GPT-2 weights into the cache directory, or another directory.

The files of a model are first downloaded into a hidden subdirectory and checked there. They are
moved into place once all are verified, the file with the model's shape last: a directory that has
it is complete. Existing files are never overwritten.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from npgpt.download.cache_dir import cache_dir
from npgpt.download.http import CHUNK, RemoteFile, no_progress
from npgpt.download.hub import find_in_hub_cache, hub_files
from npgpt.download.resumable import fetch
from npgpt.errors import DownloadError, InputError, WeightFileError
from npgpt.preset import PRESETS
from npgpt.system.atomic import make_directory, new_file, sync
from npgpt.system.files import file_lock, open_regular, os_error, read_regular

Check = Callable[[Path], Any]  # raises WeightFileError if the model in a directory is damaged
FileProgress = Callable[[str, int, int], Any]  # file name, bytes received so far, total


@dataclass(frozen=True)
class ReleasedModel:
    """The addresses of one of the released models."""

    repository: str  # on the Hugging Face Hub
    folder: str  # on OpenAI's server
    sizes: tuple[int | None, ...]  # bytes of FILES["openai"], if known


MODELS = {
    "gpt2-small": ReleasedModel("openai-community/gpt2", "124M", (497759232, 5215, 77, 90)),
    "gpt2-medium": ReleasedModel(
        "openai-community/gpt2-medium", "355M", (1419292672, 10399, 77, 91)
    ),
    "gpt2-large": ReleasedModel("openai-community/gpt2-large", "774M", (None,) * 4),
    "gpt2-xl": ReleasedModel("openai-community/gpt2-xl", "1558M", (None,) * 4),
}
# The largest first, so that a full disk is noticed early; the shape last.
FILES = {
    "huggingface": ("model.safetensors", "config.json"),
    "openai": ("model.ckpt.data-00000-of-00001", "model.ckpt.index", "checkpoint", "hparams.json"),
}
OPENAI = (
    "https://openaipublic.blob.core.windows.net/gpt-2/models",
    "https://f001.backblazeb2.com/file/LLMs-from-scratch/gpt2",
)
SHAPE = ("n_layer", "n_head", "n_embd")
ADVICE = "move it away, or choose another directory with --to"


def download_model(
    name: str,
    *,
    source: str = "huggingface",
    to: str | Path | None = None,
    check: Check | None = None,
    progress: FileProgress | None = None,
) -> Path:
    """Return the directory of a released GPT-2; download the model if it is missing.

    A model that is present is returned without network access.

    Parameters
    ----------
    name : str
        "gpt2-small", "gpt2-medium", "gpt2-large" or "gpt2-xl".
    source : str, optional
        "huggingface" (default) for config.json and model.safetensors, "openai" for the TensorFlow
        checkpoint and hparams.json.
    to : path, optional
        The directory, by default one in npgpt's cache. Without `to`, a model in the Hugging Face
        Hub's own cache is used from there.
    check : callable, optional
        Called with the directory of the downloaded files before they are moved into place. Must
        raise WeightFileError if they are damaged.
    progress : callable, optional
        Called as `progress(file, done, total)`, in bytes, after every chunk.

    Raises
    ------
    InputError
        If `name` or `source` is unknown, or if the directory has other files of the same names.
    DownloadError
        If downloading or writing fails. The bytes received so far are kept for the next call.
    RunError
        If another process is downloading into the same directory.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}; expected one of {', '.join(MODELS)}")
    if source not in FILES:
        raise InputError(f"unknown source {source!r}; expected one of {', '.join(FILES)}")
    directory = cache_dir() / source / name if to is None else Path(to)
    try:
        if is_complete(directory, name, source):
            return directory
        if source == "huggingface" and to is None and (cached := in_hub_cache(name)):
            return cached
        make_directory(directory)
        busy = f"another process is downloading into {directory}: run this again when it is done"
        with file_lock(directory / ".npgpt.lock", busy):
            # another process may have completed it before the lock was acquired
            if not is_complete(directory, name, source):
                install(directory, name, source, check, progress)
    except DownloadError as error:
        other = next(other for other in FILES if other != source)
        raise DownloadError(f"{error}; you can also try --source {other}") from None
    except OSError as error:
        raise DownloadError(
            f"{name} could not be stored in {directory}: {error.strerror or error}; "
            "resolve this, or choose another directory with --to"
        ) from None
    return directory


def find_downloaded(name: str) -> Path | None:
    """Return the directory of a model in npgpt's or the Hub's cache, None if there is none.

    Raises InputError if a directory of the cache has other files of the same names.
    """
    for source in FILES:
        directory = cache_dir() / source / name
        if is_complete(directory, name, source):
            return directory
    return in_hub_cache(name)


def in_hub_cache(name: str) -> Path | None:
    """Return the directory of a model in the Hub's local cache, None if there is none."""
    return find_in_hub_cache(MODELS[name].repository, FILES["huggingface"])


def staging_dir(directory: Path, name: str, source: str, state: str) -> Path:
    """Return the hidden subdirectory of the files. `state`: "part", or "whole" once verified."""
    return directory / f".{name}-{source}.{state}"


def install(
    directory: Path, name: str, source: str, check: Check | None, progress: FileProgress | None
) -> None:
    """Download the files, check them, and move them into `directory`: all of them or none."""
    verified = staging_dir(directory, name, source, "whole")
    partial_dir = staging_dir(directory, name, source, "part")
    for path in (verified, partial_dir):  # their names can be guessed, so that a part is resumed
        if path.is_symlink():
            raise OSError(errno.ELOOP, f"{path} is a symbolic link")
    if not verified.exists():
        make_directory(partial_dir)
        try:
            fetch_files(partial_dir, name, source, check, progress)
            sync(partial_dir)
            os.rename(partial_dir, verified)
            sync(directory)
        finally:
            with suppress(OSError):
                partial_dir.rmdir()  # if it is empty
    moved = []
    try:
        for file in FILES[source]:
            if (verified / file).exists():  # else a process was killed after moving it
                os.replace(verified / file, directory / file)
                moved.append(file)
        sync(directory)
    except OSError:
        for file in moved:
            with suppress(OSError):
                os.replace(directory / file, verified / file)
        raise
    shutil.rmtree(verified, ignore_errors=True)


def fetch_files(
    directory: Path, name: str, source: str, check: Check | None, progress: FileProgress | None
) -> None:
    """Download the files into `directory` and check them; delete them if they are damaged."""
    if source == "huggingface" and (cached := in_hub_cache(name)):
        for file in FILES[source]:
            copy_file(cached / file, directory / file)
    else:
        for remote in list_files(name, source):
            path = directory / remote.name
            shown = no_progress if progress is None else partial(progress, remote.name)
            fetch(remote.urls, path, size=remote.size, digest=remote.digest, progress=shown)
    try:
        check_shape(directory, name, source)
        if check is not None:
            check(directory)
    except WeightFileError as error:
        shutil.rmtree(directory)
        raise DownloadError(f"the downloaded {name} is damaged and was deleted ({error})") from None


def copy_file(source: Path, path: Path) -> None:
    """Copy a file of the Hub's cache. A copy that an earlier process left is replaced."""
    path.unlink(missing_ok=True)
    with open_regular(source) as stored, new_file(path) as file:
        shutil.copyfileobj(stored, file, CHUNK)


def list_files(name: str, source: str) -> list[RemoteFile]:
    """Return the files of a model. OpenAI's have two URLs each, and no known hashes."""
    model = MODELS[name]
    if source == "huggingface":
        return hub_files(model.repository, FILES[source])
    return [
        RemoteFile(file, [f"{base}/{model.folder}/{file}" for base in OPENAI], size, None)
        for file, size in zip(FILES[source], model.sizes, strict=True)
    ]


def is_complete(directory: Path, name: str, source: str) -> bool:
    """Return True if all files of the model are in place.

    Raises InputError if other files have their names.
    """
    verified = staging_dir(directory, name, source, "whole")
    if any((verified / file).exists() for file in FILES[source]):
        return False  # a process was killed while moving them
    found = [file for file in FILES[source] if (directory / file).exists()]
    if found and len(found) < len(FILES[source]):
        raise InputError(
            f"{directory / found[0]} already exists, without the other files of {name}: {ADVICE}"
        )
    sizes = MODELS[name].sizes if source == "openai" else (None,) * len(FILES[source])
    for file, size in zip(found, sizes, strict=False):
        if size is not None and (actual := (directory / file).stat().st_size) != size:
            raise InputError(
                f"{directory / file} already exists with {actual:,} bytes, but that of {name} has "
                f"{size:,}: {ADVICE}"
            )
    if found:
        try:
            check_shape(directory, name, source)
        except InputError as error:
            raise InputError(f"{error}: {ADVICE}") from None
    return bool(found)


def check_shape(directory: Path, name: str, source: str) -> None:
    """Check that the last of the files describes the shape of the model.

    Raises WeightFileError if it does not, InputError or RunError if it cannot be read.
    """
    path = directory / FILES[source][-1]
    keys = ", ".join(SHAPE)
    try:
        found = json.loads(read_regular(path, 1 << 20))
        shape = [found[key] for key in SHAPE]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise WeightFileError(f"{path} must be a JSON object with {keys}") from None
    except OSError as error:
        raise os_error(f"{path} cannot be read", error) from None
    expected = [getattr(PRESETS[name].config, key) for key in SHAPE]
    if shape != expected:
        raise WeightFileError(f"{path} has {keys} = {shape}, but {name} has {expected}")
