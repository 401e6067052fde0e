"""Turn documents into token files: encode every block into a piece, then put the pieces together.

The blocks depend on the files alone, and their tokens on nothing else. The result is therefore the
same for any number of processes and machines, and after any interruption.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from npgpt.data import token_format
from npgpt.data.assemble import Division, assemble
from npgpt.data.documents import make_groups, read_blocks
from npgpt.data.pieces import Piece, add_up, read_header
from npgpt.data.sources import STDIN, Source
from npgpt.data.tokenizer import Tokenizer
from npgpt.data.worker_pool import Task, run_tasks
from npgpt.errors import InputError, RunError
from npgpt.system.atomic import TEMPORARY, atomic_write, make_directory, remove
from npgpt.system.files import file_lock, os_error, read_regular
from npgpt.weights.tokenizer_files import TokenizerFiles

PLAN = "plan.json"
MAX_JSON = 1 << 28


@dataclass
class Job:
    """A conversion: its sources, its directory, its options.

    `part`: (i, n), this process encodes the i-th of n parts, from 1. The last one to finish puts
    the pieces together. `on_bytes`: called with the number of bytes of the sources that are done.
    """

    sources: list[Source]
    directory: Path
    tokenizer: Tokenizer
    val_sources: list[Source] = field(default_factory=list)
    layout: token_format.Layout = "llmc"
    val_fraction: float = 0.01
    first_shard: bool = False
    shard_tokens: int = token_format.SHARD_TOKENS
    workers: int = 1
    part: tuple[int, int] = (1, 1)
    on_bytes: Callable[[int], object] = lambda size: None

    @property
    def work(self) -> Path:
        """The directory of the pieces."""
        return self.directory / token_format.WORK

    @property
    def dtype(self) -> str:
        """The type of a token."""
        return token_format.dtype_of(self.tokenizer.n_vocab)

    @property
    def sources_id(self) -> str:
        """A hash of the names and sizes of all files, which every part must have."""
        found = [[[s.name, s.size] for s in some] for some in (self.sources, self.val_sources)]
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()

    def run(self) -> dict[str, Any] | None:
        """Encode this part; return the index if all parts are done and the files are complete.

        Raises InputError for a source or a value that is not valid, RunError if writing fails.
        """
        self.encode_part()
        return self.finish()

    def encode_part(self) -> None:
        """Encode this part. Raises the errors of `run`."""
        self.check()
        number, parts = self.part
        with self.named_errors():
            make_directory(self.directory)
            make_directory(self.work)
            lock = self.work / f"part-{number}-of-{parts}.lock"
            with file_lock(lock, f"another process writes part {number} in {self.directory}"):
                self.write_plan()
                names = self.encode()
                with atomic_write(self.work / f"part-{number}.json") as file:
                    file.write(json.dumps({"sources": self.sources_id, "names": names}).encode())

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Raise RunError with the name of the directory for an error of the disk."""
        try:
            yield
        except OSError as error:
            raise os_error(f"{self.directory} cannot be written", error) from None

    def check(self) -> None:
        """Raise InputError for values that do not fit each other."""
        if self.tokenizer.eot_token is None:
            raise InputError(f"the tokenizer {self.tokenizer} has no end-of-text token")
        if self.layout == "nanogpt" and self.dtype != "uint16":
            raise InputError(
                f"nanoGPT's format has 16 bits per token, and the tokenizer {self.tokenizer} has "
                f"{self.tokenizer.n_vocab:,} tokens: use --format llmc"
            )
        everything = self.sources + self.val_sources
        for name, count in Counter(source.name for source in everything).most_common(1):
            if count > 1:
                raise InputError(f"{name} is named twice")
        if self.part[1] > 1 and any(source.name == STDIN for source in everything):
            raise InputError("standard input has no parts: leave --part out")
        if os.path.lexists(self.directory / token_format.INDEX):
            raise InputError(f"{self.directory} already holds token files: choose another --to")
        if not self.work.is_dir() and self.directory.is_dir():
            for path in self.directory.glob("*.bin"):
                raise InputError(f"{path} already exists: choose another --to")

    def write_plan(self) -> None:
        """Write what the pieces depend on. Raise InputError if pieces of another plan are here."""
        plan = {
            "version": token_format.VERSION,
            **describe_tokenizer(self.tokenizer),
            "parts": self.part[1],
        }
        path = self.work / PLAN
        if not path.exists():
            with atomic_write(path) as file:
                file.write(json.dumps(plan).encode())
        found = read_json(path)
        other = [key for key in plan if found.get(key) != plan[key]]
        if other:
            raise InputError(
                f"{self.directory} has an unfinished conversion with other values ({other[0]}): "
                f"repeat its command, or delete {self.work} to begin again"
            )

    def encode(self) -> list[str]:
        """Encode the blocks of this part that are not done; return the names of all its pieces."""
        names = list[str]()
        tasks = self.tasks(names)
        for _ in run_tasks(tasks, self.tokenizer.origin, self.dtype, self.workers):
            pass
        return names

    def tasks(self, names: list[str]) -> Iterator[Task]:
        """Yield the blocks of this part that are not done; add the names of all to `names`."""
        number, parts = self.part
        for split, sources in (("train", self.sources), ("val", self.val_sources)):
            groups = make_groups(sources)
            for g, group in enumerate(groups):
                size = sum(source.size for source in group)
                by_group = len(groups) >= 4 * parts  # files of other parts are not even read
                if by_group and g % parts != number - 1:
                    self.on_bytes(size)
                    continue
                before = 0
                for b, block in enumerate(read_blocks(group)):
                    if by_group or (g + b) % parts == number - 1:
                        names.append(f"{split}-{g:06d}-{b:06d}")
                        path = self.work / names[-1]
                        header, digest = read_header(path), block.digest
                        if header is None or header.digest != digest:
                            yield Task(path, block, digest)
                    self.on_bytes(block.position - before)
                    before = block.position

    def finish(self) -> dict[str, Any] | None:
        """Put the pieces together if every part is done; return the index."""
        with self.named_errors():
            paths = [self.work / f"part-{i + 1}.json" for i in range(self.part[1])]
            if not all(path.exists() for path in paths):
                return None
            with file_lock(self.work / "files.lock", "another process writes the token files"):
                if not all(path.exists() for path in paths):  # meanwhile done by another process
                    return None
                names = sorted(name for path in paths for name in self.read_names(path))
                pieces = {
                    split: [self.work / name for name in names if name.startswith(split)]
                    for split in token_format.SPLITS
                }
                division = Division(
                    self.layout,
                    self.dtype,
                    self.tokenizer.eot_token or 0,
                    0 if self.val_sources else self.val_fraction,
                    self.first_shard,
                    self.shard_tokens,
                )
                self.remove_files()
                found = assemble(self.directory, pieces, division)
                index = self.index(found, pieces)
                token_format.write_index(self.directory, index)
                shutil.rmtree(self.work, ignore_errors=True)
            return index

    def index(self, found: dict[str, Any], pieces: dict[str, list[Path]]) -> dict[str, Any]:
        """Return the contents of the index."""
        headers = [read_header(path) or Piece() for paths in pieces.values() for path in paths]
        total = add_up(headers)
        return {
            "kind": token_format.KIND,
            "version": token_format.VERSION,
            "format": self.layout,
            "dtype": self.dtype,
            **describe_tokenizer(self.tokenizer),
            "documents": total.documents,
            "tokens": total.tokens,
            "skipped": {"empty": total.empty, "bad": total.bad, "first_bad": total.first_bad},
            **found,
        }

    def read_names(self, path: Path) -> list[str]:
        """Return the names of the pieces of a part that is done."""
        found = read_json(path)
        names = found.get("names")
        if found.get("sources") != self.sources_id or not isinstance(names, list):
            raise RunError(
                f"{path.stem} was encoded from other files: run the command of this part again"
            )
        return [str(name) for name in names]

    def remove_files(self) -> None:
        """Delete what a conversion that was killed has written of the token files."""
        remove(self.directory / token_format.INDEX)  # first: it names complete files only
        with suppress(OSError):
            for name in os.listdir(self.directory):
                hidden = TEMPORARY.fullmatch(name)
                if token_format.NAME.fullmatch(hidden[1] if hidden else name):
                    remove(self.directory / name)


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the entries of an index that identify a tokenizer."""
    origin, digest = tokenizer.origin, None
    if isinstance(origin, TokenizerFiles):
        hashed = hashlib.sha256()
        for name, content in sorted(origin.contents.items()):
            hashed.update(f"{name} {len(content)}\n".encode() + content)
        digest = hashed.hexdigest()
    return {
        "tokenizer": str(tokenizer),
        "tokenizer_sha256": digest,
        "vocab_size": tokenizer.n_vocab,
        "end_of_text": tokenizer.eot_token,
    }


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a conversion. Raise RunError if it is damaged."""
    try:
        found = json.loads(read_regular(path, MAX_JSON))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged: delete it, and run the same command again")
    return found
