"""The numbers that make a GPT-2, those of a training run, and the presets that name good ones."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, fields
from typing import Literal, get_args, get_origin, get_type_hints

from npgpt.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Config:
    """The shape of a GPT-2. Letters in the code: V, T_max, L, H, C."""

    vocab_size: int = 50257
    """V, how many different tokens there are."""
    context_length: int = 1024
    """T_max, the longest sequence it can read."""
    n_layer: int = 12
    """L, how many blocks."""
    n_head: int = 12
    """H, attention heads in each block."""
    n_embd: int = 768
    """C, how wide: a multiple of n_head."""
    dropout: float = 0.0
    """The rate after the embedding, on attention's weights, after attention, after the MLP."""
    qkv_bias: bool = True
    """Do queries, keys and values have a bias?"""
    tied: bool = True
    """Is the output head the token embedding?"""

    def __post_init__(self):
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            at_least(self, name, 1)
        at_least(self, "dropout", 0)
        if self.dropout >= 1:
            raise InputError(f"dropout is {self.dropout}, but has to be in [0, 1)")
        if self.n_embd % self.n_head:
            raise InputError(
                f"n_embd is {self.n_embd} and n_head is {self.n_head}: "
                "the width has to be a multiple of the number of heads"
            )
        for name in ("qkv_bias", "tied"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}, but has to be true or false")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How it is trained."""

    epochs: int = 10
    """How often the training split is gone through."""
    steps: int | None = None
    """Stop after so many steps, whatever the epochs say."""
    batch_size: int = 2
    """Windows that go through the model together."""
    stride: int | None = None
    """Tokens from one window to the next. None: the context length, so that none overlap."""
    train_fraction: float = 0.9
    """The share of the characters to train on; the rest validates."""
    lr: float = 4e-4
    """The learning rate, at its peak."""
    weight_decay: float = 0.1
    """The share of a parameter, times the learning rate, that is lost each step."""
    decay: Literal["all", "matrices"] = "all"
    """What decays: all parameters, as in the book, or matrices only."""
    beta1: float = 0.9
    """How much of AdamW's mean of gradients is kept each step."""
    beta2: float = 0.999
    """How much of AdamW's mean of squares is kept each step."""
    eps: float = 1e-8
    """What AdamW adds below the line, so that nothing is divided by zero."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises, in a straight line."""
    initial_lr: float = 1e-5
    """Where the warmup begins."""
    min_lr: float | None = None
    """Where the learning rate ends, falling along a cosine. None: it does not fall."""
    grad_clip: float | None = None
    """The largest norm of all gradients together, once warm. None: they are not clipped."""
    grad_accumulation: int = 1
    """Batches per step: the gradient is that of one batch so many times as large."""
    eval_every: int = 5
    """Steps between two evaluations."""
    eval_batches: int | None = 5
    """Batches of each split that an evaluation looks at. None: all."""
    eval_rng: Literal["shared", "separate"] = "shared"
    """Does an evaluation draw its batches from the run's stream, as in PyTorch, or from its own?"""
    checkpoint_every: int | None = None
    """Steps between two checkpoints. None: one after every epoch."""
    prompt: str = "Every effort moves you"
    """What the sample after every epoch goes on from."""
    sample_tokens: int = 50
    """How many tokens the sample adds."""
    seed: int = 123
    """Decides the first parameters, the shuffles and the dropout."""

    def __post_init__(self):
        for name in ("epochs", "batch_size", "grad_accumulation", "eval_every"):
            at_least(self, name, 1)
        for name in ("steps", "stride", "eval_batches", "checkpoint_every"):
            if getattr(self, name) is not None:
                at_least(self, name, 1)
        for name in ("lr", "weight_decay", "warmup_steps", "initial_lr", "eps", "sample_tokens"):
            at_least(self, name, 0)
        if self.min_lr is not None:
            at_least(self, "min_lr", 0)
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise InputError(f"grad_clip is {self.grad_clip}, but has to be above 0")
        if not 0 < self.train_fraction <= 1:
            raise InputError(f"train_fraction is {self.train_fraction}, but has to be in (0, 1]")
        for name in ("beta1", "beta2"):
            at_least(self, name, 0)
            if getattr(self, name) >= 1:
                raise InputError(f"{name} is {getattr(self, name)}, but has to be in [0, 1)")
        if self.decay not in ("all", "matrices"):
            raise InputError(f'decay is {self.decay!r}, but has to be "all" or "matrices"')
        if self.eval_rng not in ("shared", "separate"):
            raise InputError(f'eval_rng is {self.eval_rng!r}, but has to be "shared" or "separate"')
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed is {self.seed}, but has to be in [0, 2**64)")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model, how to train it, its tokenizer, and a scheme of npgpt/model/initializers.py."""

    config: Config
    training: TrainingConfig
    tokenizer: str = "gpt2"
    init: Literal["book", "gpt2"] = "gpt2"


def at_least(config, name: str, smallest: float) -> None:
    """Raises InputError unless `config.name` is a finite number of its kind, >= smallest."""
    value = getattr(config, name)
    integral = "int" in str(next(f.type for f in fields(config) if f.name == name))
    kind = int if integral else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
        sort = "a whole number" if integral else "a number"
        raise InputError(f"{name} is {value!r}, but has to be {sort}")
    if value < smallest:
        raise InputError(f"{name} is {value}, but has to be at least {smallest}")


def gpt2(n_layer: int, n_head: int, n_embd: int) -> Preset:
    """One of OpenAI's four shapes, with the settings usual for training it from scratch."""
    config = Config(n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    training = TrainingConfig(
        lr=6e-4, min_lr=6e-5, warmup_steps=100, beta2=0.95, decay="matrices", grad_clip=1.0
    )
    return Preset(config=config, training=training)


BOOK = Config(context_length=256, dropout=0.1, qkv_bias=False, tied=False)

PRESETS = {
    "tiny": Preset(
        config=Config(
            vocab_size=257, context_length=64, n_layer=4, n_head=4, n_embd=128, dropout=0.1,
            tied=False,
        ),
        training=TrainingConfig(epochs=7, batch_size=12, stride=16, lr=5e-3, min_lr=5e-4,
                          warmup_steps=30, beta2=0.99, decay="matrices", grad_clip=1.0,
                          eval_every=50, prompt="The lighthouse", sample_tokens=160),
        tokenizer="byte",
        init="book",
    ),
    "book": Preset(
        config=BOOK,
        training=TrainingConfig(),
        init="book",
    ),
    "book-appendix-d": Preset(
        config=BOOK,
        training=TrainingConfig(
            epochs=15, warmup_steps=27, lr=1e-3, initial_lr=1e-5, min_lr=1e-5, grad_clip=1.0,
            eval_batches=1,
        ),
        init="book",
    ),
    "gpt2-small": gpt2(12, 12, 768),
    "gpt2-medium": gpt2(24, 16, 1024),
    "gpt2-large": gpt2(36, 20, 1280),
    "gpt2-xl": gpt2(48, 25, 1600),
}  # fmt: skip


VOCABULARIES = {"gpt2": 50257, "byte": 257}  # how many tokens each has


PresetName = Literal[
    "tiny", "book", "book-appendix-d", "gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl"
]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes."""

    preset: PresetName = "tiny"
    """Where the defaults of everything else come from: see them with --preset NAME --help."""
    data: str = "bundled"
    """"bundled", "verdict" (fetched once), a text file, or a folder of .txt files."""
    tokenizer: Literal["byte", "gpt2"] = "byte"
    """One token per byte, or GPT-2's byte-pair encoding (downloaded once)."""
    init: Literal["gpt2", "book"] = "gpt2"
    """Which distribution the parameters start from: GPT-2's own, or PyTorch's defaults."""
    init_from: str | None = None
    """Start from the model in this checkpoint instead; its shape is taken over."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Of parameters and everything computed from them; bfloat16 is of products alone, all else
    stays float32."""
    ops: Literal["fused", "numpy"] = "fused"
    """The backend: Numba kernels, or the plain NumPy that is there to be read."""
    config: Config = field(default_factory=Config)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self):
        for name, kind in get_type_hints(type(self)).items():
            value, allowed = getattr(self, name), get_args(kind) or (kind,)
            fits = value in allowed if get_origin(kind) is Literal else isinstance(value, allowed)
            if not fits:
                names = " or ".join(getattr(one, "__name__", one) for one in allowed)
                raise InputError(f"{name} is {value!r}, but has to be {names}")
        if (self.dtype, self.ops) == ("bfloat16", "numpy"):
            raise InputError("dtype is 'bfloat16', which NumPy does not multiply: leave out --ops")

    @property
    def parameter_dtype(self) -> str:
        """NumPy's name of what the parameters are."""
        return "float32" if self.dtype == "bfloat16" else self.dtype


def defaults(preset: str, *, tokenizer_name: str | None = None) -> RunConfig:
    """The settings of a preset, with the vocabulary of another tokenizer if one is named."""
    chosen: Preset = PRESETS[preset]
    name, config = tokenizer_name or chosen.tokenizer, chosen.config
    if name != chosen.tokenizer:
        config = dataclasses.replace(config, vocab_size=VOCABULARIES[name])
    return RunConfig(
        preset=preset, tokenizer=name, init=chosen.init, config=config, training=chosen.training
    )
