"""The shape of a model, the hyperparameters of a training run, and all settings of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args, get_origin, get_type_hints

from npgpt.config_checks import at_least, check_data, check_trainable, is_one_of, make_plain, one_of
from npgpt.errors import ConfigError, show

PresetName = Literal[
    "tiny", "book", "book-appendix-d", "gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl"
]
TokenizerName = Literal["byte", "gpt2"]
OptimizerName = Literal["adam", "adamw", "muon", "rmsprop", "sgd"]
LEARNING_RATE = ("lr", "initial_lr", "min_lr", "warmup_steps")  # settings of its curve
VOCABULARIES = {"gpt2": 50257, "byte": 257}  # number of tokens


@dataclass(frozen=True, kw_only=True)
class Config:
    """Shape of a GPT-2 model. Letters in the code: V, T_max, L, H, C.

    Parameters
    ----------
    vocab_size : int, default 50257
        V, the number of tokens in the vocabulary.
    context_length : int, default 1024
        T_max, the maximum number of tokens in a sequence.
    n_layer : int, default 12
        L, the number of blocks.
    n_head : int, default 12
        H, the number of attention heads per block.
    n_embd : int, default 768
        C, the embedding size: a multiple of n_head.
    dropout : float, default 0.0
        Dropout rate, in [0, 1): after the embedding, on the attention weights, after attention and
        after the MLP.
    qkv_bias : bool, default True
        Add a bias to queries, keys and values.
    tied : bool, default True
        Use the token embedding as the output head.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    vocab_size: int = 50257
    context_length: int = 1024
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    qkv_bias: bool = True
    tied: bool = True

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            at_least(self, name, 1)
        at_least(self, "dropout", 0)
        if self.dropout >= 1:
            raise ConfigError(f"dropout is {self.dropout}, but must be in [0, 1)")
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"n_embd is {self.n_embd} and n_head is {self.n_head}: "
                "n_embd must be a multiple of n_head"
            )
        for name in ("qkv_bias", "tied"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f"{name} is {show(getattr(self, name))}, but must be true or false"
                )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Hyperparameters of a training run.

    Parameters
    ----------
    epochs : int, default 10
        Number of passes over the training split.
    steps : int or None, default None
        Number of steps, in place of epochs. None: as many as the epochs take.
    max_tokens : int or None, default None
        Number of training tokens, in place of epochs or steps. The run ends after the step that
        reaches it.
    batch_size : int, default 2
        Number of windows per batch. A window is a sequence of context_length tokens.
    stride : int or None, default None
        Tokens from the start of one window to the start of the next. None: the context length, so
        that windows do not overlap.
    train_fraction : float, default 0.9
        Fraction of the characters in the training split, in (0, 1]. The rest is the validation
        split.
    optimizer : {"adam", "adamw", "muon", "rmsprop", "sgd"}, default "adamw"
        Rule that updates the parameters: `npgpt.AdamW` and the others.
    lr : float, default 4e-4
        Peak learning rate.
    weight_decay : float, default 0.1
        Share of a parameter that is subtracted, times lr (AdamW, Muon), or added to its gradient.
    decay : {"all", "matrices"}, default "all"
        Parameters that weight decay applies to: all of them, as in the book, or matrices only.
    beta1 : float, default 0.9
        Decay rate of Adam's first moment, the running mean of the gradient, in [0, 1).
    beta2 : float, default 0.999
        Decay rate of Adam's second moment, the mean of its square, in [0, 1). RMSprop's alpha.
    eps : float, default 1e-8
        Term added to the denominator of Adam and RMSprop for numerical stability.
    momentum : float or None, default None
        Momentum of SGD or Muon, in [0, 1). None: 0 for SGD, 0.95 for Muon.
    nesterov : bool, default False
        Use Nesterov's momentum in SGD. Muon always does.
    warmup_steps : int, default 0
        Steps over which the learning rate rises linearly from initial_lr to lr.
    initial_lr : float, default 1e-5
        Learning rate of the first warmup step.
    min_lr : float or None, default None
        Learning rate at the end of the cosine decay. None: constant after the warmup.
    grad_clip : float or None, default None
        Maximum global norm of the gradient, applied after the warmup. None: no clipping.
    grad_accumulation : int, default 1
        Batches per step. Their gradients are averaged, which needs less memory than one large
        batch.
    eval_every : int, default 5
        Steps between evaluations.
    eval_batches : int or None, default 5
        Batches of each split per evaluation, as in the book. None: all. Not used with eval_tokens.
    eval_tokens : int or None, default None
        Tokens of each split per evaluation, in windows that are spread evenly over the split, do
        not overlap, and are the same each time. None: eval_batches.
    eval_rng : {"shared", "separate"}, default "shared"
        Random stream of evaluations: shared with training, as in PyTorch, or separate, so that the
        number of evaluations does not change the training. eval_tokens never changes it.
    log_every : int, default 1
        Steps between lines of metrics.jsonl with the loss of a step.
    tensorboard : bool, default False
        Write event files for TensorBoard into the run directory. Needs npgpt[tensorboard].
    checkpoint_every : int or None, default None
        Steps between checkpoints. None: one after each epoch.
    checkpoint_minutes : float or None, default 15.0
        Minutes after a checkpoint, at most, until the next one. None: only after steps or epochs.
    keep : int, default 0
        Number of older checkpoints to keep beside checkpoint.h5.
    trainable : tuple of str or None, default None
        Patterns of the names of the parameters that are trained, such as "ln_f" or "h.11". All
        others are frozen. None: all are trained, or with lora_rank the adapters alone.
    lora_rank : int or None, default None
        Rank of low-rank adapters (LoRA), which are trained in place of the matrices. None: none.
    lora_alpha : float or None, default None
        The product of an adapter's two matrices is scaled by alpha / rank. None: the rank.
    lora_targets : tuple of str, default ("c_attn",)
        Layers with an adapter, in every block: c_attn, attn, mlp.c_fc, or "*" for all four.
    prompt : str, default "Every effort moves you"
        Prompt of the text that is generated after each epoch.
    sample_tokens : int, default 50
        Number of tokens generated after each epoch.
    seed : int, default 123
        Seed of the initial parameters, the shuffling and the dropout masks, in [0, 2**64).
    deterministic : bool, default False
        Give the same bits on 1, 2, 4, ... and `leaves` ranks: docs/scale.md.
    leaves : int, default 8
        Number of partial sums of a deterministic run, a power of two: the most ranks that it can
        use, and the fewest windows that a step can have.
    comm_dtype : {"float32", "bfloat16"}, default "float32"
        Data type in which ranks send gradients: bfloat16 takes half of the bytes.
    overlap : {"auto", "on", "off"}, default "auto"
        Exchange gradients while backward computes; the bits are the same. auto: in the first steps,
        find out which way is quicker.
    sync_every : int or None, default None
        H, the steps that each rank makes by itself between two exchanges (DiLoCo), for slow
        networks. None: ranks exchange gradients in each step.
    outer_lr : float, default 0.7
        Learning rate of DiLoCo's outer optimizer, used with sync_every.
    outer_momentum : float, default 0.9
        Nesterov momentum of DiLoCo's outer optimizer, in [0, 1).

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    epochs: int = 10
    steps: int | None = None
    max_tokens: int | None = None
    batch_size: int = 2
    stride: int | None = None
    train_fraction: float = 0.9
    optimizer: OptimizerName = "adamw"
    lr: float = 4e-4
    weight_decay: float = 0.1
    decay: Literal["all", "matrices"] = "all"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    momentum: float | None = None
    nesterov: bool = False
    warmup_steps: int = 0
    initial_lr: float = 1e-5
    min_lr: float | None = None
    grad_clip: float | None = None
    grad_accumulation: int = 1
    eval_every: int = 5
    eval_batches: int | None = 5
    eval_tokens: int | None = None
    eval_rng: Literal["shared", "separate"] = "shared"
    log_every: int = 1
    tensorboard: bool = False
    checkpoint_every: int | None = None
    checkpoint_minutes: float | None = 15.0
    keep: int = 0
    trainable: tuple[str, ...] | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_targets: tuple[str, ...] = ("c_attn",)
    prompt: str = "Every effort moves you"
    sample_tokens: int = 50
    seed: int = 123
    deterministic: bool = False
    leaves: int = 8
    comm_dtype: Literal["float32", "bfloat16"] = "float32"
    overlap: Literal["auto", "on", "off"] = "auto"
    sync_every: int | None = None
    outer_lr: float = 0.7
    outer_momentum: float = 0.9

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("epochs", "batch_size", "grad_accumulation", "eval_every", "log_every"):
            at_least(self, name, 1)
        for name in (
            "steps", "max_tokens", "stride", "eval_batches", "eval_tokens", "checkpoint_every",
            "sync_every", "lora_rank",
        ):  # fmt: skip
            if getattr(self, name) is not None:
                at_least(self, name, 1)
        if None not in (self.steps, self.max_tokens):
            raise ConfigError(
                f"steps is {self.steps} and max_tokens is {self.max_tokens}: give one of them"
            )
        for name in ("lr", "weight_decay", "warmup_steps", "initial_lr", "eps", "sample_tokens",
                     "keep", "outer_lr"):  # fmt: skip
            at_least(self, name, 0)
        for name in ("min_lr", "checkpoint_minutes", "lora_alpha"):
            if getattr(self, name) is not None:
                at_least(self, name, 0)
        for name in ("train_fraction", "seed"):
            at_least(self, name, -math.inf)
        if self.grad_clip is not None:
            at_least(self, "grad_clip", 0)
        if self.grad_clip == 0:
            raise ConfigError(f"grad_clip is {self.grad_clip}, but must be above 0")
        if not 0 < self.train_fraction <= 1:
            raise ConfigError(f"train_fraction is {self.train_fraction}, but must be in (0, 1]")
        momentum = ["momentum"] if self.momentum is not None else []
        for name in ("beta1", "beta2", "outer_momentum", *momentum):
            at_least(self, name, 0)
            if getattr(self, name) >= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be in [0, 1)")
        for name in ("tensorboard", "deterministic"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f"{name} is {show(getattr(self, name))}, but must be true or false"
                )
        check_optimizer(self)
        check_ranks(self)
        check_trainable(self)
        one_of(self, "decay", "all", "matrices")
        one_of(self, "eval_rng", "shared", "separate")
        if not isinstance(self.prompt, str):
            raise ConfigError(f"prompt is {show(self.prompt)}, but must be a string")
        if not 0 <= self.seed < 2**64:
            raise ConfigError(f"seed is {self.seed}, but must be in [0, 2**64)")


def check_optimizer(training: TrainingConfig) -> None:
    """Raise ConfigError unless the optimizer exists and has the momentum that is given."""
    name, momentum, names = training.optimizer, training.momentum, get_args(OptimizerName)
    if not is_one_of(name, names):
        raise ConfigError(f"optimizer is {show(name)}, but must be one of {', '.join(names)}")
    if momentum is not None and name not in ("sgd", "muon"):
        raise ConfigError(f"momentum is {momentum}, but {name} has none: choose sgd or muon")
    if not isinstance(training.nesterov, bool):
        raise ConfigError(f"nesterov is {show(training.nesterov)}, but must be true or false")
    if training.nesterov and not (name == "sgd" and momentum):
        raise ConfigError("nesterov is true, but needs optimizer sgd and a momentum above 0")


def check_ranks(training: TrainingConfig) -> None:
    """Raise ConfigError unless the settings of a run on many ranks fit each other."""
    leaves = training.leaves
    at_least(training, "leaves", 1)
    if leaves & leaves - 1:
        raise ConfigError(f"leaves is {leaves}, but must be a power of two")
    one_of(training, "comm_dtype", "float32", "bfloat16")
    one_of(training, "overlap", "auto", "on", "off")
    if training.overlap == "on" and training.sync_every is not None:
        raise ConfigError(
            f"overlap is on and sync_every is {training.sync_every}, whose exchanges follow no "
            "backward: leave one of them out"
        )
    for name, value, plain in (("comm_dtype", training.comm_dtype, "float32"),
                               ("sync_every", training.sync_every, None)):  # fmt: skip
        if training.deterministic and value != plain:
            raise ConfigError(
                f"deterministic is true and {name} is {value}, with which the bits depend on the "
                "number of ranks: leave one of them out"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every setting that determines the result of a training run.

    Parameters
    ----------
    preset : str, default "tiny"
        Source of all other defaults. To see them: npgpt train --preset NAME --help. With init_from,
        "fine-tuning" is the default.
    data : str or tuple of str, default "bundled"
        Training text: "bundled", "verdict" (downloaded once), a text file, a directory of .txt
        files, a .jsonl or .parquet file, or a directory of token files (npgpt tokenize). Several
        of them are mixed.
    data_weights : tuple of float or None, default None
        Shares of several data in the windows of training: one positive number for each. None: in
        proportion to their windows, so that each window is used once an epoch.
    val_data : str, tuple of str or None, default None
        Validation text, of the same kinds. None: the validation split of `data`, or else the part
        that train_fraction leaves.
    tokenizer : str, default "byte"
        "byte": one token per byte. "gpt2": GPT-2's byte-pair encoding (downloaded once). Otherwise
        the path of a tokenizer.json, of its directory, or of a model.
    init : {"gpt2", "book"}, default "gpt2"
        Distribution of the initial parameters: GPT-2's, or PyTorch's defaults, as in the book.
    init_from : str or None, default None
        Start from the model in this file or directory, with its shape and its tokenizer. None:
        draw new parameters.
    dtype : {"float32", "float64", "bfloat16"}, default "float32"
        Data type of parameters and activations. With bfloat16, only the operands of matrix products
        are rounded; everything else is float32.
    ops : {"fused", "numpy"}, default "fused"
        Backend: compiled Numba kernels, or plain NumPy.
    config : Config
        Shape of the model.
    training : TrainingConfig
        Hyperparameters.

    Raises
    ------
    ConfigError
        If a value is out of range, or two values contradict each other.
    """

    preset: Literal[PresetName, "fine-tuning"] = "tiny"
    data: str | tuple[str, ...] = "bundled"
    data_weights: tuple[float, ...] | None = None
    val_data: str | tuple[str, ...] | None = None
    tokenizer: str = "byte"
    init: Literal["gpt2", "book"] = "gpt2"
    init_from: str | None = None
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    ops: Literal["fused", "numpy"] = "fused"
    config: Config = field(default_factory=Config)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        check_data(self)
        for name, kind in get_type_hints(type(self)).items():
            if name in ("data", "data_weights", "val_data"):
                continue
            value, allowed = getattr(self, name), get_args(kind) or (kind,)
            is_literal = get_origin(kind) is Literal
            if not (is_one_of(value, allowed) if is_literal else isinstance(value, allowed)):
                names = " or ".join(getattr(one, "__name__", one) for one in allowed)
                raise ConfigError(f"{name} is {show(value)}, but must be {names}")
            if isinstance(value, str) and "\0" in value:  # no path has one
                raise ConfigError(f"{name} is {show(value)}, but must not contain NUL")
        if (self.dtype, self.ops) == ("bfloat16", "numpy"):
            raise ConfigError("dtype is 'bfloat16', which NumPy does not multiply: leave out --ops")

    @property
    def sources(self) -> tuple[str, ...]:
        """The training data."""
        return (self.data,) if isinstance(self.data, str) else self.data

    @property
    def val_sources(self) -> tuple[str, ...]:
        """The validation data, empty if they are a part of the training data."""
        return (self.val_data,) if isinstance(self.val_data, str) else self.val_data or ()

    @property
    def parameter_dtype(self) -> str:
        """The name of the dtype of the parameters."""
        return "float32" if self.dtype == "bfloat16" else self.dtype
