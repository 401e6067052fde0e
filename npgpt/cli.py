"""The command line: one dataclass per verb, its fields the flags, `run` what it does."""

import argparse
import contextlib
import dataclasses
import functools
import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Union

import tyro

from npgpt.config import PRESETS
from npgpt.errors import InputError, RunError
from npgpt.settings import VOCABULARIES, Settings, defaults

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


@dataclass(kw_only=True)
class Train:
    """Train a model on a text. The defaults are the preset's: npgpt train --preset book --help."""

    settings: tyro.conf.OmitArgPrefixes[Settings]
    out: Path | None = None
    """The folder for everything the run makes [default: runs/PRESET-1, -2, ...]."""
    resume: Path | None = None
    """Go on with the run in this folder. Only --epochs, --steps and --checkpoint-every may change,
    and --data if it is the same text."""

    def run(self) -> int:
        """The exit code."""
        from npgpt import run
        from npgpt.report import Report
        from npgpt.tokens import tokenizer

        home = self.resume and run.folder_of(self.resume)
        path = self.out or home or run.next_folder(self.settings.preset)
        folder = run.Folder(path)
        if path != home:
            folder.vacant()
        if self.resume is None:
            tokens = run.read_tokens(self.settings)
            trainer = run.start(self.settings, tokens)
        else:
            _, model, saved = run.read_saved(self.resume)
            tokens = run.read_tokens(self.settings)
            trainer = run.resume(self.settings, tokens, model, saved)
        folder.open(self.settings, tokens, trainer)

        encoding = tokenizer(self.settings.tokenizer)
        progress = trainer.progress
        with Report(trainer.total_steps, encoding, done=progress.step) as report, Stop() as stop:
            report.say(describe(trainer, tokens, path))
            try:
                interrupted = self.follow(trainer, folder, report, stop)
            except RunError as error:
                with contextlib.suppress(RunError):
                    folder.plot(trainer)
                raise RunError(f"{error}{kept(path)}") from None
        folder.plot(trainer)
        if interrupted:
            print(f"Stopped after step {progress.step - 1}; everything is saved in {path}")
            print(f"Go on with: npgpt train --resume {path}")
            return INTERRUPTED
        for name, what in run.CONTENTS.items():
            print(f"{path / name!s:<32} {what}")
        print(
            f'Go on with: npgpt generate --model {path} --prompt "{self.settings.training.prompt}"'
        )
        return 0

    def follow(self, trainer, folder, report, stop) -> bool:
        """Trains to the end, or to the step in which somebody pressed Ctrl-C (then True)."""
        from npgpt.train import Evaluation, Sample, Step

        every, saved_at = self.settings.training.checkpoint_every, None
        for event in trainer.events():
            report.show(event)
            match event:
                case Evaluation():
                    folder.add_evaluation(event)
                case Sample():
                    folder.add_sample(event)
                case Step(step=step, ends_epoch=ends_epoch):
                    due = (step + 1) % every == 0 if every else ends_epoch
                    if due or stop.asked:
                        folder.save(trainer)
                        saved_at = step
                    if stop.asked:
                        return True
        if saved_at != trainer.progress.step - 1 and trainer.progress.step:
            folder.save(trainer)
        return False


@dataclass(kw_only=True)
class Generate:
    """Continue a prompt with a trained model."""

    prompt: str
    """The text to go on from."""
    model: Path | None = None
    """A run's folder or a checkpoint [default: the newest under ./runs]."""
    max_new_tokens: int = 200
    """How many tokens to add, unless the text ends before."""
    temperature: float = 0.8
    """0 always takes the likeliest token; higher is bolder."""
    top_k: int | None = None
    """Choose among the k likeliest tokens only."""
    top_p: float | None = None
    """Choose among the likeliest tokens that together have this probability."""
    seed: int = 123
    """The same seed gives the same text."""
    num_samples: int = 1
    """How many continuations, made side by side."""

    def run(self) -> int:
        """The exit code."""
        import numpy as np

        from npgpt.generation import TextStream, generate
        from npgpt.rng import Generator
        from npgpt.tokens import encode, tokenizer

        if self.num_samples < 1:
            raise InputError(f"num_samples is {self.num_samples}, but has to be at least 1")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed is {self.seed}, but has to be in [0, 2**64)")
        model = load(self.model)
        encoding = tokenizer(model.tokenizer or "gpt2")
        prompt = encode(encoding, self.prompt)
        steps = generate(
            model,
            np.tile(np.asarray(prompt, np.int64), (self.num_samples, 1)),
            self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            eos_id=encoding.eot_token,
            rng=Generator(self.seed, ops=model.ops),
        )
        texts = [self.prompt] * self.num_samples
        streams = [TextStream(encoding) for _ in texts]
        show = texts[0] if self.num_samples == 1 else ""
        print(show, end="", flush=True)
        started, count, ended = time.perf_counter(), 0, np.zeros(self.num_samples, bool)
        for ids in watched(steps, self.max_new_tokens, quiet=self.num_samples == 1):
            ended |= ids == encoding.eot_token
            count += 1
            for i in np.flatnonzero(~ended):
                texts[i] += (piece := streams[i].feed(ids[i]))
                if self.num_samples == 1:
                    print(piece, end="", flush=True)
        tails = [stream.end() for stream in streams]
        if self.num_samples == 1:
            print(tails[0])
        else:
            for i, (text, tail) in enumerate(zip(texts, tails, strict=True), 1):
                print(f"--- sample {i} of {self.num_samples}\n{text}{tail}")
        if sys.stderr.isatty() and count:
            rate = count * self.num_samples / (time.perf_counter() - started)
            print(f"[{count * self.num_samples} tokens, {rate:,.1f} a second]", file=sys.stderr)
        return 0


@dataclass(kw_only=True)
class Evaluate:
    """Loss and perplexity of a text: how surprised the model is by it."""

    data: str
    """"bundled", "verdict", a text file, or a folder of .txt files."""
    model: Path | None = None
    """A run's folder or a checkpoint [default: the newest under ./runs]."""
    batch_size: int = 2
    """Windows read at once: changes time and memory, not the result."""

    def run(self) -> int:
        """The exit code."""
        from npgpt import evaluate
        from npgpt.data import text
        from npgpt.report import perplexity

        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}, but has to be at least 1")
        model = load(self.model)
        tokens = evaluate.tokens_of(model, text.read(self.data))
        batches = evaluate.batches(tokens, model.config.context_length, self.batch_size)
        total = count = 0
        for inputs, targets in watched(batches, len(batches)):
            total += float(model.evaluate(inputs, targets)) * targets.size
            count += targets.size
        loss = total / count
        print(f"loss {loss:.4f} nats per token, perplexity {perplexity(loss):.2f}")
        print(f"over {count:,} tokens ({model.tokenizer or 'gpt2'}) in windows of "
              f"{model.config.context_length}")  # fmt: skip
        return 0


@dataclass(kw_only=True)
class Plot:
    """Draw the loss curves of one run, or of several in one picture."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    out: Path | None = None
    """The picture, a PNG [default: loss.png in the folder of one run, or in this folder]."""

    def run(self) -> int:
        """The exit code."""
        from npgpt.report import plot
        from npgpt.run import read_curve

        if not self.runs:
            raise InputError("name at least one folder of a run, for example runs/tiny-1")
        home = self.runs[0] if len(self.runs) == 1 else Path()
        out = self.out or home / "loss.png"
        curves = [read_curve(path) for path in self.runs]
        try:
            plot(curves, out)
        except OSError as error:
            raise RunError(f"{out} could not be written: {error.strerror}") from None
        print(out)
        return 0


@dataclass(kw_only=True)
class Book:
    """Does this machine print the book's numbers? Chapter 5, rung by rung; see docs/book.md."""

    data: str = "verdict"
    """The Verdict: "verdict" fetches it once, or the path of the file."""
    steps: int = 16
    """How far to walk the training log; all of it is 90 steps."""
    ops: Literal["fused", "numpy"] = "fused"
    """The shelf that computes."""

    def run(self) -> int:
        """Prints the ladder as it goes; 1 where a rung does not hold."""
        from rich.console import Console
        from rich.progress import Progress

        from npgpt.book import Rung, climb

        if self.steps < 1:
            raise InputError(f"steps is {self.steps}, but has to be at least 1")
        columns = "{:<27} {:<25} {:<25} {:<10} {}"
        failed = None
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            print(columns.format("rung", "the book", "here", "difference", ""), flush=True)
            task = bar.add_task("walking", total=self.steps)
            for seen in climb(self.data, self.steps, ops=self.ops):
                if not isinstance(seen, Rung):
                    bar.advance(task)
                    continue
                failed = failed or (None if seen.holds else seen.what)
                word, gap = "ok" if seen.holds else "DIFFERS", f"{seen.difference:.1e}"
                line = columns.format(seen.what, seen.expected, seen.got, gap, word)
                print(line, flush=True)
        if failed is not None:
            print(f"\nThe first rung that differs: {failed}. docs/book.md says what that means.")
            return 1
        print("\nEvery rung holds: this machine prints the book's numbers.")
        return 0


@dataclass(kw_only=True)
class Info:
    """What npgpt runs on: versions, BLAS, threads, CPU, memory; and what will make it slow."""

    def run(self) -> int:
        """The exit code."""
        from npgpt import info

        found = info.gather()
        width = max(map(len, found.facts))
        for name, value in found.facts.items():
            print(f"{name:<{width}}  {value}")
        for warning in found.warnings:
            print(f"warning: {warning}")
        return 0


VERBS = {"train": Train, "generate": Generate, "evaluate": Evaluate, "plot": Plot, "book": Book,
         "info": Info}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Runs one command. Returns the exit code: 1 for what failed, 2 for what was asked wrongly."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a text may have what a terminal cannot show
    try:
        return parse(arguments).run()
    except InputError as error:
        return fail(error, 2)
    except RunError as error:
        return fail(error, 1)
    except MemoryError as error:
        return fail(f"not enough memory: {error or 'smaller numbers need less'}", 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough: npgpt generate | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def fail(error: Exception | str, code: int) -> int:
    """The one line that a person sees of an error; the exit code."""
    print(f"npgpt: {error}", file=sys.stderr)
    return code


def parse(arguments: Sequence[str]):
    """The command that the arguments ask for."""
    before = train_defaults(arguments)
    kinds = []
    for name, kind in VERBS.items():
        default = {"default": Train(settings=before)} if kind is Train else {}
        kinds.append(Annotated[kind, tyro.conf.subcommand(name, **default)])
    ask = functools.partial(
        tyro.cli,
        Union[tuple(kinds)],  # noqa: UP007 (made at run time)
        prog="npgpt",
        description="GPT-2 with every gradient written out: NumPy to read, Numba to run.",
        args=arguments,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    command = in_one_line(ask)
    if isinstance(command, Train):
        check_flags(command, before)
    return command


def in_one_line(ask):
    """`ask()`; an InputError out of it comes as such, not as the box that tyro draws around it."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return ask()
    except SystemExit as leaving:
        if not leaving.code:
            raise
        behind = leaving.__context__
        while behind is not None:
            if isinstance(behind, InputError):
                raise behind from None
            behind = behind.__context__
    return ask()  # again, for tyro to say what is wrong, in colour where there are colours


def train_defaults(arguments: Sequence[str]) -> Settings:
    """The settings of a preset, of a run to resume, or of weights to start from."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--preset", "--tokenizer", "--resume", "--init-from", "--init_from"):
        first.add_argument(flag)
    with contextlib.suppress(argparse.ArgumentError):
        known, _ = first.parse_known_args(arguments[1:] if arguments[:1] == ["train"] else [])
        if known.resume is not None:
            from npgpt import run

            return run.read_settings(Path(known.resume))
        if known.preset in (None, *PRESETS) and known.tokenizer in (None, *VOCABULARIES):
            settings = defaults(known.preset or "tiny", tokenizer_name=known.tokenizer)
            if known.init_from is not None:
                settings = take_over(settings, Path(known.init_from))
            return settings
    return defaults("tiny")  # the real parser will say what is wrong


def take_over(settings: Settings, path: Path) -> Settings:
    """The settings with the shape, and the tokenizer, of the weights in a checkpoint."""
    from npgpt import run
    from npgpt.weights import checkpoint

    config, dtype, tokenizer = checkpoint.read_shape(run.file_of(path))
    config = dataclasses.replace(config, dropout=settings.config.dropout)
    return dataclasses.replace(
        settings, config=config, tokenizer=tokenizer or "gpt2", dtype=dtype.name
    )


def check_flags(command: Train, before: Settings) -> None:
    """Raises InputError for a flag that contradicts the run to resume or the given weights."""
    saved, asked = flat(before), flat(command.settings)
    if command.resume is not None:
        way, source = "resume", command.resume
        free = {"epochs", "steps", "checkpoint_every", "data"}  # a text's tokens are compared later
    elif command.settings.init_from is not None:
        way, source = "init-from", command.settings.init_from
        free = saved.keys() - {"vocab_size", "n_layer", "n_head", "n_embd", "context_length",
                               "qkv_bias", "tied", "tokenizer", "dtype"}  # fmt: skip
    else:
        return
    for name, value in asked.items():
        if name not in free and value != saved[name]:
            raise InputError(
                f"--{name.replace('_', '-')} {value} does not fit: {source} was made with "
                f"{saved[name]}. Leave the flag out, or begin anew without --{way}"
            )


def flat(settings: Settings) -> dict:
    """All settings side by side, by the names of their flags."""
    both = dataclasses.asdict(settings.config) | dataclasses.asdict(settings.training)
    return {k: v for k, v in vars(settings).items() if k not in ("config", "training")} | both


class Stop:
    """`with Stop() as stop`: the first Ctrl-C sets `stop.asked`, the second interrupts."""

    asked = False

    def __enter__(self):
        self.before = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def ask(self, number, frame):
        """What a signal does."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nFinishing this step, then saving ...", file=sys.stderr)

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def load(path: Path | None):
    """The model at `path`, or the newest under ./runs."""
    from npgpt import gpt, run

    return gpt.load(run.file_of(run.latest() if path is None else path))


def describe(trainer, tokens, path: Path) -> str:
    """The first line of a run."""
    model, c = trainer.model, trainer.model.config
    return (
        f"{model.size:,} parameters ({c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, "
        f"context {c.context_length}), {len(tokens.train):,} tokens to train on, "
        f"{len(tokens.val):,} to validate, {trainer.total_steps} steps -> {path}"
    )


def kept(path: Path) -> str:
    """Where what a failed run has made so far is to be found."""
    from npgpt import run

    where = path / run.CHECKPOINT
    return f". The last good checkpoint is {where}" if where.exists() else ""


def watched(items, total: int, *, quiet: bool = False):
    """`items`, with a bar and the time left on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        return items
    return track(items, total=total, console=console, description="", transient=True)
