"""Detect the format of a weight file from its contents, not from its name, and open it."""

import os
import stat
import warnings
from pathlib import Path

from npgpt.errors import IgnoredTensorsWarning, InputError, WeightFileError, show
from npgpt.system.files import os_error
from npgpt.system.shell import npgpt_command
from npgpt.weights import checkpoint, huggingface, llmc, openai, quantized_file
from npgpt.weights.checksum import MAGIC as HDF5
from npgpt.weights.leveldb import MAGIC as LEVELDB
from npgpt.weights.mapped import MappedFile, MappedTensor, refuse_pickle
from npgpt.weights.safetensors import is_index, is_safetensors, read_safetensors, read_shards
from npgpt.weights.tensor_bundle import read_bundle
from npgpt.weights.weight_file import WeightFile

FORMATS = (
    "supported are npgpt's checkpoint and quantized file, OpenAI's TensorFlow checkpoint, Hugging "
    "Face's safetensors and llm.c's file"
)
CHECKSUMMED = ("npgpt", "openai")  # the formats whose numbers have checksums
CHECKPOINT = "checkpoint.h5"  # the name of npgpt's checkpoint in the directory of a run
CLASSIFIER = "classifier.h5"  # of npgpt classify: a checkpoint with a head
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def open_weights(path: str | Path, *, verify: bool = False) -> WeightFile:
    """Open a weight file, or the directory of a model or a run, in any supported format.

    Only the locations of the numbers are read.

    Parameters
    ----------
    path : str or Path
    verify : bool, optional
        If True, all numbers are read and their checksums verified, in the formats that have them:
        OpenAI's and npgpt's checkpoints. Default False.

    Returns
    -------
    WeightFile
        The config, and the mapped parameters.

    Raises
    ------
    InputError
        If there is no such file or directory, or if it may not be read.
    WeightFileError
        If it is damaged, incomplete, or in none of the formats.
    RunError
        If reading fails.

    Warns
    -----
    IgnoredTensorsWarning
        If it has tensors that are no part of the model. Attention masks are not mentioned.
    WeightFileWarning
        If its config ties the output head to the token embedding, but the two differ.
    """
    found = open_by_contents(Path(path), verify=verify)
    if found.ignored:
        count, names = len(found.ignored), ", ".join(map(show, found.ignored[:5]))
        more = ", ..." if count > 5 else ""
        kind = "tensor that is" if count == 1 else "tensors that are"
        text = f"{found.path}: ignored {count} {kind} no part of the model: {names}{more}"
        warnings.warn(text, IgnoredTensorsWarning, stacklevel=2)
    return found


def open_by_contents(path: Path, *, verify: bool) -> WeightFile:
    """Open a weight file or a directory in the format that its contents have."""
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            return open_directory(path, verify=verify)
    except FileNotFoundError:
        raise InputError(f"there is no file or directory {path}") from None
    except OSError as error:
        raise os_error(f"{path} cannot be read", error) from None
    file = MappedFile(path)
    head, tail = file.data[:64].tobytes(), file.data[-8:].tobytes()
    refuse_pickle(file)
    if head.startswith(HDF5):
        return checkpoint.read_checkpoint(path, verify=verify)
    if head[:4] == llmc.MAGIC.to_bytes(4, "little"):
        return llmc.read_llmc(path)
    if tail == LEVELDB:
        return openai.read_openai(path, verify=verify)
    if quantized_file.is_quantized(path):
        return quantized_file.read_quantized(path)
    if is_safetensors(head) or is_index(head):
        return huggingface.read_huggingface(path)
    raise WeightFileError(
        f"{path} is not a weight file of a supported format: it has {file.data.size:,} bytes and "
        f"begins with {head[:8]!r}; {FORMATS}"
    )


def open_directory(directory: Path, *, verify: bool) -> WeightFile:
    """Open the model in a directory."""
    names = {entry.name for entry in os.scandir(directory)}
    if CHECKPOINT in names:
        return checkpoint.read_checkpoint(directory / CHECKPOINT, verify=verify)
    if names & {huggingface.WEIGHTS, huggingface.INDEX}:
        return huggingface.read_huggingface(directory)
    if any(name.endswith(".index") for name in names):
        return openai.read_openai(directory, verify=verify)
    for pattern in PICKLES:
        for path in filter(Path.is_file, sorted(directory.glob(pattern))):
            refuse_pickle(MappedFile(path))
    if CLASSIFIER in names:
        raise WeightFileError(
            f"the directory {directory} has a classifier: use it with "
            f"{npgpt_command('classify', model=directory, predict='TEXT')}. "
            f"For the model in it, without its head, name {directory / CLASSIFIER}"
        )
    raise WeightFileError(f"the directory {directory} has no model; {FORMATS}")


def open_tensors(path: str | Path, *, verify: bool = False) -> dict[str, MappedTensor]:
    """Map the tensors of a safetensors file or a TensorFlow checkpoint, of any model or none.

    Raises WeightFileError if it is neither, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        names = {entry.name for entry in os.scandir(path)}
        if names & {huggingface.WEIGHTS, huggingface.INDEX}:
            path = huggingface.weights_file(path)
        else:
            prefix = openai.prefix_of(path)
            path = prefix.with_name(prefix.name + ".index")
    file = MappedFile(path)
    if file.data[-8:].tobytes() == LEVELDB:
        return read_bundle(path.with_suffix(""), verify=verify)
    if is_index(file.data[:64].tobytes()):
        return read_shards(path)
    return read_safetensors(path)


def checkpoint_file(path: Path) -> Path:
    """Return the path of the checkpoint in the directory of a run; return other paths unchanged."""
    return path / CHECKPOINT if path.is_dir() else path
