"""Data of a run that are mapped: token files, or a large text that is encoded once into the cache.

The directory in the cache is named by a hash of the text and the tokenizer: the next run on the
same text finds it, wherever its files are.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from npgpt.data.documents import BLOCK
from npgpt.data.mapped_tokens import MappedTokens
from npgpt.data.sources import Source, describe_passed_over, kind_of, list_sources
from npgpt.data.token_files import TokenFiles, is_token_directory, open_token_files
from npgpt.data.token_format import INDEX, describe_skipped
from npgpt.data.tokenize import Job, describe_tokenizer
from npgpt.data.tokenizer import Tokenizer
from npgpt.download.cache_dir import cache_dir
from npgpt.errors import InputError
from npgpt.system import machine
from npgpt.system.files import open_regular, os_error
from npgpt.system.shell import option, quote
from npgpt.system.terminal import number_of

LARGE = 10 << 20  # bytes of text: below it, a text is encoded at each start, in a second or two
CHUNK = 1 << 16  # tokens read at once
FAR = 256  # chunks searched for the end of a document


def find(path: Path, tokenizer: Tokenizer, say: Callable[[str], object]) -> Path | None:
    """Return the directory of token files for the data at `path`, None for a short text.

    A large text is encoded first, unless the cache has its tokens. Raises InputError for a single
    token file.
    """
    if is_token_directory(path):
        describe_token_files(path, say)
        return path
    if path.suffix == ".bin" and path.is_file() and is_token_directory(path.parent):
        raise InputError(f"{path} is a token file: give its directory, {quote(path.parent)}")
    plain = path.suffix.lower() == ".txt" or kind_of(path) is None
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        texts = [file for file in files if file.suffix == ".txt"]
        names, plain = [str(file) for file in texts] or [str(path)], bool(texts)
        read = texts or [file for file in files if kind_of(file)]
        say(f"{len(read):,} of {len(files):,} files in {path} are read")
        kept = set(read)
        if others := [file for file in files if file not in kept]:
            say(describe_passed_over(others))
    elif path.is_file():
        names = [str(path)]
    else:
        return None  # the reader of texts says why
    if plain and sum(Path(name).stat().st_size for name in names) <= LARGE:
        return None
    if tokenizer.eot_token is None and plain:
        return None  # its texts cannot be told apart in a file
    sources, _ = list_sources(names)
    return encode_once(path, sources, tokenizer, say)


def describe_token_files(path: Path, say: Callable[[str], object]) -> None:
    """Say how many files of a directory are read, and which are passed over."""
    files = open_token_files(path)
    read = {INDEX} | {shard.path.name for shards in files.shards.values() for shard in shards}
    others = sorted(file for file in path.iterdir() if file.is_file() and file.name not in read)
    count = sum(map(len, files.shards.values()))
    say(f"{number_of(count, 'token file')} read in {path}")
    if others:
        say(describe_passed_over(others))


def encode_once(
    path: Path, sources: Sequence[Source], tokenizer: Tokenizer, say: Callable[[str], object]
) -> Path:
    """Return the directory in the cache with the tokens of these files; write it if it is missing.

    Raises RunError if another process is writing it.
    """
    directory = cache_dir() / "tokens" / content_hash(sources, tokenizer)
    if not (directory / INDEX).is_file():
        size = sum(source.size for source in sources)
        say(f"Encoding {path} once, {size:,} bytes; the tokens are cached in {directory}")
        workers = min(machine.cores(), 1 + size // BLOCK)
        Job(list(sources), directory, tokenizer, val_fraction=0, workers=workers).run()
    for line in describe_skipped(open_token_files(directory).index):
        say(line)
    return directory


def content_hash(sources: Sequence[Source], tokenizer: Tokenizer) -> str:
    """Return a hash of the contents of files and of the tokenizer."""
    found = hashlib.sha256(json.dumps(describe_tokenizer(tokenizer)).encode())
    for source in sources:
        found.update(f"{source.kind} {Path(source.name).suffix} {source.size}\n".encode())
        try:
            with open_regular(source.name) as file:
                while data := file.read(BLOCK):
                    found.update(data)
        except OSError as error:
            raise os_error(f"{source.name} cannot be read", error) from None
    return found.hexdigest()[:32]


def split(
    directory: Path, tokenizer: Tokenizer, train_fraction: float, vocab_size: int, name: str = ""
) -> tuple[MappedTokens, MappedTokens, str]:
    """Return training and validation tokens of a directory, and their digest.

    Without a validation split, the last part of the documents is one. `name`: of the data.
    Raises InputError if the files are invalid, or made with another tokenizer.
    """
    files = open_token_files(directory)
    require_tokenizer(files, tokenizer)
    train, digest = files.tokens("train", vocab_size, name), files.digest
    if files.shards["val"]:
        return train, files.tokens("val", vocab_size, name), digest
    cut = end_of_document(train, int(train_fraction * len(train)), files.index.get("end_of_text"))
    digest = hashlib.sha256(f"{digest} {cut}".encode()).hexdigest()
    return train.part(0, cut), train.part(cut, len(train)), digest


def require_tokenizer(files: TokenFiles, tokenizer: Tokenizer) -> None:
    """Raise InputError if an index names another tokenizer."""
    own = describe_tokenizer(tokenizer)
    keys = ["tokenizer_sha256", "vocab_size", "end_of_text"]
    if own["tokenizer_sha256"] is None:  # a name identifies it, unlike a path
        keys.append("tokenizer")
    if files.index and any(files.index.get(key) != own[key] for key in keys):
        name = files.index["tokenizer"]
        raise InputError(
            f"{files.path} was made with the tokenizer {name}, not with {tokenizer}: "
            f"give {option('tokenizer', name)}"
        )


def require_one_tokenizer(names: Sequence[str]) -> None:
    """Raise InputError if the indexes of several data name different tokenizers."""
    known = dict[str, tuple[str, str]]()  # the first data of each tokenizer, and its name
    for name in names:
        if is_token_directory(Path(name)) and (index := open_token_files(Path(name)).index):
            key = index.get("tokenizer_sha256") or index["tokenizer"]
            known.setdefault(key, (name, index["tokenizer"]))
    if len(known) > 1:
        (first, one), (second, other) = list(known.values())[:2]
        raise InputError(
            f"{first} was made with the tokenizer {one}, {second} with {other}: all data of a run "
            "must have one tokenizer"
        )


def end_of_document(tokens: MappedTokens, at: int, end_of_text: int | None) -> int:
    """Return where the first document behind `at` ends, `at` itself if none does nearby."""
    for start in range(at, min(len(tokens) - 1, at + FAR * CHUNK), CHUNK):
        found = tokens.read(start, min(CHUNK, len(tokens) - start))
        if end_of_text is not None and (ends := np.flatnonzero(found == end_of_text)).size:
            return start + int(ends[0])
    return at
