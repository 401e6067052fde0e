"""Put the tokens of all pieces together: divide the documents into two splits, write the files."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.data import token_format
from npgpt.data.pieces import read_header, read_piece
from npgpt.data.token_format import Layout
from npgpt.errors import InputError, RunError
from npgpt.system.terminal import number_of


@dataclass(frozen=True)
class Division:
    """The rules by which documents become two splits, and splits become files."""

    layout: Layout
    dtype: str
    end_of_text: int
    val_fraction: float  # of the documents, evenly spread; unless the validation split has sources
    first_shard: bool  # the first file is the validation split, as in llm.c's own scripts
    shard_tokens: int


class Split:
    """The documents of pieces, or every `count // chosen`-th of them, or all others."""

    def __init__(self, paths: Sequence[Path], count: int, chosen: int = 0, *, others: bool = True):
        self.paths, self.count, self.chosen, self.others = paths, count, chosen, others

    def select(self, first: int, count: int) -> Array:
        """Return True for the documents of this split, of `count` from number `first` on."""
        numbers = np.arange(first, first + count)
        k, n = self.chosen, max(1, self.count)
        return ((numbers + 1) * k // n > numbers * k // n) != self.others

    def pieces(self, *, starts_only: bool = False) -> Iterator[tuple[Array, Array, Array]]:
        """Yield for each piece which documents are selected, their sizes, and its tokens.

        The first entry is of the document that the piece before continues.
        """
        number = -1
        for path in self.paths:
            starts, tokens = read_piece(path, starts_only=starts_only)
            header = read_header(path)
            end = header.tokens if header else len(tokens)
            sizes = np.diff(starts.astype(np.int64), prepend=0, append=end)
            yield self.select(number, len(sizes)), sizes, tokens
            number += len(starts)

    def size(self) -> tuple[int, int]:
        """Return the number of documents and of tokens."""
        documents = tokens = 0
        for selected, sizes, _ in self.pieces(starts_only=True):
            documents += int(np.count_nonzero(selected[1:]))
            tokens += int(sizes[selected].sum())
        return documents, tokens

    def chunks(self) -> Iterator[Array]:
        """Yield the tokens."""
        for selected, sizes, tokens in self.pieces():
            edges = np.concatenate([[0], np.cumsum(sizes)])
            flips = np.flatnonzero(np.diff(selected)) + 1
            for begin, end in itertools.pairwise([0, *flips.tolist(), len(selected)]):
                if selected[begin]:
                    yield tokens[edges[begin] : edges[end]]


def assemble(
    directory: Path,
    pieces: dict[str, list[Path]],
    division: Division,
    on_bytes: Callable[[int], object] = lambda size: None,
) -> dict[str, Any]:
    """Write the token files; return the entries of the index.

    `pieces`: the paths for "train", and for "val" if that has sources of its own.
    """
    headers = [read_header(path) for path in pieces["train"]]
    if None in headers:
        raise RunError("a piece is missing or damaged: run the same command again")
    count = sum(header.documents for header in headers if header)
    if not count:
        raise InputError("the sources have no documents")
    splits = divide(pieces, count, division)
    found: dict[str, Any] = {"splits": {}, "shards": []}
    for name, split in splits.items():
        documents, tokens = split.size()
        if not documents:
            raise InputError("the validation texts have no documents")
        found["splits"][name] = {"documents": documents, "tokens": tokens}
        chunks = split.chunks()
        if division.layout == "nanogpt":
            chunks, limit = token_format.after_documents(chunks, division.end_of_text), tokens
        else:
            limit = division.shard_tokens
        namer = Namer(directory, name, division, tokens)
        for entry in token_format.write_files(
            namer.path, chunks, tokens, limit, namer.header, on_bytes
        ):
            found["shards"].append(entry | {"split": namer.split_of(entry["file"])})
    if division.first_shard:
        found["splits"] = recount(found["shards"])
    return found


def divide(pieces: dict[str, list[Path]], count: int, division: Division) -> dict[str, Split]:
    """Return the splits to write. Raise InputError if there are too few documents for two."""
    everything = Split(pieces["train"], count)
    if division.first_shard:
        return {"train": everything}
    if pieces["val"]:
        return {"val": Split(pieces["val"], 0), "train": everything}
    if not division.val_fraction:
        return {"train": everything}
    chosen = max(1, round(count * division.val_fraction))
    if chosen >= count:
        raise InputError(
            f"{number_of(count, 'document')} cannot be divided by --val-fraction "
            f"{division.val_fraction}: name the validation texts with --val, or give "
            "--val-fraction 0"
        )
    paths = pieces["train"]
    return {
        "val": Split(paths, count, chosen, others=False),
        "train": Split(paths, count, chosen),
    }


class Namer:
    """Names of the files of a split."""

    def __init__(self, directory: Path, split: str, division: Division, tokens: int):
        self.directory, self.split, self.division = directory, split, division
        if division.first_shard and tokens <= division.shard_tokens:
            raise InputError(
                f"{tokens:,} tokens are one shard of at most {division.shard_tokens:,}, which is "
                "the validation split, and none is left to train on: leave --first-shard out"
            )

    def path(self, number: int) -> Path:
        """Return the path of a file by its number, from 0."""
        if self.division.layout == "nanogpt":
            return self.directory / f"{self.split}.bin"
        split = self.split
        if self.division.first_shard:
            split = "train" if number else "val"
        elif split == "train":
            number += 1  # as if the validation split were one shard
        return self.directory / f"tokens_{split}_{number:06d}.bin"

    def header(self, count: int) -> bytes:
        """Return what stands before `count` tokens."""
        if self.division.layout == "nanogpt":
            return b""
        return token_format.make_header(count, self.division.dtype)

    def split_of(self, file: str) -> str:
        """Return the split of a file."""
        return "val" if "val" in file else "train"


def recount(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the splits after the first file has become the validation split.

    It tears the document at its end: the number of documents in each split has no meaning.
    """
    return {
        name: {"tokens": sum(shard["tokens"] for shard in shards if shard["split"] == name)}
        for name in token_format.SPLITS
    }
