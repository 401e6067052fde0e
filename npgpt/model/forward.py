"""Forward passes without gradients: the part of GPT that scores and reads tokens."""

import numpy as np

from npgpt.arrays import Array, TokenIds
from npgpt.config import Config
from npgpt.model import inputs, transformer
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
            The key/value cache, one per block, which is extended by these tokens.

        Returns
        -------
        (B, V) array

        Raises
        ------
        InputError
            If `tokens` cannot be read by the model.
        """
        ids = inputs.check_continuation(tokens, past, self.config, self.dtype)
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
        ids, labels = inputs.check_last(tokens, targets, self.config)
        return float(transformer.evaluate(self.params, ids, labels, self.config, ops=self.ops))
