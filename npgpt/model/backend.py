"""The interface of a backend: one protocol for each op, and `Backend`, which has them all.

A backend is a module, or any object, with one attribute per op. npgpt.ops, npgpt.fused and
npgpt.mixed are the three of this project; mypy compares each with `Backend`. Functions compute what
the op of that name in npgpt/ops says. Every `forward` returns its output and a cache; the
`backward` beside it takes the gradient of that output and the cache, writes the gradients of the
parameters into `g`, and returns the gradient of the input. A frozen parameter is None in `g`: its
gradient is not computed.
"""

from typing import Any, Protocol

import numpy as np

from npgpt.arrays import Array


class Random(Protocol):
    """A source of dropout masks: npgpt.Generator, or an object with this method."""

    def bernoulli(self, p: float, shape: Any, *, out: Any = None) -> Array: ...


class Distributions(Protocol):
    """A source of initial parameters: npgpt.Generator, or an object with these methods."""

    def normal(
        self, shape: Any, mean: float = 0.0, std: float = 1.0, *, out: Any = None
    ) -> Array: ...

    def uniform(
        self, shape: Any, low: float = 0.0, high: float = 1.0, *, out: Any = None
    ) -> Array: ...


class Adam(Protocol):
    """One step of Adam."""

    def update(
        self, p: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float,
        betas: tuple[float, float], eps: float, weight_decay: float, scale: float = 1.0,
    ) -> None: ...  # fmt: skip


class AdamW(Protocol):
    """One step of AdamW, and the squared norm of a gradient."""

    def update(
        self, p: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float,
        betas: tuple[float, float], eps: float, weight_decay: float, scale: float = 1.0,
    ) -> None: ...  # fmt: skip

    def square_sum(self, grad: Array) -> float: ...


class Attention(Protocol):
    """Causal self-attention: (B, T, 3C) -> (B, T, C)."""

    def forward(
        self, qkv: Array, *, n_head: int, past: Any = None, rate: float = 0.0, rng: Any = None,
        out: Array | None = None,
    ) -> tuple[Array, Any]: ...  # fmt: skip

    def backward(self, dout: Array, cache: Any, *, dx: Array | None = None) -> Array: ...


class Decode(Protocol):
    """One new position through all blocks: (B, 1, C) -> (B, 1, C)."""

    def forward(
        self, x: Array, blocks: Any, *, n_head: int, past: Any, out: Array | None = None
    ) -> Array: ...


class Dropout(Protocol):
    """Inverted dropout: any shape -> the same shape."""

    def forward(
        self, x: Array, *, rate: float, rng: Any = None, out: Array | None = None
    ) -> tuple[Array, Any]: ...

    def backward(self, dout: Array, cache: Any, *, dx: Array | None = None) -> Array: ...


class Embedding(Protocol):
    """Token plus position embedding: (B, T) -> (B, T, C). `backward` adds to `g.wte`."""

    def forward(
        self, tokens: Array, p: Any, *, start: int | Array = 0, out: Array | None = None
    ) -> tuple[Array, Any]: ...

    def backward(self, dout: Array, cache: Any, g: Any) -> None: ...


class GELU(Protocol):
    """GPT-2's activation function: any shape -> the same shape."""

    def forward(self, x: Array, *, out: Array | None = None) -> tuple[Array, Any]: ...

    def backward(self, dout: Array, cache: Any, *, dx: Array | None = None) -> Array: ...


class LayerNorm(Protocol):
    """Layer normalization: (..., C) -> (..., C)."""

    def forward(
        self, x: Array, p: Any, *, eps: float = 1e-5, out: Array | None = None
    ) -> tuple[Array, Any]: ...

    def backward(self, dout: Array, cache: Any, g: Any, *, dx: Array | None = None) -> Array: ...


class Linear(Protocol):
    """A linear layer: (..., I) -> (..., O)."""

    def forward(self, x: Array, p: Any, *, out: Array | None = None) -> tuple[Array, Any]: ...

    def backward(self, dout: Array, cache: Any, g: Any, *, dx: Array | None = None) -> Array: ...


class LinearCrossEntropy(Protocol):
    """The output head and the mean cross-entropy: (..., C), (V, C), (...) -> scalar."""

    def forward(
        self, x: Array, weight: Array, targets: Array, *, chunk: int = 512,
        dweight: Array | None = None, frozen: bool = False,
    ) -> tuple[np.floating, Any]: ...  # fmt: skip

    def backward(
        self, dloss: float, cache: Any, g: Array | None, *, dx: Array | None = None
    ) -> Array: ...

    def evaluate(
        self, x: Array, weight: Array, targets: Array, *, chunk: int = 512
    ) -> np.floating: ...

    def log_probs(
        self, x: Array, weight: Array, targets: Array, *, chunk: int = 512
    ) -> tuple[Array, Array]: ...


class LoRA(Protocol):
    """A linear layer with a low-rank adapter: (..., I) -> (..., O)."""

    def forward(self, x: Array, p: Any, *, out: Array | None = None) -> tuple[Array, Any]: ...

    def backward(self, dout: Array, cache: Any, g: Any, *, dx: Array | None = None) -> Array: ...


class Muon(Protocol):
    """One step of Muon for a matrix, or for several side by side: (I, parts * O)."""

    def update(
        self, p: Array, grad: Array, m: Array, *, lr: float, momentum: float, weight_decay: float,
        match_rms_adamw: bool = True, parts: int = 1, scale: float = 1.0,
    ) -> None: ...  # fmt: skip

    def orthogonalize(self, u: Array) -> Array: ...


class RMSprop(Protocol):
    """One step of RMSprop."""

    def update(
        self, p: Array, grad: Array, v: Array, *, lr: float, alpha: float, eps: float,
        weight_decay: float, scale: float = 1.0,
    ) -> None: ...  # fmt: skip


class SGD(Protocol):
    """One step of SGD; `m` is None without momentum."""

    def update(
        self, p: Array, grad: Array, m: Array | None, *, lr: float, momentum: float,
        nesterov: bool, weight_decay: float, scale: float = 1.0,
    ) -> None: ...  # fmt: skip


class RandomStream(Protocol):
    """PyTorch's CPU random stream: `engine` is its state, `out` the array that is filled."""

    def seed(self, seed: int) -> Any: ...

    def words64(self, engine: Any, n: int) -> Array: ...

    def uniform(self, engine: Any, low: float, high: float, *, out: Array) -> Array: ...

    def uniform_columns(self, engine: Any, low: float, high: float, *, out: Array) -> Array: ...

    def normal(self, engine: Any, mean: float, std: float, *, out: Array) -> Array: ...

    def bernoulli(self, engine: Any, p: float, *, out: Array) -> Array: ...

    def exponential(self, engine: Any, *, out: Array) -> Array: ...

    def multinomial(self, engine: Any, probs: Array, *, out: Array) -> Array: ...

    def randint(self, engine: Any, low: int, high: int, *, out: Array) -> Array: ...

    def randperm(self, engine: Any, *, out: Array) -> Array: ...


class Backend(Protocol):
    """All ops that a model, a generator of random numbers and an optimizer call."""

    @property
    def adam(self) -> Adam: ...

    @property
    def adamw(self) -> AdamW: ...

    @property
    def attention(self) -> Attention: ...

    @property
    def decode(self) -> Decode: ...

    @property
    def dropout(self) -> Dropout: ...

    @property
    def embedding(self) -> Embedding: ...

    @property
    def gelu(self) -> GELU: ...

    @property
    def layernorm(self) -> LayerNorm: ...

    @property
    def linear(self) -> Linear: ...

    @property
    def linear_cross_entropy(self) -> LinearCrossEntropy: ...

    @property
    def lora(self) -> LoRA: ...

    @property
    def muon(self) -> Muon: ...

    @property
    def random(self) -> RandomStream: ...

    @property
    def rmsprop(self) -> RMSprop: ...

    @property
    def sgd(self) -> SGD: ...


OPS = tuple(name for name in vars(Backend) if isinstance(vars(Backend)[name], property))
