"""Open a directory of token files: npgpt's with an index, llm.c's shards, or nanoGPT's.

The formats are in `token_format.py`. Everything that a header or an index claims is compared with
the files. Token ids are checked when they are read, hashes on request.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.data.mapped_tokens import MappedTokens, Shard, check_ids
from npgpt.data.token_format import DTYPES, HEADER, INDEX, KIND, MAGIC, SPLITS, VERSION, WORK
from npgpt.errors import InputError
from npgpt.weights.mapped import MappedFile
from npgpt.weights.strict_json import read_json_object

SAMPLE = 1 << 20  # bytes at both ends of a file without an index that identify it
CHUNK = 1 << 22  # tokens checked at once


@dataclass(frozen=True)
class TokenFiles:
    """The token files of a directory.

    `index`: as npgpt tokenize has written it; empty for the files of other programs.
    """

    path: Path
    format: str
    shards: dict[str, list[Shard]]  # by split: "train" and "val"
    index: dict[str, Any]

    def tokens(self, split: str, vocab_size: int, name: str = "") -> MappedTokens:
        """Return the tokens of a split. Raise InputError if there are none."""
        found = MappedTokens(self.shards[split], vocab_size, name)
        if not len(found):
            name = {"train": "training", "val": "validation"}[split]
            raise InputError(f"{self.path} has no {name} tokens")
        return found

    @property
    def digest(self) -> str:
        """A hash that tells these tokens from others.

        It covers the hashes in an index. Without one, it covers the size and both ends of a file.
        """
        found = hashlib.sha256()
        hashes = {entry["file"]: entry["sha256"] for entry in self.index.get("shards", [])}
        for split, shards in self.shards.items():
            for shard in shards:
                if (text := hashes.get(shard.path.name)) is None:
                    data = shard.tokens.view(np.uint8)
                    ends = hashlib.sha256(data[:SAMPLE].tobytes() + data[-SAMPLE:].tobytes())
                    text = ends.hexdigest()
                    shard.drop_pages()
                found.update(f"{split} {len(shard.tokens)} {text}\n".encode())
        return found.hexdigest()

    def verify(self, vocab_size: int) -> Iterator[int]:
        """Compare every file with the index, every id with the vocabulary; yield bytes read.

        Raises InputError for the first file that differs.
        """
        hashes = {entry["file"]: entry["sha256"] for entry in self.index.get("shards", [])}
        for shard in (shard for shards in self.shards.values() for shard in shards):
            file, found = MappedFile(shard.path), hashlib.sha256()
            for start in range(0, file.data.size, CHUNK):
                found.update(file.data[start : start + CHUNK])
                file.drop_pages(start, start + CHUNK)
                yield min(CHUNK, file.data.size - start)
            if hashes.get(shard.path.name, found.hexdigest()) != found.hexdigest():
                raise InputError(
                    f"{shard.path} is damaged: its sha256 is {found.hexdigest()[:12]}..., "
                    f"{INDEX} says {hashes[shard.path.name]:.12}..."
                )
            for start in range(0, len(shard.tokens), CHUNK):
                check_ids(shard.path, shard.tokens[start : start + CHUNK], vocab_size)


def is_token_directory(path: Path) -> bool:
    """Return True if this is a directory that holds token files, not texts or a model."""
    try:
        names = os.listdir(path)
    except OSError:
        return False  # the reader of texts or of weights says why
    others = "config.json" in names or any(name.endswith(".txt") for name in names)
    shards = [n for n in names if n.endswith(".bin") and any(split in n for split in SPLITS)]
    return WORK in names or (bool(shards) and (INDEX in names or not others))


def open_token_files(path: Path) -> TokenFiles:
    """Map the token files in a directory. Raise InputError if one is invalid or missing."""
    if (path / WORK).is_dir() and not (path / INDEX).is_file():
        raise InputError(f"{path} is not complete: repeat its npgpt tokenize command")
    if (path / INDEX).is_file():
        return open_index(path)
    files = sorted(path.glob("*.bin"))
    if not files:
        raise InputError(f"{path} has no token files, which are named .bin")
    names = {file.name for file in files}
    headerless = names <= {"train.bin", "val.bin"} and not any(map(has_header, files))
    shards: dict[str, list[Shard]] = {"train": [], "val": []}
    for file in files:
        splits = [split for split in shards if split in file.name]
        if len(splits) != 1:
            raise InputError(
                f"{file} must have either train or val in its name, as llm.c's and nanoGPT's files"
            )
        shards[splits[0]].append(open_raw(file) if headerless else open_llmc(file))
    return TokenFiles(path, "nanogpt" if headerless else "llmc", shards, {})


def open_index(path: Path) -> TokenFiles:
    """Map the files that an index names."""
    file = path / INDEX
    index = read_json_object(file)
    if index.get("kind") != KIND:
        raise InputError(f"{file} is not an index of token files")
    if index.get("version") != VERSION:
        raise InputError(
            f"{file} has version {index.get('version')!r:.40}; this npgpt reads version {VERSION}"
        )
    shards: dict[str, list[Shard]] = {"train": [], "val": []}
    entries, layout = index.get("shards"), index.get("format")
    if not isinstance(entries, list) or layout not in ("llmc", "nanogpt"):
        raise InputError(f"{file} is invalid: it has no list of shards, or an unknown format")
    names = set[str]()
    for entry in entries:
        name, count, split, _ = read_entry(entry, file)
        if name in names:
            raise InputError(f"{file} names {name} twice")
        names.add(name)
        if not os.path.isfile(path / name):  # Path.is_file raises OSError for a long name
            raise InputError(f"{file} names {name}, which is missing")
        if layout == "llmc":
            shard = open_llmc(path / name)
        else:
            shard = open_raw(path / name)
        if len(shard.tokens) != count:
            raise InputError(
                f"{path / name} has {len(shard.tokens):,} tokens, {INDEX} says {count:,}"
            )
        shards[split].append(shard)
    for key, kind in (("tokenizer", str), ("vocab_size", int), ("end_of_text", int)):
        if type(index.get(key)) is not kind:
            raise InputError(f"{file} is invalid: {key} is {index.get(key)!r:.40}")
    return TokenFiles(path, layout, shards, index)


def read_entry(entry: Any, file: Path) -> tuple[str, int, str, str]:
    """Return the name, the number of tokens, the split and the hash of a shard in an index."""
    values = entry if isinstance(entry, dict) else {}
    found = tuple(values.get(key) for key in ("file", "tokens", "split", "sha256"))
    name, count, split, digest = found
    if (
        not isinstance(name, str)
        or name != Path(name).name
        or type(count) is not int
        or split not in ("train", "val")
        or not isinstance(digest, str)
    ):
        raise InputError(f"{file} is invalid: a shard is {json.dumps(entry)[:100]}")
    return name, count, split, digest


def has_header(path: Path) -> bool:
    """Return True if a file begins as llm.c's."""
    head = MappedFile(path).data[:8].tobytes()
    return len(head) == 8 and tuple(np.frombuffer(head, "<i4").tolist()) in MAGIC.values()


def open_raw(path: Path) -> Shard:
    """Map nanoGPT's file."""
    file = MappedFile(path)
    data = file.data
    if not data.size or data.size % 2:
        raise InputError(
            f"{path} has {data.size:,} bytes, but nanoGPT's files have two per token, at least one"
        )
    return Shard(path, data.view(DTYPES["uint16"]), file)


def open_llmc(path: Path) -> Shard:
    """Map llm.c's file. Raise InputError unless its size fits its header."""
    file = MappedFile(path)
    data: Array = file.data
    if data.size < 4 * HEADER:
        raise InputError(
            f"{path} is truncated: {data.size:,} bytes, the header alone has {4 * HEADER:,}"
        )
    magic, version, count = data[:12].view("<i4").tolist()
    names = [name for name, values in MAGIC.items() if values == (magic, version)]
    if not names:
        expected = " or ".join(f"{m} (version {v})" for m, v in MAGIC.values())
        raise InputError(
            f"{path} begins with {magic} (version {version}), llm.c's token files with {expected}"
        )
    dtype: np.dtype[Any] = DTYPES[names[0]]
    size = 4 * HEADER + dtype.itemsize * count
    if size != data.size or count < 1:
        raise InputError(
            f"{path} has {data.size:,} bytes, but its header says {count:,} tokens, which are "
            f"{size:,} bytes"
        )
    return Shard(path, data[4 * HEADER :].view(dtype), file)
