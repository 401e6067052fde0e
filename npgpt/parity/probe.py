"""The probe: a model, a batch and settings, which a port of GPT-2 is asked to compute with.

The weights are lively: attention is peaked, GELU is curved, no LayerNorm is the identity and no
bias is zero, so that every mistake shows. B, T, H and D differ, tokens repeat, and the rows ignore
different numbers of targets.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config, OptimizerName
from npgpt.config_checks import at_least, is_one_of, make_plain, plain
from npgpt.errors import ConfigError, InputError, show
from npgpt.gpt import GPT
from npgpt.model import inputs, params
from npgpt.model.params import Params
from npgpt.ops.linear_cross_entropy import IGNORED
from npgpt.parity import debug_state, npy, readme
from npgpt.rng import Generator
from npgpt.system.atomic import atomic_directory, new_file
from npgpt.weights import huggingface, llmc
from npgpt.weights.strict_json import read_json_object
from npgpt.weights.weight_file import parse_config

SETTINGS, BATCH, WEIGHTS = "settings.json", "batch.npz", "weights.npz"
VERSION = 1
SHAPE = Config(vocab_size=29, context_length=11, n_layer=2, n_head=2, n_embd=10)
ROWS, LENGTH = 3, 9  # B and T
LONGEST = 16  # T of the batch for a model of the user
STD = 0.5  # of the weights
QUIET = 0.1  # factor of one token's and one position's embedding: LayerNorm's eps shows there
AT = 1, 5  # row and position of that token


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The training step and the dropout that a port is asked for. The `meta` of a dump can differ.

    Parameters
    ----------
    optimizer : {"adam", "adamw", "muon", "rmsprop", "sgd"}, default "adamw"
    lr : float, default 1e-2
        Learning rate.
    betas : (float, float), default (0.9, 0.99)
        Decay rates of Adam's moments. RMSprop's alpha is the second one.
    eps : float, default 1e-3
        Term added to the denominator. Large, so that its place shows.
    momentum : float, default 0.0
        Momentum of SGD or Muon.
    weight_decay : float, default 0.1
    decay : {"all", "matrices"}, default "all"
        Parameters that weight decay applies to.
    grad_clip : float or None, default 1.0
        Maximum global norm of the gradient. None: no clipping.
    accumulation : int, default 1
        Micro-batches per step: equal parts of the rows, in order.
    dropout : float, default 0.0
        Dropout rate. Above 0, the dump must hold the masks.
    steps : int, default 3
        Optimizer steps, all on the same batch.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    optimizer: OptimizerName = "adamw"
    lr: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.1
    decay: str = "all"
    grad_clip: float | None = 1.0
    accumulation: int = 1
    dropout: float = 0.0
    steps: int = 3

    def __post_init__(self) -> None:
        make_plain(self)
        names = get_args(OptimizerName)
        if not is_one_of(self.optimizer, names):
            raise ConfigError(
                f"optimizer is {show(self.optimizer)}, but must be one of {', '.join(names)}"
            )
        if not is_one_of(self.decay, ("all", "matrices")):
            raise ConfigError(f'decay is {show(self.decay)}, but must be "all" or "matrices"')
        for name in ("lr", "eps", "momentum", "weight_decay", "dropout", "steps"):
            at_least(self, name, 0)
        at_least(self, "accumulation", 1)
        if self.grad_clip is not None:
            at_least(self, "grad_clip", 0)
            if self.grad_clip == 0:
                raise ConfigError(f"grad_clip is {self.grad_clip}, but must be above 0")
        object.__setattr__(self, "betas", check_betas(self.betas))
        for name in ("momentum", "dropout"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be in [0, 1)")

    def with_meta(self, meta: Mapping[str, Any]) -> "Settings":
        """Return the settings with those that the `meta` of a dump names in their place.

        `meta` has the same names; `optimizer` may be an object of name, lr, betas and so on. Other
        names are left to others. Raises InputError for a value out of range.
        """
        given = dict(meta)
        if isinstance(given.get("optimizer"), Mapping):
            inner = dict(given.pop("optimizer"))
            given |= {"optimizer": inner.pop("name", self.optimizer)} | inner
        try:
            return replace(self, **{name: given[name] for name in given.keys() & SETTING_NAMES})
        except ConfigError as error:
            raise InputError(f"in the dump's meta, {error}") from None


SETTING_NAMES = {one.name for one in dataclasses.fields(Settings)}


def check_betas(betas: Any) -> tuple[float, float]:
    """Return two floats in [0, 1). Raise ConfigError for anything else."""
    values = tuple(map(plain, betas)) if isinstance(betas, (tuple, list, np.ndarray)) else ()
    numbers = all(isinstance(x, (int, float)) and 0 <= x < 1 for x in values)
    if len(values) != 2 or not numbers:
        raise ConfigError(f"betas is {show(betas)}, but must be two numbers in [0, 1)")
    return float(values[0]), float(values[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """A model, a batch and settings that a port of GPT-2 is asked to compute with.

    Parameters
    ----------
    config : Config
    params : Params
        float32 or float64, by npgpt's names.
    tokens : (B, T) int64
    targets : (B, T) int64
        -100 is ignored.
    settings : Settings
    """

    config: Config
    params: Params
    tokens: Array
    targets: Array
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        params.check(self.params, params.shapes(self.config))
        tokens, targets = inputs.check_pair(self.tokens, self.targets, self.config)
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "targets", targets)

    def with_batch(self, tokens: Array, targets: Array) -> Self:
        """Return the same model with another batch. Raises InputError if it cannot be read."""
        return replace(self, tokens=tokens, targets=targets)


def make(seed: int = 123, *, tied: bool = True, ignored: bool = True) -> Probe:
    """Return the tiny probe: 24 kB of lively weights and a batch.

    Parameters
    ----------
    seed : int, default 123
    tied : bool, default True
        Use the token embedding as the output head.
    ignored : bool, default True
        Ignore some targets (-100). llm.c cannot.

    Returns
    -------
    Probe
        The same numbers for a seed on every machine.
    """
    rng = Generator(seed, ops="numpy")
    config = replace(SHAPE, tied=tied)
    tree = params.zeros(config, np.float32)
    for name, array in params.named(tree):
        layer, kind = name.rsplit(".", 1)
        if kind == "weight" and layer.rsplit(".", 1)[-1].startswith("ln_"):
            array[...] = rng.uniform(array.shape, 0.5, 1.5)
        else:
            array[...] = rng.normal(array.shape, 0.0, STD)
    text = draw_tokens(rng, config.vocab_size // 2, (ROWS, LENGTH + 1))  # few, so that they repeat
    text[AT] = config.vocab_size - 1
    tree.wte.weight[text[AT]] *= QUIET
    tree.wpe.weight[AT[1]] *= QUIET
    tokens, targets = text[:, :-1].copy(), text[:, 1:].copy()
    if ignored:
        targets[1, :3] = IGNORED  # as a prompt
        targets[2, -1:] = IGNORED  # as padding
    return Probe(config=config, params=tree, tokens=tokens, targets=targets)


def of_model(model: GPT, seed: int = 123) -> Probe:
    """Return a probe of a model of the user: its weights, and a batch of random tokens."""
    rng = Generator(seed, ops="numpy")
    length = min(LONGEST, model.config.context_length)
    text = draw_tokens(rng, model.config.vocab_size, (ROWS, length + 1))
    config = replace(model.config, dropout=0.0)
    return Probe(config=config, params=model.params, tokens=text[:, :-1], targets=text[:, 1:])


def draw_tokens(rng: Generator, count: int, shape: tuple[int, int]) -> Array:
    """Return random token ids below `count`."""
    return (rng.uniform(shape, dtype=np.float64) * count).astype(np.int64)


def write(directory: str | Path, probe: Probe) -> None:
    """Write a new directory with settings, batch, weights and a README, completely or not at all.

    Raises RunError if it exists or cannot be written.
    """
    values = {
        "version": VERSION,
        "config": dataclasses.asdict(probe.config),
        "settings": dataclasses.asdict(probe.settings),
        "tokens": probe.tokens.tolist(),  # again, for programs without a reader of .npz
        "targets": probe.targets.tolist(),
    }
    texts = {SETTINGS: json.dumps(values, indent=2) + "\n", "README.txt": readme.TEXT}
    archives = {
        BATCH: {"tokens": probe.tokens, "targets": probe.targets},
        WEIGHTS: dict(params.named(probe.params)),
    }
    model = probe.config, probe.params
    with atomic_directory(directory) as new:
        huggingface.write_huggingface(new, *model, None, dtype="float32")  # replaces it: the first
        for name, text in texts.items():
            with new_file(new / name) as file:
                file.write(text.encode())
        for name, arrays in archives.items():
            with new_file(new / name) as file:
                npy.write_archive(file, arrays)
        if probe.config.tied:
            llmc.write_llmc(new / "model.bin", *model, dtype="float32")
        if debug_state.is_writable(probe.config, probe.targets):
            debug_state.write(new / "debug_state.bin", *model, probe.tokens, probe.targets)


def read(path: str | Path) -> Probe:
    """Return the probe in a directory that `write` made, or the probe of any model.

    `path`: the directory, or weights in any format, or the name of a downloaded GPT-2. Raises
    InputError if it is neither, damaged or incomplete.
    """
    directory = Path(path)
    if not (directory / SETTINGS).is_file():
        from npgpt.loading import load

        return of_model(load(path, weights="float32", ops="numpy"))
    values = read_json_object(directory / SETTINGS)
    if values.get("version") != VERSION or not isinstance(values.get("settings"), dict):
        raise InputError(f"{directory / SETTINGS} is not that of a probe: see npgpt probe --help")
    config = parse_config(json.dumps(values.get("config")), directory / SETTINGS)
    for name in values["settings"].keys() - SETTING_NAMES:
        raise InputError(f"{directory / SETTINGS}: unknown setting {show(name)}; expected one of "
                         f"{', '.join(sorted(SETTING_NAMES))}")  # fmt: skip
    try:
        settings = Settings(**values["settings"])
    except ConfigError as error:
        raise InputError(f"{directory / SETTINGS}: {error}") from None
    batch = npy.read_archive(directory / BATCH, 1 << 24)
    weights = npy.read_archive(directory / WEIGHTS)
    for name in ("tokens", "targets"):
        if name not in batch:
            raise InputError(f"{directory / BATCH} has no {name}")
    return Probe(
        config=config, params=fill(config, weights, directory / WEIGHTS), settings=settings, **batch
    )


def fill(config: Config, arrays: Mapping[str, Array], path: Path) -> Params:
    """Return the tree of a config with these parameters. Raises InputError if they do not fit."""
    if config.n_layer > len(arrays):  # before memory is taken for them
        raise InputError(f"{path} has {len(arrays)} arrays, too few for {config.n_layer} layers")
    expected = dict(params.named(params.shapes(config)))
    for name in expected.keys() ^ arrays.keys():
        raise InputError(f"{path} has {'no' if name in expected else 'a'} {show(name)}")
    for name, shape in expected.items():
        found = arrays[name]
        if found.shape != tuple(shape) or found.dtype not in (np.float32, np.float64):
            raise InputError(f"{path}: {name} is {found.dtype} of shape {found.shape}, expected "
                             f"floats of shape {tuple(shape)}")  # fmt: skip
    tree = params.zeros(config, arrays["wte.weight"].dtype)
    for name, array in params.named(tree):
        array[...] = arrays[name]
    return tree
