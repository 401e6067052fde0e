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
from npgpt.tokenizer import encode, tokenizer
from npgpt.train import Progress, Trainer
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


def start(settings: Settings, tokens: Tokens) -> Trainer:
    """A new run. One generator draws the parameters and everything after them."""
    ops = shelf(settings.ops)
    rng = Generator(settings.training.seed, ops=ops)
    if settings.init_from is None:
        model = GPT(
            settings.config,
            seed=rng,
            dtype=settings.dtype,
            scheme=settings.init,
            ops=ops,
            tokenizer=settings.tokenizer,
        )
    else:
        model = checkpoint.load(settings.init_from, ops=ops)
        model = GPT.of(settings.config, model.params, ops=ops, tokenizer=settings.tokenizer)
    return trainer(settings, tokens, model, rng)


def trainer(settings, tokens, model, rng, progress=None) -> Trainer:
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
    if progress.order is not None and len(progress.order) != len(run.steps_data.inputs):
        raise InputError(
            f"the checkpoint has an order of {len(progress.order)} windows, "
            f"the text makes {len(run.steps_data.inputs)}"
        )
    run.optimizer.m, run.optimizer.v = saved.m, saved.v
    run.optimizer.steps = progress.step
    return run


def read_saved(path: Path) -> tuple[Settings, GPT, checkpoint.TrainingState]:
    """The settings, model and state of the run in a folder, or in one checkpoint file."""
    path = path / CHECKPOINT if path.is_dir() else path
    model, saved = checkpoint.read_training(path)
    try:
        values = dict(saved.state["settings"])
        config, training = Config(**values.pop("config")), Training(**values.pop("training"))
        settings = Settings(**values, config=config, training=training)
        Progress(**saved.state["progress"])
        str(saved.state["data_sha256"])
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{path}: its training state does not fit this npgpt ({error})") from None
    model.ops = shelf(settings.ops)
    return settings, model, saved


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
        decoded = tokenizer(self.settings.tokenizer).decode(tokens, errors="replace")
        return f"--- epoch {epoch}, step {step}\n{decoded}\n"

    def add_evaluation(self, seen) -> None:
        self.append("metrics.jsonl", json.dumps(vars(seen)) + "\n")

    def add_sample(self, sample) -> None:
        self.append("samples.txt", self.sample_text(**vars(sample)))

    def save(self, run: Trainer) -> None:
        """The checkpoint, then the plot. Raises RunError for parameters that are not numbers."""
        for name, array in named(run.model.params):
            if not np.isfinite(array.min() + array.max()):
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
        curve = Curve(self.path.name, run.progress.history, run.tokens_per_epoch)
        if curve.history:
            self.guard(lambda: plot([curve], self.path / "loss.png"), "loss.png")

    def write(self, name: str, content: str) -> None:
        def whole():
            with replacing(self.path / name) as temporary:
                temporary.write_text(content, "utf-8")

        self.guard(whole, name)

    def append(self, name: str, content: str) -> None:
        def more():
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.write(content)

        self.guard(more, name)

    def guard(self, write, name: str) -> None:
        try:
            write()
        except OSError as error:
            raise RunError(f"{self.path / name} could not be written: {error.strerror}") from None


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
