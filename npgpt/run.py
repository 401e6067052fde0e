"""A run, begun from its settings or gone on with from what was saved of it."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import Config, Training
from npgpt.data import text
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.params import cropped
from npgpt.rng import Generator
from npgpt.settings import Settings
from npgpt.tokens import encode, tokenizer
from npgpt.train import Evaluation, Progress, Sample, Trainer
from npgpt.weights import checkpoint, formats, quantized
from npgpt.weights.source import Source


def shelf(settings: Settings):
    """The module that computes: npgpt.fused, npgpt.mixed for bfloat16, or npgpt.ops."""
    from npgpt import fused, mixed, ops

    if settings.dtype == "bfloat16":
        return mixed
    return {"fused": fused, "numpy": ops}[settings.ops]


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
    rng = Generator(settings.training.seed, ops=shelf(settings))
    model = first_model(settings, rng) if model is None else model
    return trainer(settings, tokens, model, rng)


def first_model(settings: Settings, rng: Generator) -> GPT:
    """The model that a run begins with: drawn from `rng`, or read where --init-from says."""
    if settings.init_from is not None:
        source = trainable(settings.init_from, verify=True)
        free = {name: getattr(source.config, name) for name in ("context_length", "dropout")}
        if replace(settings.config, **free) != source.config:
            raise InputError(f"{settings.init_from} is of {source.config}, not {settings.config}")
        tree = cropped(source.params("float32"), settings.config.context_length)
        return GPT.of(settings.config, tree, ops=rng.ops, tokenizer=settings.tokenizer)
    return GPT(
        settings.config,
        seed=rng,
        dtype=settings.dtype,
        scheme=settings.init,
        ops=rng.ops,
        tokenizer=settings.tokenizer,
    )


def trainable(path: str | Path, *, verify: bool = False) -> Source:
    """The weights at `path`, to go on from. Raises InputError for int8 ones."""
    source = formats.look(path, verify=verify)
    if source.weights == "int8":
        raise InputError(
            f"{source.path} holds int8 weights: the steps of training are finer than these numbers "
            "are apart. Start from what npgpt quantize made it of"
        )
    return source


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
    path = formats.file_of(path)
    (config, tree, tokenizer_name), saved = checkpoint.read_training(path)
    settings = parse_state(saved.state, path)
    model = GPT.of(config, tree, ops=shelf(settings), tokenizer=tokenizer_name)
    if settings.config != config or settings.parameter_dtype != model.dtype.name:
        raise InputError(
            f"{path}: its run is of a {settings.dtype} model with {settings.config}, "
            f"but the model in it is {model.dtype.name} with {config}"
        )
    return settings, model, saved


def read_settings(path: Path) -> Settings:
    """The settings of the run in a folder, or in one checkpoint file, and nothing more."""
    path = formats.file_of(path)
    if quantized.is_quantized(path):
        raise InputError(
            f"{path} is a model that npgpt quantize wrote, for generating: there is no run in it"
        )
    return parse_state(checkpoint.read_state(path), path)


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
