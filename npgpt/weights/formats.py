"""Which format a weight file is of: told by looking into it, not by its name."""

import os
import stat
from pathlib import Path

from npgpt.errors import InputError
from npgpt.weights import huggingface, llmc, openai, quantized_file
from npgpt.weights.checksum import MAGIC as HDF5
from npgpt.weights.leveldb import MAGIC as LEVELDB
from npgpt.weights.mapped import MappedFile, refuse_pickle
from npgpt.weights.safetensors import is_index, is_safetensors
from npgpt.weights.weight_file import WeightFile

FORMATS = "npgpt's checkpoint, OpenAI's, Hugging Face's (safetensors) and llm.c's are read"
CHECKPOINT = "checkpoint.h5"  # what npgpt's own is called in the folder of a run
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def open_weights(path: str | Path, *, verify: bool = False) -> WeightFile:
    """What is at `path`: a file, or the folder of a model or of a run.

    Nothing is read yet but what says where the numbers are; unless with `verify`, which compares
    the numbers' checksums in the formats that have them, OpenAI's and npgpt's own. Raises
    InputError for what is not a whole model in one of the formats.
    """
    path = Path(path)
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            return open_directory(path, verify=verify)
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    file = MappedFile(path)
    head, tail = file.data[:64].tobytes(), file.data[-8:].tobytes()
    refuse_pickle(file)
    if head.startswith(HDF5):
        return read_checkpoint(path, verify=verify)
    if head[:4] == llmc.MAGIC.to_bytes(4, "little"):
        return llmc.read_llmc(path)
    if tail == LEVELDB:
        return openai.read_openai(path, verify=verify)
    if quantized_file.is_quantized(path):
        return quantized_file.read_quantized(path)
    if is_safetensors(head) or is_index(head):
        return huggingface.read_huggingface(path)
    raise InputError(
        f"{path} is not a weight file that is known here: it has {file.data.size:,} bytes and "
        f"begins with {head[:8]!r}. {FORMATS}"
    )


def open_directory(folder: Path, *, verify: bool) -> WeightFile:
    """The model in a folder."""
    inside = {entry.name for entry in os.scandir(folder)}
    if CHECKPOINT in inside:
        return read_checkpoint(folder / CHECKPOINT, verify=verify)
    if inside & {huggingface.WEIGHTS, huggingface.INDEX}:
        return huggingface.read_huggingface(folder)
    if any(name.endswith(".index") for name in inside):
        return openai.read_openai(folder, verify=verify)
    for pattern in PICKLES:
        for path in filter(Path.is_file, sorted(folder.glob(pattern))):
            refuse_pickle(MappedFile(path))
    raise InputError(f"the folder {folder} holds no model: {FORMATS}")


def checkpoint_file(path: Path) -> Path:
    """The checkpoint in the folder of a run, or the path itself."""
    return path / CHECKPOINT if path.is_dir() else path


# What only some need is imported where it is needed: together it takes 13 MB, a tenth of what
# GPT-2 small has in int8.


def read_checkpoint(path: Path, *, verify: bool) -> WeightFile:
    """npgpt's own file, which takes the HDF5 library."""
    from npgpt.weights import checkpoint

    return checkpoint.read_checkpoint(path, verify=verify)
