"""GPT: a config, its parameters and the backend that computes with them, in one object."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from npgpt import backends
from npgpt.arrays import Array, TokenIds
from npgpt.backends import Backend
from npgpt.config import Config
from npgpt.errors import InputError, show
from npgpt.model import initializers, inputs, lora, params, quantize, trace, trainable
from npgpt.model.backend import Random
from npgpt.model.forward import Forward
from npgpt.model.gradients import LossCache, Workspace
from npgpt.model.params import Params
from npgpt.model.transformer import OnBlock, do_nothing
from npgpt.rng import Generator
from npgpt.weights import checkpoint
from npgpt.weights.tokenizer_files import TokenizerName


class GPT(Forward):
    """A GPT-2 model with its gradients.

    Parameters
    ----------
    config : Config
        Shape of the model.
    seed : int or Generator, default 123
        The parameters are drawn from this seed, or from a generator, which advances.
    dtype : dtype or "bfloat16", default float32
        float32 or float64, of the parameters and of all that is computed from them. "bfloat16":
        float32 parameters and bfloat16 matrix products, on the backend npgpt.mixed.
    scheme : {"gpt2", "book"}, default "gpt2"
        Initial distribution of the parameters: GPT-2's own, or PyTorch's defaults.
    ops : Backend or str or None, default None
        The backend: npgpt.fused ("fused", Numba), npgpt.mixed ("mixed", bfloat16) or npgpt.ops
        ("numpy"). None: npgpt.fused, or npgpt.mixed for bfloat16.
    tokenizer : str or TokenizerFiles or None, default None
        The tokenizer of its training: "gpt2", "byte", or `npgpt.tokenizer(...).origin`.

    Attributes
    ----------
    params : Params
        The tree of parameters, such as `model.params.h[3].attn.c_attn.weight`.
    path : Path or None
        The file that `npgpt.load` has read, named in error messages. None once it is trained.
    trainable : tuple of str
        Patterns of the names of the parameters that are trained: `set_trainable`.

    Raises
    ------
    InputError
        If an argument is invalid: ConfigError for `config`.

    Notes
    -----
    Methods return nan and inf as they are computed. `npgpt.generate`, `npgpt.evaluate` and
    `npgpt.Trainer` raise RunError for them.
    """

    params: Params
    path: Path | None = None

    def __init__(
        self,
        config: Config,
        *,
        seed: int | Generator = 123,
        dtype: Any = np.float32,
        scheme: str = "gpt2",
        ops: Backend | str | None = None,
        tokenizer: TokenizerName | None = None,
    ):
        inputs.check_config(config)
        draw = initializers.get(scheme)
        ops = backends.get(ops, dtype=dtype)
        dtype = backends.check_dtype(dtype)
        rng = seed if isinstance(seed, Generator) else Generator(seed, ops=ops)
        tree = params.zeros(config, dtype)
        draw(tree, config, rng)
        self._hold(config, tree, ops, tokenizer)

    @classmethod
    def from_params(
        cls,
        config: Config,
        tree: Params,
        *,
        ops: Backend | str | None = None,
        tokenizer: TokenizerName | None = None,
    ) -> Self:
        """Return a model on existing parameters, which are not copied.

        Parameters
        ----------
        config : Config
            Shape of the model.
        tree : Params
            Its parameters; their names and shapes must be those of `config`.
        ops : Backend or str or None, default None
            The backend. None: npgpt.fused, or npgpt.mixed if the matrices are quantized.
        tokenizer : str or TokenizerFiles or None, default None
            The tokenizer of its training, as for `GPT`.

        Returns
        -------
        GPT

        Raises
        ------
        InputError
            If the parameters do not fit the config, or the backend cannot compute with them.
        """
        inputs.check_config(config)
        lora.check(tree, config)
        self = cls.__new__(cls)
        self._hold(config, tree, ops, tokenizer)
        return self

    def _hold(self, config: Config, tree: Params, ops: Any, tokenizer: Any) -> None:
        dtype = "bfloat16" if quantize.is_quantized(tree) else "float32"
        self.ops = backends.get(ops, dtype=dtype, why="quantized matrices")
        self.config, self.params, self.tokenizer = config, tree, tokenizer
        self.trainable = trainable.ALL
        self._workspace: Workspace | None = None

    def __reduce__(self) -> tuple:
        # for copy and pickle: the constructor runs again, on a copy of the parameters
        options: Any = dict(ops=backends.key_of(self.ops), tokenizer=self.tokenizer)
        make = partial(type(self).from_params, **options)
        return make, (self.config, self.params), {"trainable": self.trainable}

    def __repr__(self) -> str:
        c, stored = self.config, quantize.kind_of(self.params)
        return (
            f"GPT({self.size:,} parameters, V={c.vocab_size} T_max={c.context_length} "
            f"L={c.n_layer} H={c.n_head} C={c.n_embd} {'tied' if c.tied else 'untied'}, "
            f"{stored}, {backends.name_of(self.ops)})"
        )

    @property
    def size(self) -> int:
        """The number of parameters."""
        return params.total(self.params)

    @property
    def adapters(self) -> lora.Adapters | None:
        """The LoRA adapters: their layers, rank and scale. None without adapters."""
        return lora.find(self.params)

    def set_trainable(self, *patterns: str) -> None:
        """Freeze all parameters that no pattern matches, as `requires_grad = False` in PyTorch.

        Backward ends at the lowest trained parameter. Gradients of frozen ones are zeros that take
        no memory, and optimizers skip them.

        Parameters
        ----------
        *patterns : str
            Names of parameters or layers, such as "ln_f", "h.11" or "h.*.attn". "*": all.

        Raises
        ------
        InputError
            If a pattern matches no parameter, or none is given.
        """
        trainable.names_of(self.params, patterns)
        self.trainable, self._workspace = patterns, None

    def add_lora(
        self,
        rank: int = 8,
        alpha: float | None = None,
        targets: Sequence[str] = lora.TARGETS,
        *,
        seed: int | Generator = 123,
    ) -> None:
        """Add low-rank adapters (LoRA) to linear layers, and freeze all other parameters.

        The model computes the same as before, until a step is made. Make the optimizer afterwards:
        `params` is another tree, with the same arrays and those of the adapters.

        Parameters
        ----------
        rank : int, default 8
            R, the number of columns of A and of rows of B.
        alpha : float or None, default None
            The product of the two is scaled by alpha / R. None: R.
        targets : sequence of str, default ("c_attn",)
            Layers of every block: "c_attn", "attn", "mlp.c_fc", or "*" for all four.
        seed : int or Generator, default 123
            Draws A. B is zero.

        Raises
        ------
        InputError
            If an argument is invalid, or the model has adapters or quantized matrices.

        Source
        ------
        Hu et al. 2021, arXiv:2106.09685.
        """
        quantize.require_float(self.params)
        adapters = lora.adapters_of(rank, alpha, targets)
        rng = seed if isinstance(seed, Generator) else Generator(seed, ops=self.ops)
        self.params = lora.draw(self.params, adapters, rng)
        self.set_trainable(*lora.TRAINABLE)

    def merge_lora(self) -> None:
        """Add the product of every adapter to its matrix, which is copied; nothing stays frozen."""
        self.params = lora.merge(self.params)
        self.set_trainable("*")

    def loss_and_gradients(
        self,
        tokens: TokenIds,
        targets: TokenIds,
        rng: Random | None = None,
        *,
        out: Params | None = None,
        dloss: float = 1.0,
        on_block: OnBlock = do_nothing,
    ) -> tuple[float, Params]:
        """Return the mean cross-entropy and its gradient with respect to every parameter.

        **Without `out`, every call overwrites the gradients that the previous call returned**: the
        model owns one gradient tree, as `.grad` in PyTorch. Pass `out` to keep them.

        Parameters
        ----------
        tokens, targets : (B, T) int
            Token ids, and the token that follows each of them, or -100 to ignore it.
        rng : Generator or None, default None
            Draws the dropout masks. None: no dropout.
        out : Params or None, default None
            The tree that receives the gradients: `npgpt.zeros_like(model.params)`.
        dloss : float, default 1.0
            The gradients are those of `dloss` times the loss.
        on_block : callable, default: do nothing
            Called in backward after each block, the last one first: the gradients of this block and
            of all that follows it are final.

        Returns
        -------
        loss : float
            Mean cross-entropy over the targets that are not ignored, in nats per token.
        gradients : Params
            The same tree as `params`: `out`, or the model's own.

        Raises
        ------
        InputError
            If the model cannot read `tokens` or `targets`, or `out` is not a tree like `params`.
        """
        space = self._space()
        g = space.own if out is None else space.check(out)
        dloss = inputs.check_number("dloss", dloss)
        value, activations = space.forward(tokens, targets, rng, g, self.config, self.ops)
        return value, space.backward(activations, g, out, dloss, self.ops, on_block)

    def loss(
        self,
        tokens: TokenIds,
        targets: TokenIds,
        rng: Random | None = None,
        *,
        out: Params | None = None,
    ) -> tuple[float, LossCache]:
        """Return the mean cross-entropy and a cache for `backward`.

        The first half of `loss_and_gradients`, to see the two passes one by one.

        Parameters
        ----------
        tokens, targets : (B, T) int
            Token ids, and the token that follows each of them, or -100 to ignore it.
        rng : Generator or None, default None
            Draws the dropout masks. None: no dropout.
        out : Params or None, default None
            The gradient tree of this cache. The output head's gradient is written into it now.

        Returns
        -------
        loss : float
            Mean cross-entropy over the targets that are not ignored, in nats per token.
        cache : LossCache
            Valid for one `backward`, as long as neither the parameters nor `out` change.

        Raises
        ------
        InputError
            If the model cannot read `tokens` or `targets`, or `out` is not a tree like `params`.
        """
        space = self._space()
        g = space.take() if out is None else space.check(out)
        value, activations = space.forward(tokens, targets, rng, g, self.config, self.ops)
        return value, LossCache(activations, g, self.params, space.samples)

    def backward(
        self, cache: LossCache, *, out: Params | None = None, dloss: float = 1.0
    ) -> Params:
        """Return the gradient of `dloss` times the loss with respect to every parameter.

        Parameters
        ----------
        cache : LossCache
            The second value that `loss` returned.
        out : Params or None, default None
            The tree that receives the gradients. None: the one passed to `loss`, or a new one.
        dloss : float, default 1.0
            The gradient of the loss itself.

        Returns
        -------
        Params
            The same tree as `params`.

        Raises
        ------
        InputError
            If the cache was used already, or if the parameters or the gradient tree have changed
            since `loss`. Changes are found by comparing some numbers of each array.
        """
        space = self._space()
        if not isinstance(cache, LossCache):
            raise InputError(f"cache must be the second value of loss, not {show(cache)}")
        dloss = inputs.check_number("dloss", dloss)
        given = None if out is None else space.check(out)
        activations, g = cache.use(self.params, space.samples)
        return space.backward(activations, given or g, out, dloss, self.ops)

    def trace(self, tokens: TokenIds, targets: TokenIds | None = None) -> dict[str, Array]:
        """Return every activation by name, without dropout; with targets, its gradient too.

        Names: "embedding", "h.0.attn.probs" (B, H, T, T), "h.0.after_attn", "logits", and others.

        Parameters
        ----------
        tokens : (B, T) int
            Token ids.
        targets : (B, T) int or None, default None
            The token that follows each, or -100. With targets, "loss" is included, and the gradient
            of the loss with respect to each activation, as "h.0.attn.probs.grad".

        Returns
        -------
        dict of str to array
            Copies, in the order of computation.

        Raises
        ------
        InputError
            If `tokens` or `targets` cannot be read by the model.
        """
        return trace.trace(self.params, tokens, targets, self.config, ops=self.ops)

    def save(self, path: str | Path) -> None:
        """Write config and parameters to an HDF5 file, completely or not at all.

        Parameters
        ----------
        path : str or Path
            The file. `npgpt.load` reads it.

        Raises
        ------
        InputError
            If the parameters are quantized: `npgpt quantize` writes these.
        RunError
            If the file cannot be written.
        """
        quantize.require_float(self.params)
        inputs.check_path(path)
        checkpoint.write(path, self)

    def _space(self) -> Workspace:
        """Return the workspace of the current parameters."""
        if self._workspace is None or self._workspace.parameters is not self.params:
            self._workspace = Workspace(self.params, self.trainable)
        return self._workspace
