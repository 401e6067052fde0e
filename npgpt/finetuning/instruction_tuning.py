"""Training on instructions, as in chapter 7 of the book, and answers."""

from collections.abc import Iterable, Iterator

import numpy as np

from npgpt.arrays import Array
from npgpt.data.prompts import Prompt
from npgpt.data.tokenizer import Tokenizer, tokenizer_of
from npgpt.finetuning import instructions, loop, resume
from npgpt.finetuning.batches import Batches, pad_token
from npgpt.finetuning.instructions import ANSWER, Splits, collate, format_prompt
from npgpt.finetuning.loop import Event, Progress, Settings
from npgpt.finetuning.records import Record
from npgpt.gpt import GPT
from npgpt.inference.bulk import Options, continue_prompts
from npgpt.model import finite, trainable
from npgpt.rng import Generator
from npgpt.training.optim import AdamW


class InstructionTuning:
    """A model, its optimizer and its data: a training run, and the `Task` of loop.py.

    Parameters
    ----------
    model : GPT
        Updated in place.
    entries : Splits
        The entries of the three splits.
    settings : Settings

    Attributes
    ----------
    batches : list of Batches
        Of the training and the validation split.
    progress : Progress
        The position of the run.
    length, cropped : int
        The largest number of tokens of an entry, and the number of entries that are longer.
    """

    def __init__(self, model: GPT, entries: Splits, settings: Settings):
        self.model, self.settings, tokenizer = model, settings, tokenizer_of(model)
        pad_id, longest = pad_token(tokenizer), settings.longest(model.config)
        rows = [instructions.encode(part, tokenizer) for part in (entries.train, entries.val)]
        self.length = longest
        self.cropped = sum(len(row) > longest for part in rows for row in part)
        self.batches = [
            make_batches(part, pad_id, longest, settings.batch_size, training=i == 0)
            for i, part in enumerate(rows)
        ]
        model.set_trainable(*settings.trainable)
        self.optimizer = AdamW(
            model.params, settings.lr, weight_decay=settings.weight_decay, ops=model.ops
        )
        self.names = trainable.names_of(model.params, settings.trainable)
        self.rng, self.progress = self.seeded(), Progress()
        self.data_sha256 = resume.digest(entries)

    def seeded(self) -> Generator:
        """Return a generator at its start: the book calls manual_seed(123) before each part."""
        return Generator(self.settings.seed, ops=self.model.ops)

    def events(self) -> Iterator[Event]:
        """Train and yield the events of loop.py."""
        train, val = self.batches
        return loop.train(self, train, val, self.rng, self.settings, self.progress)

    def measure(self) -> list[float]:
        """Return the losses of the two splits before training, on some batches."""
        rng, limit = self.seeded(), self.settings.eval_batches
        return [loop.mean_loss(self, one, rng, limit) for one in self.batches]

    @finite.ignore_overflow()
    def update(self, inputs: Array, targets: Array) -> float:
        """Make one step on a batch and return the loss before it."""
        loss, gradients = self.model.loss_and_gradients(inputs, targets, self.rng)
        if np.isfinite(loss):
            self.optimizer.step(gradients)
            self.model.path = None  # an error must not blame the file
        return loss

    @finite.ignore_overflow()
    def loss(self, inputs: Array, targets: Array) -> float:
        """Return the loss of a batch."""
        return self.model.evaluate(inputs, targets)


def make_batches(
    rows: list[list[int]], pad_id: int, max_length: int, batch_size: int, *, training: bool
) -> Batches:
    """Return the batches of a split: inputs and targets, each padded to its longest text."""

    def make(numbers: Array) -> tuple[Array, Array]:
        return collate([rows[i] for i in numbers], pad_id, max_length)

    return Batches(len(rows), make, batch_size, training=training)


def answers(
    model: GPT, tokenizer: Tokenizer, entries: Iterable[Record], max_new_tokens: int
) -> Iterator[str]:
    """Yield the answer to each instruction, generated greedily up to the end of the text."""
    prompts = (
        Prompt(format_prompt(entry), f"entry {number}") for number, entry in enumerate(entries, 1)
    )
    options = Options(max_new_tokens=max_new_tokens)
    for found in continue_prompts(model, tokenizer, prompts, options):
        yield found.text.replace(ANSWER, "").strip()
