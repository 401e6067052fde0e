"""The flags of npgpt classify and npgpt instruct, and the output of their runs."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from npgpt.cli.common import ModelPath, OptionalTokenizer, default, model_path, say
from npgpt.cli.signals import status_of
from npgpt.cli.train_flags import Targets
from npgpt.errors import InputError, RunError, WeightFileError
from npgpt.system.console import make_bar
from npgpt.system.shell import npgpt_command
from npgpt.system.terminal import MAX_ERROR, number_of, printable_line

if TYPE_CHECKING:
    from npgpt.gpt import GPT
    from npgpt.weights.fine_tuning_state import RunState

Event = TypeVar("Event")
NOT_STORED = "model", "tokenizer", "out", "resume", "predict"
CHANGEABLE = "epochs", "data"  # in a run that is resumed; its texts are compared


@dataclass(kw_only=True)
class FineTuning:
    """Fine-tuning.

    Parameters
    ----------
    model
        A run directory, weights in any supported format, or gpt2-small to gpt2-xl once downloaded.
    tokenizer
        "byte", "gpt2", or the path of a tokenizer.json, of its directory, or of a model. Needed if
        the tokenizer is neither recorded with the model nor beside the weights.
    out
        Directory for the files of the run.
    resume
        Resume the run in this directory, bit for bit, with the flags it was started with. Of these,
        only --epochs may be another.
    eval_batches
        Batches of each split in an evaluation, at most.
    batch_size
        Texts per step.
    lr
        Learning rate of AdamW.
    weight_decay
        Weight decay of AdamW, on all parameters that are trained.
    dropout
        Probability of dropout. The book uses none here.
    lora_rank
        Rank of low-rank adapters (LoRA), which are trained in place of the matrices.
    lora_alpha
        The product of an adapter's two matrices is scaled by alpha / rank.
    lora_targets
        Layers with an adapter, in every block: c_attn, attn, mlp.c_fc, or "*" for all four.
    max_length
        Tokens of a text, at most. Longer texts are cropped.
    seed
        Seed of the order of the texts, and of all else that is drawn.
    ops
        Backend: compiled Numba kernels, or plain NumPy.
    """

    model: ModelPath = None
    tokenizer: OptionalTokenizer = None
    out: Annotated[
        Path | None, default("runs/classify-1 or runs/instruct-1, then -2, ...", "PATH")
    ] = None
    resume: Annotated[Path | None, default("a new run", "PATH")] = None
    eval_batches: int = 5
    batch_size: int = 8
    lr: float = 5e-5
    weight_decay: float = 0.1
    dropout: float = 0.0
    lora_rank: Annotated[int | None, default("no adapters", "INT")] = None
    lora_alpha: Annotated[float | None, default("the rank", "FLOAT")] = None
    lora_targets: Targets = ("c_attn",)
    max_length: Annotated[int | None, default("the model's context length", "INT")] = None
    seed: int = 123
    trainable: tuple[str, ...] = ()
    ops: Literal["fused", "numpy"] = "fused"

    # no fields: the files of a run, and the name of the model's, from which it is resumed
    contents: ClassVar[dict[str, str]] = {}
    file: ClassVar[str] = ""

    def load(self) -> "GPT":
        """Return the model to train, with dropout and adapters. Compile the kernels of training."""
        from npgpt.gpt import GPT
        from npgpt.loading import load
        from npgpt.model import finite

        path = model_path(self.model)
        found = load(path, ops=self.ops, tokenizer=self.tokenizer)
        config = dataclasses.replace(found.config, dropout=self.dropout)
        model = GPT.from_params(config, found.params, ops=found.ops, tokenizer=found.tokenizer)
        model.path = path
        finite.check_trainable(model.params, path)
        if self.lora_rank is not None:
            model.add_lora(self.lora_rank, self.lora_alpha, self.lora_targets, seed=self.seed)
        self.compile(model)
        return model

    def flags(self) -> dict[str, Any]:
        """Return the flags that `resume` restores, as JSON values."""
        found = {name: value for name, value in vars(self).items() if name not in NOT_STORED}
        data = found["data"]
        return found | {"data": os.path.abspath(data) if data and os.path.lexists(data) else data}

    @contextmanager
    def reopen(self) -> "Iterator[tuple[Path, GPT, RunState]]":
        """Lock the run to resume, and yield its file, its model and its state.

        Raises InputError for a flag that is not what the run was started with, and RunError if
        another process holds the lock.
        """
        from npgpt.gpt import GPT
        from npgpt.training.run_dir import lock_run
        from npgpt.weights import fine_tuning_state

        assert self.resume is not None
        path = run_file(self.resume, self.file)
        with lock_run(path.parent, lambda name: name in self.contents):
            stored, saved = fine_tuning_state.read(path)
            before = restored(type(self), path, saved.state)
            before |= {name: None for name in ("model", "tokenizer", "out")}
            for name, value in before.items():
                if getattr(self, name) != value and name not in CHANGEABLE:
                    raise InputError(
                        f"--{name.replace('_', '-')} does not fit: the run in {path.parent} has "
                        "its own. Leave the flag out, or start a new run without --resume"
                    )
            config, tree, tokenizer = stored
            model = GPT.from_params(config, tree, ops=self.ops, tokenizer=tokenizer)
            model.path = path
            self.compile(model)
            yield path, model, saved

    def compile(self, model: "GPT") -> None:
        """Compile the kernels of training."""
        from npgpt.performance import precompile

        if self.ops == "fused":
            precompile.compile_kernels("fine-tune", model.dtype.name, None, self.dropout)

    def patterns(self, model: "GPT", others: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names to train: those of the flag, and of the adapters. `others`: if none."""
        adapters = model.trainable if model.adapters else ()
        return (*self.trainable, *adapters) or others

    def settings(self, **others: Any) -> Any:
        """Return the flags as the `Settings` of a run."""
        from npgpt.finetuning.loop import Settings

        if self.lora_rank is None and (self.lora_alpha, self.lora_targets) != (None, ("c_attn",)):
            raise InputError("--lora-alpha and --lora-targets are for --lora-rank: give it, too")
        names = {field.name for field in fields(Settings)}
        return Settings(**{k: v for k, v in (vars(self) | others).items() if k in names})


def run_file(path: Path, name: str) -> Path:
    """Return the file of the run in a directory. Raises InputError if it has none."""
    file = path / name if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"{path} has no {name}, which is written when a run starts: there is none to resume"
        )
    return file


def restored(kind: type[FineTuning], path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Return the flags in the state of a run. Raises WeightFileError if they are of no such run."""
    flags, known = state.get("flags"), {field.name for field in fields(kind)}
    if not isinstance(flags, dict) or flags.keys() != known - {*NOT_STORED}:
        raise WeightFileError(f"{path} has no run of npgpt {kind.__name__.lower()}")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in flags.items()}


def flags_of_run(kind: type[FineTuning], arguments: Sequence[str]) -> FineTuning | None:
    """Return the flags of the run to resume, which are the defaults; None without --resume."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--resume", type=Path)
    try:
        path = first.parse_known_args(arguments)[0].resume
    except argparse.ArgumentError:  # the real parser reports the mistake
        return None
    if path is None:
        return None
    from npgpt.weights import fine_tuning_state

    file = run_file(path, kind.file)
    return kind(**restored(kind, file, fine_tuning_state.read_state(file)))


def show(events: Iterable[Event], done: int, total: int) -> Iterator[Event]:
    """Yield the events; print an evaluation as the book does, and show a bar on a terminal."""
    from npgpt.finetuning.loop import Evaluation, Step

    with make_bar(sys.stderr, transient=True) as bar:
        task = bar.add_task("training", completed=done, total=total)
        for event in events:
            if isinstance(event, Step):
                bar.advance(task)
            elif isinstance(event, Evaluation):
                print(
                    f"Ep {event.epoch} (Step {event.step:06d}): Train loss {event.train_loss:.3f}, "
                    f"Val loss {event.val_loss:.3f}",
                    flush=True,
                )
            yield event


def say_cropped(count: int, what: str, length: int) -> None:
    """Say how many texts have lost their ends, if any."""
    if count:
        say(f"Cropped after {number_of(length, 'token')}: {number_of(count, what)}")


def plot(path: Path, *curves: Any) -> None:
    """Write the curves. A failure is printed, and costs no run."""
    from npgpt.finetuning import curves as drawing

    try:
        drawing.plot(path, *curves)
    except RunError as error:
        print(printable_line(f"npgpt: {error}", MAX_ERROR), file=sys.stderr)


def print_resumed(path: Path, steps: int) -> None:
    """Say where a run continues, after a number of steps."""
    where = f"after step {steps - 1}" if steps else "from its start"
    print(f"Resuming {printable_line(str(path))} {where}")


def stopped(kind: str, signal: int, path: Path, step: int) -> int:
    """Say how a run that a signal has stopped is resumed; return the exit status."""
    print(f"Stopped after step {step}; the run is saved in {printable_line(str(path))}")
    print("Resume with:", npgpt_command(kind, resume=path))
    return status_of(signal)


def print_files(path: Path, contents: dict[str, str]) -> None:
    """Print the files of a run and what they hold."""
    files = {printable_line(str(path / name)): text for name, text in contents.items()}
    width = max(map(len, files))
    for name, text in files.items():
        print(f"{name:<{width}}  {text}")
