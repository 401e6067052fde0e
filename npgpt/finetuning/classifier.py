"""A classifier of texts: GPT-2 with a classification head in place of its output head.

    x      = hidden(tokens)             (B, T, C), the output of ln_f
    logits = x[b, position[b]] @ W + b  (B, n), for n labels
    loss   = mean(logsumexp(logits) - logits[label])

Attention is causal: only the last positions have read all of a text. The position "last" is T - 1,
padding or not, as in chapter 6 of the book. "last-token" is the last one that is no padding. In the
last block, the other positions end with attention.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from npgpt.arrays import Array
from npgpt.backends import Backend
from npgpt.data.tokenizer import tokenizer_of
from npgpt.data.tokenizer_choice import choose
from npgpt.errors import InputError
from npgpt.finetuning.labelled_texts import pad
from npgpt.gpt import GPT
from npgpt.model import finite, initializers, quantize, trainable, transformer
from npgpt.model.backend import Random
from npgpt.model.params import Params
from npgpt.ops.linear import Params as Linear
from npgpt.rng import Generator
from npgpt.weights import classifier_file
from npgpt.weights.classifier_file import Head, HeadSettings
from npgpt.weights.fine_tuning_state import RunState

BATCH = 8  # texts


class Cache(NamedTuple):
    hidden: Any
    head: Any


class Classifier:
    """A model, a head and the names of its labels.

    Attributes
    ----------
    params : Params
        The model's tree, with the head as `lm_head`: weight (C, n) and bias (n,).
    """

    def __init__(self, model: GPT, head: Head):
        quantize.require_float(model.params)
        self.model, self.settings = model, head.settings
        layer: Any = Linear(head.weight, head.bias)  # with a bias, unlike an output head
        self.params: Params = model.params._replace(lm_head=layer)
        self.frozen = trainable.select(self.params, frozenset())  # no gradients, so no caches

    @classmethod
    def start(cls, model: GPT, settings: HeadSettings, rng: Generator) -> Self:
        """Return a classifier with a head as torch.nn.Linear(C, n) is initialized."""
        C, n = model.config.n_embd, len(settings.labels)
        weight, bias = np.empty((C, n), model.dtype), np.empty(n, model.dtype)
        initializers.fill_dense(weight, bias, rng)
        return cls(model, Head(weight, bias, settings))

    @classmethod
    def load(cls, path: str | Path, *, ops: Backend | str | None = None) -> Self:
        """Return the classifier that `save` has written. Raises WeightFileError as `read`."""
        source, head = classifier_file.read(path)
        tokenizer = choose(source).tokenizer
        model = GPT.from_params(source.config, source.params(None), ops=ops, tokenizer=tokenizer)
        model.path = Path(path)
        return cls(model, head)

    def save(self, path: str | Path, run: RunState | None = None) -> None:
        """Write model, head and the state of their run into one file, completely or not at all."""
        head: Any = self.params.lm_head
        classifier_file.write(path, self.model, Head(head.weight, head.bias, self.settings), run)

    def positions(self, tokens: Array, lengths: Array) -> Array:
        """(B, T), (B,) -> (B,): the position of each text that is classified."""
        if self.settings.position == "last":
            return np.full(len(tokens), tokens.shape[1] - 1)
        return lengths - 1

    def logits(self, tokens: Array, lengths: Array) -> Array:
        """(B, T), (B,) -> (B, n)"""
        return self.forward(tokens, lengths, self.frozen)[0]

    def forward(
        self, tokens: Array, lengths: Array, g: Params, rng: Random | None = None
    ) -> tuple[Array, Cache]:
        """(B, T), (B,) -> (B, n), Cache. `g`: the gradients of `backward`, None if frozen."""
        model, ops = self.model, self.model.ops
        at = np.arange(len(tokens)), self.positions(tokens, lengths)
        x, hidden = transformer.hidden_forward(
            self.params, tokens, model.config, rng=rng, g=g, at=at, ops=ops
        )
        out, head = ops.linear.forward(x, self.params.lm_head)
        return out, Cache(hidden, head)

    def loss(self, tokens: Array, lengths: Array, labels: Array) -> float:
        """(B, T), (B,), (B,) -> scalar: the mean cross-entropy, without dropout."""
        return cross_entropy(self.logits(tokens, lengths), labels)[0]

    def loss_and_gradients(
        self, tokens: Array, lengths: Array, labels: Array, g: Params, rng: Random | None = None
    ) -> float:
        """Return the loss, and write its gradients into `g`, whose frozen parameters are None."""
        logits, cache = self.forward(tokens, lengths, g, rng)
        loss, dlogits = cross_entropy(logits, labels)
        dx = self.model.ops.linear.backward(dlogits, cache.head, g.lm_head)
        if g.wte.weight is not None:
            g.wte.weight.fill(0)  # to which the embedding adds
        transformer.hidden_backward(dx, cache.hidden, g, ops=self.model.ops)
        return loss

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text. `classify` reads the first `settings.max_length`.

        Raises InputError if a text is empty.
        """
        tokenizer = tokenizer_of(self.model)
        encoded = [tokenizer.encode(text) for text in texts]
        if not all(encoded):
            raise InputError("a text is empty: give at least one character")
        return encoded

    def classify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Return the label of each text, and its probability.

        Raises RunError if a probability is not finite.
        """
        encoded, found = self.encode(texts), []
        for start in range(0, len(encoded), BATCH):
            rows = encoded[start : start + BATCH]
            with finite.ignore_overflow():
                logits = self.logits(*pad(rows, self.settings.max_length, self.settings.pad_id))
                probabilities = softmax(logits)
            if not np.isfinite(probabilities).all():
                raise finite.error("a probability is nan", self.params, self.model.path)
            for row in probabilities:
                found.append((self.settings.labels[row.argmax()], float(row.max())))
        return found


def softmax(logits: Array) -> Array:
    """(B, n) -> (B, n)"""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """(B, n), (B,) -> the mean cross-entropy, and its gradient with respect to the logits (B, n)"""
    rows, B = np.arange(len(labels)), len(labels)
    top = logits.max(-1)
    losses = top + np.log(np.exp(logits - top[:, None]).sum(-1)) - logits[rows, labels]
    dlogits = softmax(logits)
    dlogits[rows, labels] -= 1
    return float(losses.mean()), dlogits / B
