"""The one place that decides whose tokenizer a model has.

In this order: the name or the files in the weight file itself; the flag --tokenizer; the tokenizer
files beside the weights; GPT-2's, if the shape is that of a released model and nothing contradicts.
Otherwise it is unknown. It is never guessed from the size of the vocabulary.
"""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple, TypeGuard

from npgpt.config import VOCABULARIES
from npgpt.download.resolve import resolve
from npgpt.errors import InputError, show
from npgpt.preset import PRESETS
from npgpt.weights import formats, tokenizer_files
from npgpt.weights.tokenizer_files import TokenizerFiles, TokenizerName
from npgpt.weights.weight_file import WeightFile

KINDS = "gpt2, byte, a tokenizer.json, or a directory that has one"
RELEASED = "gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl"


class Choice(NamedTuple):
    """The tokenizer of a model, None if it is unknown, and where it was found, or why not."""

    tokenizer: TokenizerName | None
    found: str


def choose(source: WeightFile, given: str | Path | None = None) -> Choice:
    """Return the tokenizer of the model in a weight file. `given`: the flag --tokenizer.

    Raises InputError if the flag contradicts the weight file, or names no tokenizer, or if files
    beside the weights cannot be read.
    """
    recorded, directory = source.tokenizer, source.path.parent
    if is_known(recorded):
        name = recorded if isinstance(recorded, str) else os.path.abspath(recorded.path)
        if given is not None and absolute_tokenizer(given) != name:
            raise InputError(
                f"--tokenizer {given} does not fit: {source.path} was made with {name}. "
                "Leave the flag out"
            )
        return Choice(recorded, "recorded in the file")
    if given is not None:
        return Choice(find(given), "--tokenizer")
    if files := tokenizer_files.read_directory(directory):
        names = ", ".join(name for name in files.contents if name not in tokenizer_files.EXTRAS)
        return Choice(files, f"{names} beside the weights")
    if foreign := tokenizer_files.foreign_files(directory):
        return Choice(None, f"{foreign[0]} beside the weights, which npgpt does not read")
    if source.other_tokenizer is not None:
        return Choice(None, f"config.json names {show(source.other_tokenizer)}")
    if source.format in ("openai", "huggingface", "llm.c") and is_released(source):
        return Choice("gpt2", "the model has the shape of a released GPT-2")
    said = "neither recorded in the file nor beside it"
    return Choice(None, said if recorded is None else f"the file names {show(recorded)}")


def absolute_tokenizer(name: str | Path) -> str:
    """Return the name of a tokenizer unchanged, and the path of one as an absolute path."""
    return name if isinstance(name, str) and name in VOCABULARIES else os.path.abspath(name)


def is_known(name: object) -> TypeGuard[TokenizerName]:
    """Return True for "gpt2", "byte" and files. Other names may come from a file: no path is."""
    return isinstance(name, TokenizerFiles) or (isinstance(name, str) and name in VOCABULARIES)


def is_released(source: WeightFile) -> bool:
    """Return True if the model has the shape of one of OpenAI's four, vocabulary included."""
    shapes = [PRESETS[name].config for name in RELEASED]
    return dataclasses.replace(source.config, dropout=0.0) in shapes


def find(name: str | Path | TokenizerFiles) -> TokenizerName:
    """Return the tokenizer of this name or path, as `npgpt.tokenizer` takes it.

    Raises InputError if there is none, or if its files cannot be read.
    """
    if is_known(name):
        return name
    if not isinstance(name, (str, Path)) or not os.path.lexists(name):
        raise InputError(f"unknown tokenizer {show(name)}; expected {KINDS}")
    path = Path(name)
    if path.is_dir():
        if files := tokenizer_files.read_directory(path):
            return files
    elif path.suffix == ".json":
        return tokenizer_files.read_json_file(path)
    choice = choose(formats.open_weights(resolve(path)))
    if choice.tokenizer is None:
        raise InputError(f"the tokenizer of {path} is unknown ({choice.found}); expected {KINDS}")
    return choice.tokenizer
