"""npgpt tokenize."""

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from npgpt.cli.common import default
from npgpt.distributed.collectives import wait_for_all
from npgpt.distributed.world import World, run_launched
from npgpt.errors import InputError, RunError
from npgpt.system import machine
from npgpt.system.console import is_live, make_bar
from npgpt.system.terminal import number_of, printable_line

if TYPE_CHECKING:
    from npgpt.data.sources import Source
    from npgpt.data.tokenize import Job


@dataclass(kw_only=True)
class Tokenize:
    """Write texts as token files, to train on data of any size.

    A document is a text file (or the text between two <|endoftext|>), a line {"text": ...} of a
    JSONL file, or a row of a parquet file with the column "text". The command continues a
    conversion that was interrupted.

    Parameters
    ----------
    sources
        Files, directories, or - for standard input. Files read in a directory: .txt, .jsonl
        and .ndjson, each also with .gz or .zst, and .parquet. The last two need
        pip install 'npgpt[data]'.
    to
        Directory for the token files. They take twice their size until all are complete.
    tokenizer
        "gpt2", "byte", or the path of a tokenizer.json, of its directory, or of a model.
    workers
        Processes that encode. They do not affect the result.
    part
        I/N: encode the I-th of N parts only, on one of N machines that share the directory. The
        last one to finish writes the token files. Under mpirun or srun, each rank has its part.
    val_fraction
        Fraction of the documents in the validation split, evenly spread, at least one. 0: none.
    val
        Files or directories of the validation split, in place of a fraction.
    first_shard
        Take the first shard as the validation split, as llm.c's own scripts do.
    format
        llmc: shards with a header. nanogpt: train.bin and val.bin.
    shard_tokens
        Tokens per file in the format llmc.
    stdin
        What standard input holds: a text, or a document per line.
    """

    sources: Annotated[
        tyro.conf.Positional[list[str]],
        tyro.conf.arg(metavar="PATH [PATH ...]", help_behavior_hint="(required)"),
    ]
    to: Path
    tokenizer: Annotated[str, tyro.conf.arg(metavar="{gpt2,byte,PATH}")] = "gpt2"
    workers: Annotated[int | None, default("one per core", "INT")] = None
    part: Annotated[str, tyro.conf.arg(metavar="I/N")] = "1/1"
    val_fraction: Annotated[float | None, default("0.01", "FLOAT")] = None
    val: tyro.conf.UseAppendAction[list[str]] = field(default_factory=list)
    first_shard: tyro.conf.FlagCreatePairsOff[bool] = False
    format: Literal["llmc", "nanogpt"] = "llmc"
    shard_tokens: int = 100_000_000
    stdin: Literal["text", "jsonl"] = "text"

    def run(self) -> int:
        """Write the files, alone or on all ranks of a launcher; return the exit status."""
        return run_launched(self.run_on)

    def run_on(self, here: World) -> int:
        """Encode this rank's part; the first rank writes the files."""
        from npgpt.data.sources import describe_passed_over, list_sources
        from npgpt.data.tokenize import Job
        from npgpt.data.tokenizer import tokenizer

        part, workers = self.checked()
        if here.size > 1:
            part = self.part_of(here)
        if not self.sources:
            raise InputError("there is nothing to tokenize: name a file, a directory, or -")
        sources, passed_over = list_sources(self.sources, self.stdin)
        val_sources, more = list_sources(self.val)
        everything = sources + val_sources
        size = sum(source.size for source in everything)
        if here.is_first:
            if passed_over + more:
                print(describe_passed_over(passed_over + more), file=sys.stderr)
            print(describe_sources(everything, size), file=sys.stderr)
        progress = Progress(size) if here.is_first else None
        with progress or contextlib.nullcontext():
            job = Job(
                sources,
                self.to,
                tokenizer(self.tokenizer),
                val_sources,
                self.format,
                0.01 if self.val_fraction is None else self.val_fraction,
                self.first_shard,
                self.shard_tokens,
                workers or default_workers(here),
                part,
                progress.advance if progress else lambda size: None,
            )
            try:
                index = job.run() if here.size == 1 else run_on_ranks(job, here)
            except KeyboardInterrupt:
                if here.is_first:
                    print("Interrupted: the same command continues", file=sys.stderr)
                raise
        if index is not None:
            show_index(index, str(self.to))
        elif here.size == 1:
            print(f"part {self.part} is done; the last of {part[1]} parts writes the token files")
        return 0

    def part_of(self, here: World) -> tuple[int, int]:
        """Return the part of a rank."""
        if self.part != "1/1":
            raise InputError(
                f"--part is {self.part:.40}, but each of {here.size} ranks encodes a part of its "
                "own: leave --part out"
            )
        return here.rank + 1, here.size

    def checked(self) -> tuple[tuple[int, int], int | None]:
        """Return the part and the number of workers. Raise InputError for values out of range."""
        numbers = self.part.split("/")
        if len(numbers) != 2 or not all(n.isascii() and n.isdigit() for n in numbers):
            raise InputError(f"--part is {self.part!r:.40}, but must be I/N, such as 1/4")
        number, parts = (int(n[:9]) for n in numbers)
        if not 1 <= number <= parts <= 10_000:
            raise InputError(f"--part is {self.part:.40}, but must be from 1/N to N/N")
        for name, value in (("workers", self.workers), ("shard-tokens", self.shard_tokens)):
            if value is not None and not 1 <= value < 1 << 31:
                raise InputError(f"--{name} is {value}, but must be at least 1")
        if self.val_fraction is not None and not 0 <= self.val_fraction < 1:
            raise InputError(f"--val-fraction is {self.val_fraction}, but must be in [0, 1)")
        ways = {
            "--val": bool(self.val), "--val-fraction": self.val_fraction is not None,
            "--first-shard": self.first_shard,
        }  # fmt: skip
        if sum(ways.values()) > 1:
            given = " and ".join(name for name, used in ways.items() if used)
            raise InputError(f"{given} are two validation splits: give one of them")
        if self.first_shard and self.format != "llmc":
            raise InputError("--first-shard needs --format llmc: nanoGPT has no shards")
        return (number, parts), self.workers


def default_workers(here: World) -> int:
    """Return the number of cores that this rank may use, without those of the machine's others."""
    return min(machine.cores(), max(1, (os.cpu_count() or 1) // here.local_size))


def run_on_ranks(job: "Job", here: World) -> dict[str, Any] | None:
    """Encode a part on each rank. Return the index on the first one, which writes the files."""
    job.encode_part()
    wait_for_all(here)
    if not here.is_first:
        return None
    index = job.finish()
    if index is None:
        raise RunError(
            f"{job.directory} lacks the parts of other ranks: all machines must share it"
        )
    return index


def describe_sources(sources: Sequence["Source"], size: int) -> str:
    """Return a line about the sources: the number and `size` of files, and standard input."""
    from npgpt.data.sources import STDIN

    files = sum(source.name != STDIN for source in sources)
    parts = [f"{number_of(files, 'file')}, {size:,} bytes"] if files else []
    if files < len(sources):
        parts.append("standard input")
    return "; ".join(parts)


class Progress:
    """A progress bar on a terminal, else a line per minute."""

    def __init__(self, total: int):
        from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn

        self.total, self.done = total, 0
        columns = BarColumn(), DownloadColumn(), TimeRemainingColumn()
        self.bar = make_bar(sys.stderr, *columns, transient=True)
        self.task = self.bar.add_task("", total=total or None)
        self.started = self.shown = time.monotonic()

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def advance(self, size: int) -> None:
        """Count bytes of the sources."""
        self.done += size
        self.bar.advance(self.task, size)
        now = time.monotonic()
        if now - self.shown >= 60 and not is_live(sys.stderr):
            self.shown = now
            left = (self.total - self.done) * (now - self.started) / max(1, self.done)
            share = f"{100 * self.done / self.total:.0f} %, " if self.total else ""
            note = f"about {left / 60:.0f} minutes left" if self.total else f"{self.done:,} bytes"
            print(share + note, file=sys.stderr, flush=True)


def show_index(index: dict[str, Any], name: str) -> None:
    """Print what was written, and what was skipped."""
    from npgpt.data.token_format import describe_skipped

    for line in describe_skipped(index):
        print(line, file=sys.stderr)
    for split, found in index["splits"].items():
        units = [unit for unit in ("document", "token") if f"{unit}s" in found]
        counts = [number_of(found[f"{unit}s"], unit) for unit in units]
        print(f"{split}: {', '.join(counts)}")
    print(f"{number_of(len(index['shards']), 'file')} and index.json in {printable_line(name)}")
