"""npgpt classify."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from npgpt.cli.common import announce_compilation, default
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
from npgpt.errors import InputError
from npgpt.system.shell import npgpt_command
from npgpt.system.streams import keep_unshown
from npgpt.system.terminal import printable_line

if TYPE_CHECKING:
    from npgpt.finetuning.classification import Classification
    from npgpt.finetuning.labelled_texts import LabelledTexts
    from npgpt.finetuning.output import Output

CLASSIFIER = "classifier.h5"
CONTENTS = {
    CLASSIFIER: "the model and its head, to classify texts",
    "metrics.jsonl": "losses and accuracies",
    "loss.png": "plot of both",
}
SPLITS = "training", "validation", "test"


@dataclass(kw_only=True)
class Classify(FineTuning):
    """Train a classifier of texts, as in chapter 6 of the book, or classify texts with one.

    Parameters
    ----------
    data
        Train on these texts: "spam", the SMS Spam Collection (downloaded once), or a file with a
        label and a text in each row (.tsv, .csv) or object (.json, .jsonl: "label" and "text").
    predict
        Classify this text with --model, the directory of a classifier. Repeat the flag for several.
    trainable
        Parameters and layers to train, by patterns of their names. The head is always trained.
    position
        The position that is classified: the last one, which is padding in most texts, or that of
        the text's last token.
    balance
        Draw as many texts of each label as the rarest has.
    epochs
        Passes over the training texts.
    eval_every
        Steps from one evaluation to the next.
    """

    data: Annotated[str | None, default("none", "DATA")] = None
    predict: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="TEXT")
    ] = ()
    trainable: Annotated[
        tuple[str, ...],
        default("the last block and ln_f, or the adapters", "PATTERN [PATTERN ...]"),
    ] = ()
    position: Literal["last", "last-token"] = "last"
    balance: bool = True
    epochs: int = 5
    eval_every: int = 50

    contents = CONTENTS
    file = CLASSIFIER

    def run(self) -> int:
        """Train, or print the label of each text; return the exit status."""
        if (self.data is None) == (not self.predict) or (self.resume and self.predict):
            raise InputError("give --data to train a classifier, or --predict TEXT to use one")
        with announce_compilation(self.ops):
            return self.classify() if self.predict else self.train()

    def classify(self) -> int:
        """Print the label of each text, its probability, and the text."""
        from npgpt.finetuning.classifier import Classifier

        if self.model is None:
            raise InputError("give --model, the directory of a classifier")
        path = self.model / CLASSIFIER if self.model.is_dir() else self.model
        classifier = Classifier.load(path, ops=self.ops)
        found, length = classifier.classify(self.predict), classifier.settings.max_length
        longer = sum(len(row) > length for row in classifier.encode(self.predict))
        say_cropped(longer, "text", length)
        for text, (label, chance) in zip(self.predict, found, strict=True):
            print(printable_line(f"{label}  {chance:.2%}  {text}"))
        return 0

    def train(self) -> int:
        """Train and write a classifier; print its losses and accuracies as the book does."""
        unshown = keep_unshown()  # a terminal that is closed ends no run
        self.settings()  # an invalid one is found before the data is read
        texts = self.read()
        begin = self.start if self.resume is None else self.restart
        with begin(texts) as (task, output):
            unshown.write_to(output.log)
            if signal := self.follow(task, output):
                return stopped("classify", signal, output.path, task.progress.step - 1)
            final = [task.accuracy(one, task.rng) for one in task.batches]
            output.record({"accuracy": dict(zip(SPLITS, final, strict=True))})
        print(f"After training, on all texts: accuracy {percentages(final)}")
        print_files(output.path, CONTENTS)
        example = min((one.text for one in texts.examples), key=len)
        print("Next:", npgpt_command("classify", model=output.path, predict=example))
        return 0

    @contextmanager
    def start(self, texts: "LabelledTexts") -> "Iterator[tuple[Classification, Output]]":
        """Save a new run, and yield it with its directory; print its accuracies and losses."""
        from npgpt.finetuning import output as outputs
        from npgpt.finetuning.classification import Classification, last_block

        model = self.load()
        trainable = self.patterns(model, last_block(model))
        task = Classification(model, texts, self.settings(trainable=trainable), self.position)
        sizes = [f"{one.count:,} {name}" for one, name in zip(task.batches, SPLITS, strict=True)]
        print(f"{', '.join(sizes)} texts of at most {task.length} tokens")
        say_cropped(task.cropped, "text", task.length)
        with outputs.create(self.out, "classify", CONTENTS) as output:
            name = printable_line(str(output.path))
            print(f"{task.trained:,} of {task.size:,} parameters are trained; output in {name}")
            self.save(task, output)
            accuracies, losses = task.measure()
            shown = ", ".join(f"{loss:.3f}" for loss in losses)
            print(f"Before training: accuracy {percentages(accuracies)}; loss {shown}")
            yield task, output

    @contextmanager
    def restart(self, texts: "LabelledTexts") -> "Iterator[tuple[Classification, Output]]":
        """Yield the run to resume, and its directory."""
        from npgpt.finetuning import output as outputs
        from npgpt.finetuning import resume
        from npgpt.finetuning.classification import Classification
        from npgpt.weights import classifier_file

        with self.reopen() as (path, model, saved):
            settings = self.settings(trainable=resume.patterns_of(saved, path))
            task = Classification(model, texts, settings, self.position)
            resume.restore(task, saved, path)
            task.load_head(classifier_file.read(path)[1])
            print_resumed(path.parent, task.progress.step)
            yield task, outputs.reopen(path.parent, saved.state["metrics"])

    def read(self) -> "LabelledTexts":
        """Return the texts to train on. Print the number of each label."""
        from npgpt.finetuning import labelled_texts

        data = str(self.data)
        if data == "spam":
            from npgpt.download import spam  # here, because HTTP and TLS take time and memory

            data = str(spam.download_spam())
        texts = labelled_texts.read(data)
        counts = [f"{n:,} {label}" for label, n in zip(texts.labels, texts.counts(), strict=True)]
        used = ""
        if self.balance:
            texts = labelled_texts.balance(texts, self.seed)
            used = f"; {texts.counts()[0]:,} of each are used"
        print(printable_line(f"{', '.join(counts):.200}{used}"))
        return texts

    def follow(self, task: "Classification", output: "Output") -> int:
        """Train; print and record each event, and write the classifier after each epoch.

        Returns the number of the signal that asked to stop, or 0.
        """
        from npgpt.finetuning.classification import Accuracy
        from npgpt.finetuning.loop import EpochEnd, Evaluation, Step

        per_epoch = len(task.batches[0])
        with StopRequest() as stop:
            for event in show(task.events(), task.progress.step, self.epochs * per_epoch):
                match event:
                    case Evaluation():
                        output.record(vars(event))
                    case Accuracy():
                        output.record(vars(event))
                        print(
                            f"Training accuracy: {event.train_accuracy:.2%} | "
                            f"Validation accuracy: {event.val_accuracy:.2%}"
                        )
                    case EpochEnd():
                        self.save(task, output)
                    case Step() if stop.number:
                        self.save(task, output)
                        break
        plot(output.path / "loss.png", output.metrics, per_epoch * self.batch_size)
        return stop.number or 0

    def save(self, task: "Classification", output: "Output") -> None:
        """Write the classifier and the state of its run."""
        from npgpt.finetuning import resume

        run = resume.capture(task, self.flags(), output.metrics)
        task.classifier.save(output.path / CLASSIFIER, run)


def percentages(values: Sequence[float]) -> str:
    """Return the values of the three splits."""
    return ", ".join(f"{value:.2%} {name}" for value, name in zip(values, SPLITS, strict=True))
