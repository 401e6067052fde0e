"""Forward passes without gradients: the part of GPT that scores and reads tokens."""

import numpy as np

from npgpt.arrays import Array, TokenIds
from npgpt.config import Config
from npgpt.model import inputs, kv_cache, transformer
from npgpt.model.backend import Backend
from npgpt.model.kv_cache import LayerCache
from npgpt.model.params import Params


class Forward:
    """The methods of GPT that compute no gradients."""

    config: Config
    params: Params
    ops: Backend

    @property
    def dtype(self) -> np.dtype:
        """The dtype of activations and gradients, and of parameters that are not quantized."""
        return self.params.wte.weight.dtype

    def logits(self, tokens: TokenIds) -> Array:
        """Return the scores of every possible next token after every position.

        Parameters
        ----------
        tokens : (B, T) int
            Token ids, T at most the context length.

        Returns
        -------
        (B, T, V) array

        Raises
        ------
        InputError
            If `tokens` cannot be read by the model.
        """
        ids = inputs.check_tokens(tokens, self.config)
        return transformer.logits(self.params, ids, self.config, ops=self.ops)

    def next_logits(self, tokens: TokenIds, *, past: list[LayerCache] | None = None) -> Array:
        """Return the scores of every possible next token after the last position only.

        Parameters
        ----------
        tokens : (B, T) int
            Token ids. With `past`, they follow the positions cached there.
        past : list of LayerCache or None, default None
            The key/value cache, one per block, which is extended by these tokens. If the call
            fails or is interrupted, it is not.

        Returns
        -------
        (B, V) array

        Raises
        ------
        InputError
            If `tokens` cannot be read by the model.
        """
        ids = inputs.check_continuation(tokens, past, self.config, self.dtype)
        with kv_cache.restored_on_error(past):
            return transformer.next_logits(self.params, ids, self.config, past=past, ops=self.ops)

    def evaluate(self, tokens: TokenIds, targets: TokenIds) -> float:
        """Return the mean cross-entropy without dropout, keeping no cache for `backward`.

        Parameters
        ----------
        tokens : (B, T) int
            Token ids.
        targets : (B, n) int, n <= T
            The tokens that follow the last n positions. Only these are scored. -100 is ignored.

        Returns
        -------
        float
            Mean cross-entropy, in nats per token.

        Raises
        ------
        InputError
            If `tokens` or `targets` cannot be read by the model.
        """
        ids = inputs.check_tokens(tokens, self.config)
        labels = inputs.check_last(ids, targets, self.config)
        return float(transformer.evaluate(self.params, ids, labels, self.config, ops=self.ops))

    def log_probs(
        self, tokens: TokenIds, targets: TokenIds, *, past: list[LayerCache] | None = None
    ) -> tuple[Array, Array]:
        """Return the log-probabilities of given tokens, and whether each is the most likely one.

        Memory and time are those of `evaluate`: the logits (B, T, V) never exist all at once.

        Parameters
        ----------
        tokens : (B, T) int
            Token ids. With `past`, they follow the positions cached there.
        targets : (B, n) int, n <= T
            The tokens that follow the last n positions. Only these are scored. -100 is ignored, for
            example after the end of a shorter row.
        past : list of LayerCache or None, default None
            The key/value cache, one per block, which is extended by these tokens. If the call
            fails or is interrupted, it is not.

        Returns
        -------
        log_probs : (B, n) array
            In nats: minus the cross-entropy of each target. 0 where it is ignored.
        is_greedy : (B, n) array of bool
            True where the target is the token that `npgpt.generate` chooses at temperature 0, the
            first of several that are equally likely. True where it is ignored.

        Raises
        ------
        InputError
            If `tokens` or `targets` cannot be read by the model.
        """
        ids = inputs.check_continuation(tokens, past, self.config, self.dtype)
        labels = inputs.check_last(ids, targets, self.config)
        with kv_cache.restored_on_error(past):
            return transformer.log_probs(
                self.params, ids, labels, self.config, past=past, ops=self.ops
            )

    def kv_cache(self, batch: int = 1, *, dtype: str | None = None) -> list[LayerCache]:
        """Return an empty key/value cache, the `past` of `next_logits` and `log_probs`.

        Parameters
        ----------
        batch : int, default 1
            Number of sequences B.
        dtype : {"bfloat16"} or None, default None
            How keys and values are stored. "bfloat16": rounded, in half of the memory. None: in the
            model's own dtype.

        Returns
        -------
        list of LayerCache
            One per block, `past[0].length` positions long.

        Raises
        ------
        InputError
            If `batch` is less than 1, or `dtype` is another one.
        """
        batch = inputs.check_count("batch", batch)
        dtype = inputs.check_cache_dtype(dtype, self.dtype)
        return kv_cache.empty_cache(batch, self.config, dtype)

    def fork(self, past: list[LayerCache], copies: int) -> list[LayerCache]:
        """Return a key/value cache that holds each sequence of `past` several times.

        A context that several texts begin with is read once, and each text continues a copy.

        Parameters
        ----------
        past : list of LayerCache
            The key/value cache, which is left as it is.
        copies : int
            Copies of each sequence. Those of one sequence are adjacent.

        Returns
        -------
        list of LayerCache
            One per block, of B * copies sequences.

        Raises
        ------
        InputError
            If `past` is no cache of this model, or `copies` is less than 1.
        """
        copies = inputs.check_count("copies", copies)
        return [layer.fork(copies) for layer in inputs.check_past(past, self.config, self.dtype)]
