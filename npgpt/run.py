"""A run: begun from its settings or gone on with, and the folder that holds what came of it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import Config, Training
from npgpt.data import text
from npgpt.errors import InputError, RunError
from npgpt.files import replacing
from npgpt.gpt import GPT
from npgpt.params import named
from npgpt.report import Curve, plot
from npgpt.rng import Generator
from npgpt.settings import Settings
from npgpt.tokens import decode, encode, tokenizer
from npgpt.train import Evaluation, Progress, Sample, Trainer
from npgpt.weights import checkpoint

CHECKPOINT = "checkpoint.h5"
CONTENTS = {
    "config.json": "the settings",
    "metrics.jsonl": "losses, one object per evaluation",
    "samples.txt": "the text after every epoch",
    "loss.png": "both losses as a picture",
    CHECKPOINT: "the model, and all it takes to go on",
}


def shelf(name: str):
    """The module that computes: "fused" is npgpt.fused, "numpy" is npgpt.ops."""
    from npgpt import fused, ops

    return {"fused": fused, "numpy": ops}[name]


@dataclass
class Tokens:
    """A text, encoded and split."""

    train: np.ndarray  # (N,) int64
    val: np.ndarray
    sha256: str  # of both, so that a run is only resumed on the text it saw


def read_tokens(settings: Settings) -> Tokens:
    """The text that the settings name, as two splits of token ids."""
    encoding = tokenizer(settings.tokenizer)
    if encoding.n_vocab > settings.config.vocab_size:
        raise InputError(
            f"the tokenizer {settings.tokenizer} has {encoding.n_vocab} tokens, more than the "
            f"model's vocabulary of {settings.config.vocab_size}"
        )
    both = text.split(text.read(settings.data), settings.training.train_fraction)
    train, val = (np.asarray(encode(encoding, part), np.int64) for part in both)
    digest = hashlib.sha256(train.tobytes() + b"|" + val.tobytes()).hexdigest()
    return Tokens(train, val, digest)


def start(settings: Settings, tokens: Tokens, *, model: GPT | None = None) -> Trainer:
    """A new run. One generator draws the parameters, unless `model` has some, and all the rest."""
    ops = shelf(settings.ops) if model is None else model.ops
    rng = Generator(settings.training.seed, ops=ops)
    if model is not None:
        pass
    elif settings.init_from is None:
        model = GPT(
            settings.config,
            seed=rng,
            dtype=settings.dtype,
            scheme=settings.init,
            ops=ops,
            tokenizer=settings.tokenizer,
        )
    else:
        tree = checkpoint.read(file_of(Path(settings.init_from))).params
        model = GPT.of(settings.config, tree, ops=ops, tokenizer=settings.tokenizer)
    return trainer(settings, tokens, model, rng)


def trainer(settings, tokens, model, rng, progress=None) -> Trainer:
    """A Trainer for these settings, at the beginning or at some progress."""
    prompt = encode(tokenizer(settings.tokenizer), settings.training.prompt)
    if not prompt:
        raise InputError("the prompt is empty: give --prompt at least one character")
    return Trainer(
        model, tokens.train, tokens.val, settings.training, rng, prompt=prompt, progress=progress
    )


def resume(
    settings: Settings, tokens: Tokens, model: GPT, saved: checkpoint.TrainingState
) -> Trainer:
    """The run that `saved` is the state of, ready to go on to the bits it would have come to."""
    if tokens.sha256 != saved.state["data_sha256"]:
        raise InputError(
            f"the text {settings.data} is not the one this run was trained on: "
            f"its tokens hash to {tokens.sha256[:12]}, not {saved.state['data_sha256'][:12]}"
        )
    rng = Generator.from_state(saved.random_state, ops=model.ops)
    progress = Progress(**saved.state["progress"], order=saved.order if saved.order.size else None)
    run = trainer(settings, tokens, model, rng, progress)
    order, windows = progress.order, len(run.steps_data.inputs)
    if order is not None and len(order) != windows:
        raise InputError(
            f"the checkpoint has an order of {len(order)} windows, the text makes {windows}"
        )
    if progress.position >= (1 if order is None else len(run.steps_data)):
        raise InputError(
            f"the checkpoint is {progress.position} batches into an epoch "
            f"of {len(run.steps_data)} batches"
        )
    run.optimizer.m, run.optimizer.v = saved.m, saved.v
    run.optimizer.steps = progress.step
    return run


def read_saved(path: Path) -> tuple[Settings, GPT, checkpoint.TrainingState]:
    """The settings, model and state of the run in a folder, or in one checkpoint file."""
    path = file_of(path)
    (config, tree, tokenizer_name), saved = checkpoint.read_training(path)
    settings = parse_state(saved.state, path)
    model = GPT.of(config, tree, ops=shelf(settings.ops), tokenizer=tokenizer_name)
    if settings.config != config or settings.dtype != model.dtype.name:
        raise InputError(
            f"{path}: its run is of a {settings.dtype} model with {settings.config}, "
            f"but the model in it is {model.dtype.name} with {config}"
        )
    return settings, model, saved


def read_settings(path: Path) -> Settings:
    """The settings of the run in a folder, or in one checkpoint file, and nothing more."""
    path = file_of(path)
    return parse_state(checkpoint.read_state(path), path)


def file_of(path: Path) -> Path:
    """The checkpoint in a folder, or the path itself."""
    return path / CHECKPOINT if path.is_dir() else path


def folder_of(path: Path) -> Path | None:
    """The folder of the run that a path names, by itself or by its checkpoint."""
    if path.name == CHECKPOINT and path.is_file():
        return path.parent
    return path if path.is_dir() else None


def parse_state(state: dict[str, Any], path: Path) -> Settings:
    """The settings in the state of a run, all of which is looked at."""
    try:
        values = dict(state["settings"])
        config, training = Config(**values.pop("config")), Training(**values.pop("training"))
        settings = Settings(**values, config=config, training=training)
        progress, digest = Progress(**state["progress"]), state["data_sha256"]
        for point in progress.history:
            Evaluation(**point)
        for sample in progress.samples:
            [int(token) for token in Sample(**sample).tokens]
        if not isinstance(digest, str):
            raise TypeError(f"data_sha256 is {digest!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its training state does not fit this npgpt ({error})") from None
    return settings


class Folder:
    """Where a run leaves what it makes."""

    def __init__(self, path: Path):
        self.path = path

    def vacant(self) -> None:
        """Raises InputError if the folder holds a run already."""
        if any((self.path / name).exists() for name in ("config.json", CHECKPOINT)):
            raise InputError(
                f"{self.path} already holds a run: choose another --out, "
                f"or go on with it by --resume {self.path}"
            )

    def open(self, settings: Settings, tokens: Tokens, run: Trainer) -> None:
        """Makes the folder and what goes into it so far. In a run that goes on, what was written
        after its last checkpoint is taken back."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for part in self.path.glob(".*.part"):  # what a killed run was about to write
                part.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"the folder {self.path} cannot be made: {error.strerror}") from None
        self.settings, self.tokens = settings, tokens
        derived = {
            "parameters": run.model.size,
            "tokens_per_epoch": run.tokens_per_epoch,
            "total_steps": run.total_steps,
            "data_sha256": tokens.sha256,
        }
        self.write("config.json", json.dumps(asdict(settings) | derived, indent=2) + "\n")
        done = run.progress
        self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in done.history))
        self.write("samples.txt", "".join(self.sample_text(**sample) for sample in done.samples))

    def sample_text(self, step: int, epoch: int, tokens: list[int]) -> str:
        """One entry of samples.txt."""
        decoded = decode(tokenizer(self.settings.tokenizer), tokens)
        return f"--- epoch {epoch}, step {step}\n{decoded}\n"

    def add_evaluation(self, seen: Evaluation) -> None:
        """One more line of metrics.jsonl."""
        self.append("metrics.jsonl", json.dumps(vars(seen)) + "\n")

    def add_sample(self, sample: Sample) -> None:
        """One more entry of samples.txt."""
        self.append("samples.txt", self.sample_text(**vars(sample)))

    def save(self, run: Trainer) -> None:
        """The checkpoint. Raises RunError for parameters that are not numbers."""
        for name, array in named(run.model.params):
            if not (np.isfinite(array.min()) and np.isfinite(array.max())):
                raise RunError(
                    f"{name} is no longer finite after step {run.progress.step - 1}; the "
                    "checkpoint before it is kept. Try a lower --lr, or --grad-clip 1"
                )
        progress = dict(vars(run.progress))
        order = progress.pop("order")
        state: dict[str, Any] = {
            "settings": asdict(self.settings),
            "progress": progress,
            "data_sha256": self.tokens.sha256,
        }
        saved = checkpoint.TrainingState(
            state=state,
            random_state=run.rng.state,
            order=np.empty(0, np.int64) if order is None else order,
            m=run.optimizer.m,
            v=run.optimizer.v,
        )
        checkpoint.write(self.path / CHECKPOINT, run.model, saved)

    def plot(self, run: Trainer) -> None:
        """loss.png, once there is something to see."""
        curve = Curve(self.path.name, run.progress.history, run.tokens_per_epoch)
        if curve.history:
            self.guard(lambda: plot([curve], self.path / "loss.png"), "loss.png")

    def write(self, name: str, content: str) -> None:
        """A whole file, in place of the one before."""

        def whole():
            with replacing(self.path / name) as temporary:
                temporary.write_text(content, "utf-8")

        self.guard(whole, name)

    def append(self, name: str, content: str) -> None:
        """More at the end of a file."""

        def more():
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.write(content)

        self.guard(more, name)

    def guard(self, write, name: str) -> None:
        """`write()`, and a RunError that names the file if it fails."""
        try:
            write()
        except OSError as error:
            what = error.strerror or error
            raise RunError(f"{self.path / name} could not be written: {what}") from None


def read_curve(path: Path) -> Curve:
    """What is plotted of the run in a folder. Raises InputError for files that are not a run's."""
    config = parse(path / "config.json", lambda text: [json.loads(text)])[0]
    scale = config.get("tokens_per_epoch") if isinstance(config, dict) else None
    if not isinstance(scale, int) or scale < 1:
        raise InputError(f"{path / 'config.json'} has no tokens_per_epoch: not the config of a run")
    file = path / "metrics.jsonl"
    history = parse(file, lambda text: [json.loads(line) for line in text.splitlines()])
    needed = ("tokens_seen", "train_loss", "val_loss")
    for number, point in enumerate(history, 1):
        if not isinstance(point, dict) or any(
            not isinstance(point.get(key), (int, float)) for key in needed
        ):
            raise InputError(f"{file}, line {number}: expected numbers for {', '.join(needed)}")
    if not history:
        raise InputError(f"{file} is empty: this run has no evaluation yet")
    return Curve(path.name, history, scale)


def parse(file: Path, read):
    """What `read` makes of a file's text."""
    try:
        return read(file.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from None


def next_folder(preset: str, *, parent: Path = Path("runs")) -> Path:
    """The first of runs/PRESET-1, runs/PRESET-2, ... that is not there yet."""
    number = 1
    while (parent / f"{preset}-{number}").exists():
        number += 1
    return parent / f"{preset}-{number}"


def latest(parent: Path = Path("runs")) -> Path:
    """The checkpoint written last under `runs`. Raises InputError when there is none."""
    found = sorted(parent.glob(f"*/{CHECKPOINT}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError("there is no run under ./runs yet: train one, or name one with --model")
    return found[-1]
