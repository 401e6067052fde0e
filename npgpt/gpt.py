"""GPT: a config, its parameters and the backend that computes with them, in one object."""

from pathlib import Path
from typing import Any

import numpy as np

from npgpt import backends
from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.download.resolve import resolve
from npgpt.errors import InputError
from npgpt.model import initializers, params, quantize, transformer
from npgpt.quantized_matrix import KINDS as NARROW
from npgpt.rng import Generator
from npgpt.weights import formats

WEIGHTS = "float32", *NARROW


class GPT:
    """A GPT-2 with its gradients.

    `config`: its shape. `params`: the tree of its parameters, `params.h[3].attn.c_attn.weight`
    (see `npgpt.named` for all of them by name). `ops`: the backend, `npgpt.fused` (Numba),
    `npgpt.mixed` (bfloat16) or `npgpt.ops` (plain NumPy). `tokenizer`: the name of the tokenizer it
    was trained with, or None.
    """

    def __init__(
        self,
        config: Config,
        *,
        seed: int | Generator = 123,
        dtype=np.float32,
        scheme: str = "gpt2",
        ops=None,
        tokenizer: str | None = None,
    ):
        """A new model, its parameters drawn from `seed` (an integer, or a generator to go on with).

        `dtype`: float32 or float64, for parameters and everything computed from them; "bfloat16"
        for float32 parameters and products of bfloat16 numbers, on the backend npgpt.mixed.
        `scheme`: "gpt2" or "book", a name in npgpt/model/initializers.py.
        """
        if scheme not in initializers.SCHEMES:
            raise InputError(
                f"init is {scheme!r}, but has to be one of {sorted(initializers.SCHEMES)}"
            )
        ops = backends.get(ops, dtype=dtype)
        tree = params.zeros(config, backends.check_dtype(dtype))
        rng = seed if isinstance(seed, Generator) else Generator(seed, ops=ops)
        initializers.SCHEMES[scheme](tree, config, rng)
        self._hold(config, tree, ops, tokenizer)

    @classmethod
    def from_params(cls, config: Config, tree: params.Params, *, ops=None, tokenizer=None) -> "GPT":
        """A model on parameters that exist already; they are not copied.

        `ops`: the backend; by default npgpt.fused, or npgpt.mixed where matrices are in fewer bits.
        """
        self = cls.__new__(cls)
        self._hold(config, tree, ops, tokenizer)
        return self

    def _hold(self, config, tree, ops, tokenizer):
        kind = "bfloat16" if quantize.is_quantized(tree) else "float32"
        ops = backends.get(ops, dtype=kind, why="quantized matrices")
        self.config, self.params, self.ops, self.tokenizer = config, tree, ops, tokenizer

    @property
    def dtype(self) -> np.dtype:
        """Of the parameters, and of everything computed from them."""
        return self.params.wte.weight.dtype

    @property
    def size(self) -> int:
        """How many parameters it has."""
        return params.size(self.config)

    def logits(self, tokens) -> Array:
        """(B, T) -> (B, T, V): the score of every token to come next, after every position."""
        return transformer.logits(self.params, self.check(tokens), self.config, ops=self.ops)

    def next_logits(self, tokens, *, past=None) -> Array:
        """(B, T) -> (B, V), after the last position only. `past`: kv_cache.empty(...), or None."""
        start = past[0].length if past else 0
        tokens = self.check(tokens, start=start)
        return transformer.next_logits(self.params, tokens, self.config, past=past, ops=self.ops)

    def loss(
        self, tokens, targets, rng: Generator | None = None, *, out: params.Params | None = None
    ) -> tuple[float, Any]:
        """(B, T), (B, T) -> the mean cross-entropy in nats per token, and what backward needs.

        Dropout only where a generator is given. `out`: the tree that backward will be given, once,
        saves a second array of the head's size.
        """
        quantize.require_float(self.params)
        tokens, targets = self.check_pair(tokens, targets)
        return transformer.loss(
            self.params, tokens, targets, self.config, rng=rng, g=out, ops=self.ops
        )

    def backward(self, cache, *, out: params.Params | None = None, dloss: float = 1.0):
        """The gradient of `dloss` * loss, the same tree as `params`; into `out` if given."""
        quantize.require_float(self.params)
        gradients = params.zeros(self.config, self.dtype) if out is None else out
        transformer.backward(cache, gradients, dloss=dloss, ops=self.ops)
        return gradients

    def evaluate(self, tokens, targets) -> float:
        """(B, T), (B, n) -> the mean cross-entropy, for whoever does not go backward.

        n <= T: of what follows the last n tokens only.
        """
        tokens, targets = self.check(tokens), self.check(targets)
        (B, T), (rows, n) = tokens.shape, targets.shape
        if rows != B or n > T:
            raise InputError(f"tokens are {(B, T)} and targets {(rows, n)}: at most one each")
        return transformer.evaluate(self.params, tokens, targets, self.config, ops=self.ops)

    def save(self, path: str | Path) -> None:
        """Writes config and parameters as HDF5, whole or not at all. See `npgpt.load`.

        Raises InputError for matrices in fewer bits: npgpt quantize writes these.
        """
        from npgpt.weights import checkpoint  # here, because not everybody needs the HDF5 library

        quantize.require_float(self.params)
        checkpoint.write(path, self)

    def check(self, tokens, *, start: int = 0) -> Array:
        """`tokens` as (B, T) int64. Raises InputError where the model cannot read them."""
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or tokens.size == 0 or not np.issubdtype(tokens.dtype, np.integer):
            raise InputError(
                f"tokens have to be whole numbers of shape (B, T), both at least 1; "
                f"these are {tokens.dtype} of shape {tokens.shape}"
            )
        T, T_max = start + tokens.shape[1], self.config.context_length
        if T > T_max:
            raise InputError(f"{T} tokens are longer than the context of {T_max}; crop them")
        low, high, V = tokens.min(), tokens.max(), self.config.vocab_size
        if low < 0 or high >= V:
            wrong = low if low < 0 else high
            raise InputError(f"token id {wrong} is outside the vocabulary of {V} (0 to {V - 1})")
        return tokens.astype(np.int64, copy=False)

    def check_pair(self, tokens, targets) -> tuple[Array, Array]:
        """Both as (B, T) int64, of one shape."""
        tokens, targets = self.check(tokens), self.check(targets)
        if tokens.shape != targets.shape:
            raise InputError(f"tokens are {tokens.shape} and targets {targets.shape}: one each")
        return tokens, targets


def load(path: str | Path, *, weights: str | None = None, ops=None) -> GPT:
    """The model in a file or folder of any format that is known here, or a downloaded GPT-2 by its
    name: "gpt2-small".

    Its parameters are views of the mapped file where that holds float32 in GPT-2's layout, so that
    nothing is read before it is used, and writing into them leaves the file alone. `ops`: the
    backend, npgpt.fused by default. `weights`: "float32", or "bfloat16" or "int8" for a model whose
    matrices are kept so, on the backend npgpt.mixed, to generate and to evaluate
    (docs/precision.md); by default what npgpt quantize wrote, and float32 in all else.
    Raises InputError for what is not a whole model.
    """
    if weights not in (None, *WEIGHTS):
        raise InputError(f"weights is {weights!r}, but has to be {' or '.join(WEIGHTS)}")
    source = formats.open_weights(resolve(path))
    return GPT.from_params(
        source.config, source.params(weights), ops=ops, tokenizer=source.tokenizer
    )
