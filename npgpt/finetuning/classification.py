"""Training of a classifier, as in chapter 6 of the book, and its accuracy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.data.tokenizer import tokenizer_of
from npgpt.finetuning import labelled_texts, loop, resume
from npgpt.finetuning.batches import Batches, pad_token
from npgpt.finetuning.classifier import Classifier
from npgpt.finetuning.labelled_texts import Encoded, LabelledTexts
from npgpt.finetuning.loop import EpochEnd, Event, Progress, Settings
from npgpt.gpt import GPT
from npgpt.model import finite, params, trainable
from npgpt.rng import Generator
from npgpt.training.optim import AdamW
from npgpt.weights import classifier_file
from npgpt.weights.classifier_file import Head


@dataclass
class Accuracy:
    """The accuracies after an epoch."""

    step: int
    epoch: int
    train_accuracy: float
    val_accuracy: float


class Classification:
    """A classifier, its optimizer and its data: a training run, and the `Task` of loop.py.

    Parameters
    ----------
    model : GPT
        Updated in place.
    texts : LabelledTexts
        Shuffled and split into training, validation and test.
    settings : Settings
        The head is trained besides `settings.trainable`.
    position : {"last", "last-token"}
        The position that is classified.

    Attributes
    ----------
    classifier : Classifier
    batches : list of Batches
        Of the three splits.
    length : int
        The number of tokens to which a text is padded.
    cropped : int
        The number of texts that are longer.
    progress : Progress
        The position of the run.
    trained, size : int
        The number of parameters that are trained, and of all.
    """

    def __init__(
        self, model: GPT, texts: LabelledTexts, settings: Settings, position: str = "last"
    ):
        self.settings, self.ops, tokenizer = settings, model.ops, tokenizer_of(model)
        splits = labelled_texts.split(texts.examples, settings.seed)
        pad_id, longest = pad_token(tokenizer), settings.longest(model.config)
        encoded = labelled_texts.encode_splits(splits, tokenizer, pad_id=pad_id, max_length=longest)
        self.length = encoded[0].tokens.shape[1]
        self.cropped = sum(one.cropped for one in encoded)
        self.batches = [
            make_batches(one, settings.batch_size, training=i == 0) for i, one in enumerate(encoded)
        ]
        head = classifier_file.HeadSettings(texts.labels, position, self.length, pad_id)
        self.classifier = Classifier.start(model, head, self.seeded())
        tree = self.classifier.params
        self.names = trainable.names_of(tree, [*settings.trainable, "lm_head"])
        self.gradients = trainable.select(params.zeros_like(tree), self.names)
        self.optimizer = AdamW(tree, settings.lr, weight_decay=settings.weight_decay, ops=model.ops)
        self.trained, self.size = params.total(self.gradients), params.total(tree)
        self.rng, self.progress = self.seeded(), Progress()
        self.data_sha256 = resume.digest(texts)

    def load_head(self, head: Head) -> None:
        """Copy a head of the same labels, to resume a run."""
        own: Any = self.classifier.params.lm_head
        own.weight[...], own.bias[...] = head.weight, head.bias

    def seeded(self) -> Generator:
        """Return a generator at its start: the book calls manual_seed(123) before each part."""
        return Generator(self.settings.seed, ops=self.ops)

    def events(self) -> Iterator[Event | Accuracy]:
        """Train and yield the events of loop.py, and the accuracies after each epoch."""
        train, val, _ = self.batches
        for event in loop.train(self, train, val, self.rng, self.settings, self.progress):
            yield event
            if isinstance(event, EpochEnd):
                limit = self.settings.eval_batches
                found = [self.accuracy(one, self.rng, limit) for one in (train, val)]
                yield Accuracy(event.step, event.epoch, *found)

    def measure(self) -> tuple[list[float], list[float]]:
        """Return accuracies and losses of the three splits before training, on some batches."""
        rng, limit = self.seeded(), self.settings.eval_batches
        accuracies = [self.accuracy(one, rng, 2 * limit) for one in self.batches]
        return accuracies, [loop.mean_loss(self, one, rng, limit) for one in self.batches]

    @finite.ignore_overflow()
    def update(self, tokens: Array, lengths: Array, labels: Array) -> float:
        """Make one step on a batch and return the loss before it."""
        loss = self.classifier.loss_and_gradients(tokens, lengths, labels, self.gradients, self.rng)
        if np.isfinite(loss):
            self.optimizer.step(trainable.with_zeros(self.gradients, self.classifier.params))
            self.classifier.model.path = None  # an error must not blame the file
        return loss

    @finite.ignore_overflow()
    def loss(self, tokens: Array, lengths: Array, labels: Array) -> float:
        """Return the loss of a batch."""
        return self.classifier.loss(tokens, lengths, labels)

    def accuracy(self, batches: Batches, rng: Generator, limit: int | None = None) -> float:
        """Return the fraction of texts whose most likely label is the right one."""
        right = count = 0
        for tokens, lengths, labels in batches.draw(rng, limit):
            chosen = self.classifier.logits(tokens, lengths).argmax(-1)
            right += int(np.count_nonzero(chosen == labels))
            count += len(labels)
        return right / count


def last_block(model: GPT) -> tuple[str, ...]:
    """Return the patterns of what the book trains besides the head."""
    return f"h.{model.config.n_layer - 1}", "ln_f"


def make_batches(split: Encoded, batch_size: int, *, training: bool) -> Batches:
    """Return the batches of a split: token ids, lengths and labels."""

    def make(numbers: Array) -> tuple[Array, Array, Array]:
        return split.tokens[numbers], split.lengths[numbers], split.labels[numbers]

    return Batches(len(split.labels), make, batch_size, training=training)
