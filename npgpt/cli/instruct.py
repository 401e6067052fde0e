"""npgpt instruct."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from npgpt.cli.common import announce_compilation, default, say
from npgpt.cli.finetuning_flags import (
    FineTuning,
    plot,
    print_files,
    print_resumed,
    say_cropped,
    show,
    stopped,
)
from npgpt.cli.signals import StopRequest
from npgpt.system.console import track_progress
from npgpt.system.shell import npgpt_command
from npgpt.system.streams import keep_unshown
from npgpt.system.terminal import number_of, printable_line

if TYPE_CHECKING:
    from npgpt.finetuning.instruction_tuning import InstructionTuning
    from npgpt.finetuning.instructions import Splits
    from npgpt.finetuning.output import Output
    from npgpt.finetuning.records import Record

ANSWERS = "answers.json"
SAMPLE = 50  # tokens of the answer that is printed after an epoch
CHECKPOINT = "checkpoint.h5"
CONTENTS = {
    CHECKPOINT: "the model, to generate with",
    ANSWERS: "the test entries with the model's answers",
    "metrics.jsonl": "losses",
    "loss.png": "plot of the losses",
}


@dataclass(kw_only=True)
class Instruct(FineTuning):
    """Train a model to follow instructions, as in chapter 7 of the book.

    Parameters
    ----------
    data
        Train on these instructions, inputs and outputs: a file of objects with
        these fields (.json, .jsonl) or of three columns (.csv, .tsv). The input may be empty.
    trainable
        Parameters and layers to train, by patterns of their names.
    epochs
        Passes over the training entries.
    eval_every
        Steps from one evaluation to the next.
    max_new_tokens
        Tokens of an answer, at most.
    """

    data: Annotated[str | None, default("the book's, downloaded once", "PATH")] = None
    trainable: Annotated[
        tuple[str, ...], default("all, or the adapters", "PATTERN [PATTERN ...]")
    ] = ()
    epochs: int = 2
    eval_every: int = 5
    max_new_tokens: int = 256

    contents = CONTENTS
    file = CHECKPOINT

    def run(self) -> int:
        """Train, write the model, and its answers to the test entries; return the exit status."""
        with announce_compilation(self.ops):
            return self.train()

    def train(self) -> int:
        """Train; print the losses as the book does."""
        from npgpt.finetuning import instructions
        from npgpt.model.inputs import check_integer

        unshown = keep_unshown()  # a terminal that is closed ends no run
        self.settings()  # an invalid one is found before the data is read
        check_integer("max_new_tokens", self.max_new_tokens, least=1)
        data = download() if self.data is None else str(self.data)
        entries = instructions.split(instructions.read(data))
        begin = self.start if self.resume is None else self.restart
        with begin(entries) as (task, output):
            unshown.write_to(output.log)
            if signal := self.follow(task, output, entries.val[0]):
                return stopped("instruct", signal, output.path, task.progress.step - 1)
            self.answer(task, output, entries.test)
        print_files(output.path, CONTENTS)
        prompt = instructions.format_prompt(entries.test[0])
        print("Next:", npgpt_command("generate", model=output.path, prompt=prompt))
        return 0

    @contextmanager
    def start(self, entries: "Splits") -> "Iterator[tuple[InstructionTuning, Output]]":
        """Save a new run, and yield it with its directory; print its losses."""
        from npgpt.finetuning import output as outputs
        from npgpt.finetuning.instruction_tuning import InstructionTuning

        model = self.load()
        settings = self.settings(trainable=self.patterns(model, ("*",)))
        task = InstructionTuning(model, entries, settings)
        with outputs.create(self.out, "instruct", CONTENTS) as output:
            name = printable_line(str(output.path))
            sizes = (f"{len(part):,}" for part in entries)
            print("{} training, {} validation, {} test entries;".format(*sizes), "output in", name)
            say_cropped(task.cropped, "text", task.length)
            self.save(task, output)
            losses = task.measure()
            print(f"Before training: loss {losses[0]:.3f} training, {losses[1]:.3f} validation")
            yield task, output

    @contextmanager
    def restart(self, entries: "Splits") -> "Iterator[tuple[InstructionTuning, Output]]":
        """Yield the run to resume, and its directory."""
        from npgpt.finetuning import output as outputs
        from npgpt.finetuning import resume
        from npgpt.finetuning.instruction_tuning import InstructionTuning

        with self.reopen() as (path, model, saved):
            settings = self.settings(trainable=resume.patterns_of(saved, path))
            task = InstructionTuning(model, entries, settings)
            resume.restore(task, saved, path)
            print_resumed(path.parent, task.progress.step)
            yield task, outputs.reopen(path.parent, saved.state["metrics"])

    def follow(self, task: "InstructionTuning", output: "Output", example: "Record") -> int:
        """Train; print and record each event. After an epoch, answer one entry, and save.

        Returns the number of the signal that asked to stop, or 0.
        """
        from npgpt.data.tokenizer import tokenizer_of
        from npgpt.finetuning.instruction_tuning import answers
        from npgpt.finetuning.loop import EpochEnd, Evaluation, Step

        tokenizer, per_epoch = tokenizer_of(task.model), len(task.batches[0])
        with StopRequest() as stop:
            for event in show(task.events(), task.progress.step, self.epochs * per_epoch):
                match event:
                    case Evaluation():
                        output.record(vars(event))
                    case EpochEnd():
                        self.save(task, output)
                        question = f"{example['instruction']} {example['input']}".strip()
                        (found,) = answers(task.model, tokenizer, [example], SAMPLE)
                        print(printable_line(f"{question} -> {found}"))
                    case Step() if stop.number:
                        self.save(task, output)
                        break
        plot(output.path / "loss.png", output.metrics, per_epoch * self.batch_size)
        return stop.number or 0

    def save(self, task: "InstructionTuning", output: "Output") -> None:
        """Write the model and the state of its run."""
        from npgpt.finetuning import resume
        from npgpt.weights import fine_tuning_state

        run = resume.capture(task, self.flags(), output.metrics)
        fine_tuning_state.write(output.path / CHECKPOINT, task.model, run)

    def answer(self, task: "InstructionTuning", output: "Output", test: "list[Record]") -> None:
        """Write the test entries with an answer each."""
        from npgpt.data.tokenizer import tokenizer_of
        from npgpt.finetuning.instruction_tuning import answers
        from npgpt.finetuning.instructions import format_prompt

        tokenizer, most = tokenizer_of(task.model), task.model.config.context_length
        longer = sum(len(tokenizer.encode(format_prompt(entry))) > most for entry in test)
        if longer:
            say(f"Cropped at the start, to {most:,} tokens: {number_of(longer, 'test prompt')}")
        texts = answers(task.model, tokenizer, test, self.max_new_tokens)
        found = [
            entry | {"model_response": text}
            for entry, text in zip(
                test, track_progress(texts, len(test), description="answers"), strict=True
            )
        ]
        output.write(ANSWERS, json.dumps(found, indent=4, ensure_ascii=False))


def download() -> Path:
    """Return the path of the book's instructions, which are downloaded once."""
    from npgpt.download import instructions  # here, because HTTP and TLS take time and memory

    return instructions.download_instructions()
