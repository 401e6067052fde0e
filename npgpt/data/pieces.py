"""Pieces: the tokens of one block, in a file of their own until every block is done.

    one line of JSON    the fields of Piece
    uint32              where each document begins, counted in tokens
    uint16 or uint32    the tokens: <|endoftext|>, document, <|endoftext|>, document, ...

A piece begins in the middle of a document if a text was cut. A conversion that was killed finds the
pieces of the blocks that are done, and compares the hash of their documents.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from npgpt.arrays import Array
from npgpt.data.documents import Block
from npgpt.data.parts import texts_of
from npgpt.data.text_encoder import TextEncoder
from npgpt.errors import InputError, RunError
from npgpt.system.files import open_regular, os_error

MAX_HEADER = 1 << 16
START = np.dtype("<u4")


@dataclass
class Piece:
    """The header of a piece, or the sum of several."""

    digest: str = ""  # of the block
    dtype: str = ""
    tokens: int = 0
    documents: int = 0  # that begin in this piece
    empty: int = 0  # documents without a character, which are skipped
    bad: int = 0  # documents that cannot be read or encoded, which are skipped
    first_bad: str = ""  # where it is, and the reason
    crc: int = 0  # of all that follows the header


def write_piece(path: Path, block: Block, digest: str, encoder: TextEncoder, dtype: str) -> None:
    """Encode a block and write its piece.

    An incomplete file is recognized by its size, and a damaged one by its checksum: it need not be
    synced. Raises InputError if a text cannot be encoded, or if a file begins with bad documents
    only; RunError if writing fails.
    """
    end_of_text = np.array([encoder.tokenizer.eot_token], dtype)
    piece = Piece(digest, dtype)
    arrays, starts = list[Array](), list[int]()
    for part in block.parts:
        good, bad = 0, list[str]()
        for begins, text in texts_of(part):
            if isinstance(text, Exception):
                bad.append(f"{part.name}, {text}")
                continue
            if not text and begins is None:
                piece.empty += 1
                continue
            try:
                ids = encoder.encode(text).astype(dtype, copy=False) if text else end_of_text[:0]
            except InputError as error:
                if part.kind == "text":  # of which another part may be encoded already
                    raise InputError(f"{part.name}: {error}") from None
                bad.append(f"{part.name}, a document of {len(text):,} characters: {error}")
                continue
            if begins:
                starts.append(piece.tokens)
                arrays.append(end_of_text)
                piece.tokens += 1
                piece.documents += 1
            good += 1
            arrays.append(ids)
            piece.tokens += len(ids)
        if bad and not good and part.first:
            raise InputError(f"no document can be read: {bad[0]}")
        piece.bad += len(bad)
        piece.first_bad = piece.first_bad or (bad[0][:1000] if bad else "")
    body = np.array(starts, START).tobytes() + b"".join(array.tobytes() for array in arrays)
    piece.crc = zlib.crc32(body)
    try:
        with open_regular(path, "wb") as file:
            file.write(json.dumps(asdict(piece)).encode() + b"\n" + body)
    except OSError as error:
        raise os_error(f"{path} cannot be written", error) from None


def read_header(path: Path) -> Piece | None:
    """Return the header of a piece, None if there is none or the file is incomplete."""
    try:
        with open_regular(path) as file:
            line = file.readline(MAX_HEADER)
            size = file.seek(0, 2)
        piece = Piece(**json.loads(line))
        item = np.dtype(piece.dtype).itemsize
        complete = len(line) + START.itemsize * piece.documents + item * piece.tokens
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return piece if complete == size else None


def read_piece(path: Path, *, starts_only: bool = False) -> tuple[Array, Array]:
    """Return where documents begin (n,), and the tokens (N,), of a piece.

    Raises RunError if the file is damaged, and deletes it.
    """
    if (piece := read_header(path)) is not None:
        cut = START.itemsize * piece.documents
        with open_regular(path) as file:
            file.readline(MAX_HEADER)
            if starts_only:
                return np.frombuffer(file.read(cut), START), np.empty(0, piece.dtype)
            body = file.read()
        if zlib.crc32(body) == piece.crc:
            return np.frombuffer(body[:cut], START), np.frombuffer(body[cut:], piece.dtype)
        path.unlink()
    raise RunError(f"{path} is missing or damaged: run the same command again")


def add_up(pieces: Sequence[Piece]) -> Piece:
    """Return the sum of the counts of several pieces."""
    total = Piece()
    for piece in pieces:
        for name in ("tokens", "documents", "empty", "bad"):
            setattr(total, name, getattr(total, name) + getattr(piece, name))
        total.first_bad = total.first_bad or piece.first_bad
    return total
