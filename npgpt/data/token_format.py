"""The two formats of token files, and the index beside them.

llm.c     256 x int32: MAGIC, version, number of tokens, zeros; then the tokens. 100 million tokens
          per file by default. <|endoftext|> before each document; documents cross files.
nanoGPT   the tokens alone, in train.bin and val.bin. <|endoftext|> after each document.

Tokens are uint16, or uint32 in llm.c's files if the vocabulary has more than 65,536.

Source: karpathy/llm.c, dev/data/data_common.py; karpathy/nanoGPT, data/openwebtext/prepare.py
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from npgpt.arrays import Array
from npgpt.system.atomic import atomic_write
from npgpt.system.terminal import number_of, printable_line

Layout = Literal["llmc", "nanogpt"]
HEADER = 256  # int32 numbers
MAGIC = {"uint16": (20240520, 1), "uint32": (20240801, 7)}  # and the version
SHARD_TOKENS = 100_000_000
INDEX = "index.json"
WORK = ".npgpt-tokenize"  # the directory of pieces, until the token files are complete
NAME = re.compile(r"(train|val|tokens_(train|val)_\d{6,})\.bin")
KIND = "npgpt token files"  # the value of "kind" in an index
VERSION = 1
SPLITS = "val", "train"
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def dtype_of(vocab_size: int) -> str:
    """Return the smallest type for the ids of a vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def make_header(count: int, dtype: str) -> bytes:
    """Return llm.c's header of a file of `count` tokens."""
    header = np.zeros(HEADER, "<i4")
    header[:3] = *MAGIC[dtype], count
    return header.tobytes()


def after_documents(chunks: Iterable[Array], end_of_text: int) -> Iterator[Array]:
    """Turn <|endoftext|> before each document into <|endoftext|> after each document."""
    last = None
    for chunk in chunks:
        if len(chunk):
            yield chunk[1:] if last is None else chunk
            last = chunk
    if last is not None:
        yield np.array([end_of_text], last.dtype)


def write_files(
    path_of: Callable[[int], Path],
    chunks: Iterator[Array],
    total: int,
    limit: int,
    header: Callable[[int], bytes],
    on_bytes: Callable[[int], object],
) -> Iterator[dict[str, Any]]:
    """Write a sequence of tokens into files of at most `limit` tokens; yield each one's entry.

    `path_of`: the path of a file by its number. `total`: the tokens in `chunks`. `header`: what
    stands before the given number of tokens. `on_bytes`: called after each write.
    """
    chunk = np.empty(0, np.uint16)
    for number, begin in enumerate(range(0, total, limit)):
        left = size = min(limit, total - begin)
        path, digest = path_of(number), hashlib.sha256()
        with atomic_write(path) as file:
            data: Any = header(size)
            digest.update(data)
            file.write(data)
            while left:
                if not len(chunk):
                    chunk = next(chunks)
                    continue
                data, chunk = np.ascontiguousarray(chunk[:left]), chunk[left:]
                digest.update(data)
                file.write(data)
                on_bytes(data.nbytes)
                left -= len(data)
        yield {"file": path.name, "tokens": size, "sha256": digest.hexdigest()}


def write_index(directory: Path, index: dict[str, Any]) -> None:
    """Write the index: last, so that it names complete files only."""
    text = json.dumps(index, indent=2)
    with atomic_write(directory / INDEX) as file:
        file.write(text.encode() + b"\n")


def describe_skipped(index: dict[str, Any]) -> list[str]:
    """Return lines about the documents that were skipped, by an index."""
    skipped, lines = index.get("skipped", {}), []
    if skipped.get("bad"):
        first, documents = printable_line(skipped["first_bad"], 200), skipped["bad"]
        lines.append(f"{number_of(documents, 'document')} skipped; the first: {first}")
    if skipped.get("empty"):
        lines.append(f"{number_of(skipped['empty'], 'empty document')} skipped")
    return lines
