"""A run, begun from its settings or gone on with from what was saved of it."""

from dataclasses import replace
from pathlib import Path

from npgpt import backends
from npgpt.config import RunConfig
from npgpt.data.dataset import Tokens
from npgpt.data.tokenizer import encode, tokenizer
from npgpt.download.resolve import resolve
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.model.params import crop
from npgpt.rng import Generator
from npgpt.training.trainer import Progress, Trainer
from npgpt.weights import checkpoint, formats
from npgpt.weights.weight_file import WeightFile


def start(settings: RunConfig, tokens: Tokens, *, model: GPT | None = None) -> Trainer:
    """A new run. One generator draws the parameters, unless `model` has some, and all the rest."""
    rng = Generator(settings.training.seed, ops=backends.get(settings.ops, dtype=settings.dtype))
    model = first_model(settings, rng) if model is None else model
    return trainer(settings, tokens, model, rng)


def first_model(settings: RunConfig, rng: Generator) -> GPT:
    """The model that a run begins with: drawn from `rng`, or read where --init-from says."""
    if settings.init_from is not None:
        source = trainable(settings.init_from, verify=True)
        free = {name: getattr(source.config, name) for name in ("context_length", "dropout")}
        if replace(settings.config, **free) != source.config:
            raise InputError(f"{settings.init_from} is of {source.config}, not {settings.config}")
        tree = crop(source.params("float32"), settings.config.context_length)
        return GPT.from_params(settings.config, tree, ops=rng.ops, tokenizer=settings.tokenizer)
    return GPT(
        settings.config,
        seed=rng,
        dtype=settings.dtype,
        scheme=settings.init,
        ops=rng.ops,
        tokenizer=settings.tokenizer,
    )


def trainable(path: str | Path, *, verify: bool = False) -> WeightFile:
    """The weights at `path`, to go on from. Raises InputError for int8 ones."""
    source = formats.open_weights(resolve(path), verify=verify)
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
    settings: RunConfig, tokens: Tokens, model: GPT, saved: checkpoint.TrainingState
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
