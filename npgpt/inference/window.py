"""The tokens that the model reads of each row, and their key/value cache.

Each row's numbers are those of its own run alone. The sum of a matrix product may be added in
another order for more rows: few rows are multiplied by another kernel (npgpt/kernels/gemm.py), in
bfloat16 with other operands. So short prompts are read in passes of at most FEW positions, as they
are alone, long ones in passes of more, but of at most FEW prompts: only the last position of each
leaves the last block. The output head is applied to at most FEW rows at once. With the Numba
backends, a row has the bits of its own run. With NumPy's, whose BLAS adds in an order of its own,
logits differ by rounding.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from npgpt.arrays import Array
from npgpt.gpt import GPT
from npgpt.model import finite, kv_cache, transformer
from npgpt.model.inputs import check_cache_dtype
from npgpt.model.kv_cache import LayerCache, RowCaches

FEW = 32  # rows of a product that one kernel multiplies: gemm.FEW of npgpt/kernels/gemm.py
PASS = 2048  # positions that are read at once, which bounds memory
PADDING = 1.25  # the positions of a padded pass, to those of its prompts, at most


class Window:
    """The last tokens of a text, which the model has read or reads next.

    `keep`: the number of first tokens that stay when the context is full, with half of the others.
    None: only the oldest token is dropped, each time.
    """

    def __init__(self, tokens: list[int], caches: list[LayerCache], keep: int | None = None):
        self.tokens, self.caches, self.keep = tokens, caches, keep

    @property
    def unread(self) -> int:
        """The number of tokens that are not cached: the last ones."""
        return len(self.tokens) - self.caches[0].length

    def append(self, token: int) -> None:
        """Append a token. If the context is full, drop tokens, and read the others again."""
        context_length = self.caches[0].max_length
        if len(self.tokens) == context_length:
            kept = self.keep or 0
            dropped = 1 if self.keep is None else max(1, (context_length - kept) // 2)
            del self.tokens[kept : kept + dropped]
            clear(self.caches)
        self.tokens.append(token)

    def fork(self) -> "Window":
        """Return a copy, which may continue in another way."""
        caches = [layer.fork(1) for layer in self.caches]
        return Window(self.tokens.copy(), caches, self.keep)


class Reader:
    """Computes the logits that follow windows, reading what is not cached.

    `cache_dtype`: of keys and values, "bfloat16" or None for the model's own.
    """

    def __init__(self, model: GPT, cache_dtype: str | None = None):
        self.model, self.cache_dtype = model, check_cache_dtype(cache_dtype, model.dtype)
        self._decoding = [RowCaches([]) for _ in range(model.config.n_layer)]

    def empty_cache(self) -> list[LayerCache]:
        """Return an empty cache of one row: one LayerCache per block."""
        return kv_cache.empty_cache(1, self.model.config, self.cache_dtype)

    def logits(self, windows: Sequence[Window]) -> Iterator[Array]:
        """Yield the next token's logits of each window, (V,)."""
        model = self.model
        with finite.ignore_overflow():
            x = self._last_hidden(windows)
        for start in range(0, len(windows), FEW):
            with finite.ignore_overflow():
                logits = transformer.scores(model.params, x[start : start + FEW], ops=model.ops)
            yield from logits

    def logits_ahead(self, window: Window, guesses: Sequence[int]) -> Array:
        """Return the logits after a window, after its first guess, and so on, (1 + guesses, V).

        The window has one unread token. Each row is bit-identical to that of reading one token
        after the other, with NumPy's BLAS as well: every position is a row of its own. The keys and
        values of the guesses stay behind the cached ones (`advance`).
        """
        tokens = np.array([window.tokens[-1], *guesses])[:, None]
        model, past = self.model, self._rows([window] * len(tokens))
        with finite.ignore_overflow():
            logits = transformer.scores(model.params, self._hidden(tokens, past), ops=model.ops)
        for layer in window.caches:
            layer.length = len(window.tokens)
        return logits[:, 0]

    def catch_up(self, window: Window) -> None:
        """Read all tokens of a window but the last, a few at a time after the cached ones."""
        while window.unread > 1:
            start = window.caches[0].length
            tokens = np.array(window.tokens[start:-1][:FEW])[:, None]
            self._hidden(tokens, self._rows([window] * len(tokens)))

    def _last_hidden(self, windows: Sequence[Window]) -> Array:
        """Read what each window has not read. Return the last positions, (n, C)."""
        x = np.empty((len(windows), self.model.config.n_embd), self.model.dtype)
        unread = np.array([window.unread for window in windows])
        for group in passes(windows, np.flatnonzero(unread > 1)):
            x[group] = self._read([windows[i] for i in group])
        if decoding := np.flatnonzero(unread == 1).tolist():
            x[decoding] = self._decode([windows[i] for i in decoding])
        return x

    def _read(self, windows: Sequence[Window]) -> Array:
        """Read windows whose caches are empty. Return the last positions (n, C)."""
        counts = [len(window.tokens) for window in windows]
        tokens = np.empty((len(windows), max(counts)), np.int64)
        for line, window in zip(tokens, windows, strict=True):
            line[: len(window.tokens)] = window.tokens
            line[len(window.tokens) :] = window.tokens[-1]  # seen by none, but 0 x nan is nan
        last = np.arange(len(windows)), np.array(counts) - 1
        return self._hidden(tokens, layers(windows, counts), last)

    def _decode(self, windows: Sequence[Window]) -> Array:
        """Read the last token of each window. Return its position (n, C)."""
        tokens = np.array([window.tokens[-1:] for window in windows])
        return self._hidden(tokens, self._rows(windows))[:, 0]

    def _rows(self, windows: Sequence[Window]) -> list[RowCaches]:
        """Return the caches of some windows, layer by layer, with the backend's state."""
        rows = (window.caches for window in windows)
        for layer, caches in zip(self._decoding, zip(*rows, strict=True), strict=True):
            layer.rows = caches
        return self._decoding

    def _hidden(
        self, tokens: Array, past: list[RowCaches], at: tuple[Array, Array] | None = None
    ) -> Array:
        """(n, T) -> (n, T, C), or the positions `at`, (N, C)"""
        p, config, ops = self.model.params, self.model.config, self.model.ops
        return transformer.hidden(p, tokens, config, past=past, at=at, ops=ops)


def clear(caches: Sequence[LayerCache]) -> None:
    """Forget all cached positions."""
    for layer in caches:
        layer.length = 0


def advance(window: Window) -> None:
    """Take the last token as read: it is the next of the guesses whose keys are in the cache."""
    for layer in window.caches:
        layer.length += 1


def layers(windows: Sequence[Window], counts: list[int] | None = None) -> list[RowCaches]:
    """Return the caches of some windows, layer by layer."""
    rows = (window.caches for window in windows)
    return [RowCaches(caches, counts) for caches in zip(*rows, strict=True)]


def passes(windows: Sequence[Window], chosen: Array) -> Iterator[list[int]]:
    """Divide the chosen windows into groups that are padded to one length and read together."""
    group: list[int] = []
    total = 0  # tokens of the group
    for i in sorted(chosen.tolist(), key=lambda i: len(windows[i].tokens)):
        length = len(windows[i].tokens)
        padded = (len(group) + 1) * length
        few = group and len(windows[group[0]].tokens) <= FEW
        most = FEW if few else min(PASS, PADDING * (total + length))
        if group and (padded > most or len(group) == FEW):
            yield group
            group, total = [], 0
        group.append(i)
        total += length
    if group:
        yield group
