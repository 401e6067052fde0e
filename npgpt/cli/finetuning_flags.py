"""The flags of npgpt classify and npgpt instruct, and the output of their runs."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from npgpt.cli.common import ModelPath, OptionalTokenizer, default, model_path, say
from npgpt.cli.train_flags import Targets
from npgpt.errors import InputError, RunError
from npgpt.system.console import make_bar
from npgpt.system.terminal import MAX_ERROR, number_of, printable_line

if TYPE_CHECKING:
    from npgpt.gpt import GPT

Event = TypeVar("Event")


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

    def load(self) -> "GPT":
        """Return the model to train, with dropout and adapters. Compile the kernels of training."""
        from npgpt.gpt import GPT
        from npgpt.loading import load
        from npgpt.performance import precompile

        path = model_path(self.model)
        found = load(path, ops=self.ops, tokenizer=self.tokenizer)
        config = dataclasses.replace(found.config, dropout=self.dropout)
        model = GPT.from_params(config, found.params, ops=found.ops, tokenizer=found.tokenizer)
        model.path = path
        if self.lora_rank is not None:
            model.add_lora(self.lora_rank, self.lora_alpha, self.lora_targets, seed=self.seed)
        if self.ops == "fused":
            precompile.compile_kernels("train", model.dtype.name, None, self.dropout, "adamw")
        return model

    def patterns(self, model: "GPT", others: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names to train: those of the flag, and of the adapters. `others`: if none."""
        adapters = model.trainable if model.adapters else ()
        return (*self.trainable, *adapters) or others

    def settings(self, **others: Any) -> Any:
        """Return the flags as the `Settings` of a run."""
        from npgpt.finetuning.loop import Settings

        if self.lora_rank is None and (self.lora_alpha, self.lora_targets) != (None, ("c_attn",)):
            raise InputError("--lora-alpha and --lora-targets are for --lora-rank: give it, too")
        names = {field.name for field in dataclasses.fields(Settings)}
        return Settings(**{k: v for k, v in (vars(self) | others).items() if k in names})


def show(events: Iterable[Event], total: int) -> Iterator[Event]:
    """Yield the events; print an evaluation as the book does, and show a bar on a terminal."""
    from npgpt.finetuning.loop import Evaluation, Step

    with make_bar(sys.stderr, transient=True) as bar:
        task = bar.add_task("training", total=total)
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


def print_files(path: Path, contents: dict[str, str]) -> None:
    """Print the files of a run and what they hold."""
    files = {printable_line(str(path / name)): text for name, text in contents.items()}
    width = max(map(len, files))
    for name, text in files.items():
        print(f"{name:<{width}}  {text}")
