"""Which format a weight file is of: told by looking into it, not by its name."""

import json
import os
from pathlib import Path

from npgpt import download
from npgpt.errors import InputError
from npgpt.weights import checkpoint, huggingface, llmc, openai
from npgpt.weights.hdf5 import MAGIC as HDF5
from npgpt.weights.leveldb import MAGIC as LEVELDB
from npgpt.weights.safetensors import MOST_INDEX
from npgpt.weights.source import Source
from npgpt.weights.stored import refuse

FORMATS = "npgpt's checkpoint, OpenAI's, Hugging Face's (safetensors) and llm.c's are read"
PICKLES = ("pytorch_model.bin", "*.pt", "*.pth", "*.ckpt")


def look(path: str | Path) -> Source:
    """What is at `path`: a file, the folder of a model or of a run, or the name of a released
    GPT-2 that has been downloaded.

    Nothing is read yet but what says where the numbers are. Raises InputError for what is not a
    whole model in one of the formats.
    """
    path = Path(path)
    if not os.path.lexists(path) and path.name in download.HOMES and path.parent == Path():
        path = at_hand(path.name)
    try:
        if path.is_dir():
            return look_into(path)
        with open(path, "rb", opener=without_waiting) as file:
            head, size = file.read(64), os.fstat(file.fileno()).st_size
            file.seek(max(0, size - 8))
            tail = file.read(8)
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    refuse(head, size, path)
    if head.startswith(HDF5):
        return checkpoint.read_checkpoint(path)
    if head[:4] == llmc.MAGIC.to_bytes(4, "little"):
        return llmc.read_llmc(path)
    if tail == LEVELDB:
        return openai.read_openai(path.parent)
    if head[8:9] == b"{" or (head.lstrip()[:1] == b"{" and is_index(path, size)):
        return huggingface.read_huggingface(path)
    raise InputError(
        f"{path} is not a weight file that is known here: it has {size:,} bytes and begins with "
        f"{head[:8]!r}. {FORMATS}"
    )


def look_into(folder: Path) -> Source:
    """The model in a folder."""
    inside = {entry.name for entry in os.scandir(folder)}
    if checkpoint.CHECKPOINT in inside:
        return checkpoint.read_checkpoint(folder / checkpoint.CHECKPOINT)
    if inside & {huggingface.WEIGHTS, huggingface.INDEX}:
        return huggingface.read_huggingface(folder)
    if any(name.endswith(".index") for name in inside):
        return openai.read_openai(folder)
    for pattern in PICKLES:
        for path in sorted(folder.glob(pattern)):
            with open(path, "rb", opener=without_waiting) as file:
                refuse(file.read(64), os.fstat(file.fileno()).st_size, path)
    raise InputError(f"the folder {folder} holds no model: {FORMATS}")


def at_hand(name: str) -> Path:
    """The folder of a released GPT-2 that has been downloaded."""
    found = download.at_hand(name)
    if found is None:
        raise InputError(f"{name} is not on this machine yet: npgpt download {name} fetches it")
    return found


def is_index(path: Path, size: int) -> bool:
    """Is this the index of a model in several files?"""
    if size > MOST_INDEX:
        return False
    try:
        return "weight_map" in json.loads(path.read_bytes())
    except (ValueError, TypeError, RecursionError):
        return False


def without_waiting(path, flags: int) -> int:
    """Opens like `os.open`, a pipe that nobody writes to included."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
