"""The files of a model's own tokenizer: read from a directory, stored in npgpt's weight files.

Only bytes are handled here. npgpt/data/tokenizer_json.py makes a tokenizer of them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import WeightFileError, show
from npgpt.system.files import read_input
from npgpt.weights.mapped import MappedTensor

JSON = "tokenizer.json"
# Hugging Face's file with everything; its older pair; OpenAI's names of that pair
KINDS: tuple[tuple[str, ...], ...] = (
    (JSON,),
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
)
EXTRAS = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
NAMES = {name for kind in KINDS for name in kind} | {*EXTRAS}
FOREIGN = (  # files of tokenizers that are not read
    "vocab.txt", "spiece.model", "spm.model", "sentencepiece.model", "sentencepiece.bpe.model",
    "tokenizer.model", "vocab.model",
)  # fmt: skip
MAX_SIZE = 1 << 26  # bytes of one file
OWN = "files"  # stands for the name of the tokenizer in a weight file that has the files itself
PREFIX = "tokenizer/"  # of the names of these files, among the tensors of a weight file


@dataclass(frozen=True, eq=False)
class TokenizerFiles:
    """The files of a tokenizer that has no name.

    Attributes
    ----------
    path : Path
        The directory, or the file, that they were read from.
    contents : dict of str to bytes
        By their names, such as "tokenizer.json".
    """

    path: Path
    contents: Mapping[str, bytes] = field(repr=False)


TokenizerName = str | TokenizerFiles  # "gpt2", "byte", or the files of another tokenizer


def read_directory(directory: Path) -> TokenizerFiles | None:
    """Read the files of the tokenizer in a directory; None if it has none.

    Raises InputError if one of them cannot be read.
    """
    try:
        present = set(os.listdir(directory or "."))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    for kind in KINDS:
        if present.issuperset(kind):
            names = [*kind, *(name for name in EXTRAS if name in present)]
            contents = {name: read_input(directory / name, MAX_SIZE) for name in names}
            return TokenizerFiles(directory, contents)
    return None


def read_json_file(path: Path) -> TokenizerFiles:
    """Read a tokenizer.json of any name, and the files that belong to it beside it."""
    contents = {JSON: read_input(path, MAX_SIZE)}
    for name in EXTRAS:
        if os.path.lexists(path.with_name(name)):
            contents[name] = read_input(path.with_name(name), MAX_SIZE)
    return TokenizerFiles(path, contents)


def foreign_files(directory: Path) -> list[str]:
    """Return the names of files in a directory that belong to a tokenizer of another kind."""
    try:
        return sorted(set(FOREIGN).intersection(os.listdir(directory or ".")))
    except OSError:
        return []


def name_in_file(tokenizer: TokenizerName | None) -> str:
    """Return the text that a weight file has for a tokenizer: "" if it is unknown."""
    return OWN if isinstance(tokenizer, TokenizerFiles) else tokenizer or ""


def to_arrays(tokenizer: TokenizerName | None) -> dict[str, Array]:
    """Return the files of a tokenizer as (size,) uint8 arrays, by their names; none of a name."""
    files = tokenizer.contents if isinstance(tokenizer, TokenizerFiles) else {}
    return {name: np.frombuffer(content, np.uint8) for name, content in files.items()}


def from_tensors(tensors: Mapping[str, MappedTensor], path: Path) -> TokenizerFiles:
    """Return the tokenizer whose files are among the tensors of a weight file.

    Raises WeightFileError if they are incomplete, or of another kind.
    """
    contents = {}
    for name, tensor in tensors.items():
        if not name.startswith(PREFIX):
            continue
        own = name.removeprefix(PREFIX)
        if own not in NAMES or tensor.dtype != "uint8" or len(tensor.shape) != 1:
            raise WeightFileError(f"{path} has {show(name)}, which is no file of a tokenizer")
        if tensor.nbytes > MAX_SIZE:
            raise WeightFileError(
                f"{path}: {name} has {tensor.nbytes:,} bytes; at most {MAX_SIZE:,} are read"
            )
        contents[own] = tensor.raw().tobytes()
    if not any(contents.keys() >= {*kind} for kind in KINDS):
        raise WeightFileError(f"{path} has no files of its tokenizer")
    return TokenizerFiles(path, contents)
