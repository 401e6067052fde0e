"""Data-parallel training: a Trainer whose steps are made by all ranks together.

The global batch is cut into micro-batches, `grad_accumulation` of them; micro-batch i belongs to
rank i mod N. A step has five parts:

    gradients of the rank's own micro-batches       no communication
    their sum, slice by slice (reduce-scatter)      sums.py
    the norm, from the blocks of all slices         one number per block
    the optimizer, on the rank's slice alone        moments exist once in the world (ZeRO-1)
    the new parameters (all-gather)                 sums.py

The owner of a slice computes it, and the others copy it: parameters are equal on all ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from npgpt import arrays
from npgpt.arrays import Array
from npgpt.config import TrainingConfig
from npgpt.data.mapped_tokens import MappedTokens
from npgpt.distributed import agreement, sums
from npgpt.distributed.agreement import require_equal, sample
from npgpt.distributed.kernel_probe import probe
from npgpt.distributed.micro_batch_rng import micro_batch_rng
from npgpt.distributed.partition import Partition, flat_of, matrices_of_blocks, nothing
from npgpt.distributed.world import World, once_per_machine
from npgpt.errors import InputError, show
from npgpt.gpt import GPT
from npgpt.model import finite, params
from npgpt.model.inputs import check_pair
from npgpt.model.params import Params
from npgpt.ops.linear_cross_entropy import IGNORED
from npgpt.rng import Generator
from npgpt.training import optim, run_state, schedule
from npgpt.training.events import Progress
from npgpt.training.run_state import Record
from npgpt.training.trainer import Trainer, require_finite
from npgpt.weights import checkpoint

WIRE = "float32", "bfloat16"


class DataParallelTrainer(Trainer):
    """A training run on all ranks of a world.

    All ranks have the same arguments. Batch size times accumulation is the *global* batch.

    Parameters
    ----------
    world : World
        The ranks.
    leaves : int or None, default None
        V, a power of two: any number of ranks that divides V gives the same bits. None: N,
        for which the sums take less memory and are equal within rounding.
    comm_dtype : {"float32", "bfloat16"}, default "float32"
        The dtype in which gradients are sent; with "bfloat16" for half of the bytes. Parameters are
        sent as they are.
    model, train_tokens, val_tokens, training, rng, prompt, progress
        As for `Trainer`. `rng` draws the orders; dropout masks depend on `training.seed`, the step
        and the micro-batch.

    Attributes
    ----------
    optimizer : SGD, RMSprop, Adam, AdamW or Muon
        The optimizer of this rank's slice.
    gradients : Params
        The last gradient's slice of this rank, before clipping.

    Raises
    ------
    InputError
        If the micro-batches cannot be divided among the ranks, or an argument is invalid.
    """

    def __init__(
        self,
        model: GPT,
        train_tokens: Array | MappedTokens,
        val_tokens: Array | MappedTokens,
        training: TrainingConfig,
        rng: Generator,
        *,
        world: World,
        leaves: int | None = None,
        comm_dtype: str = "float32",
        prompt: Sequence[int] = (),
        progress: Progress | None = None,
    ) -> None:
        check_division(world.size, training.grad_accumulation, leaves)
        if comm_dtype not in WIRE:
            raise InputError(f"comm_dtype is {show(comm_dtype)}, but must be one of {WIRE}")
        if comm_dtype == "bfloat16" and leaves is not None:
            raise InputError("comm_dtype is 'bfloat16', whose sums depend on the number of ranks: "
                             "leave out leaves")  # fmt: skip
        if comm_dtype == "bfloat16" and model.dtype != np.float32:
            raise InputError(f"comm_dtype is 'bfloat16', but the model's dtype is {model.dtype}")
        super().__init__(
            model, train_tokens, val_tokens, training, rng, prompt=prompt, progress=progress
        )
        self.world, self.leaves, self.comm_dtype = world, leaves, comm_dtype
        try:
            self.parameters = flat_of(model.params)
        except InputError:  # mapped from a file
            model.params = params.copy(model.params)
            self.parameters = flat_of(model.params)
        kernels = None
        if world.size > 1:
            run = partial(probe, model.ops, model.dtype.name, training)
            kernels = once_per_machine(world, run)  # it compiles them
        require_equal(world, {
            **agreement.settings(model.config, training),
            "the number of leaves": leaves,
            "the setting comm_dtype": comm_dtype,
            "the first step": self.progress.step,
            "the training tokens": sample(train_tokens),
            "the validation tokens": sample(val_tokens),
            "the parameters": self.parameters,
            "the random state": rng.state,
            "the bits of the kernels": kernels,
        })  # fmt: skip
        whole = matrices_of_blocks if training.optimizer == "muon" else nothing
        self.partition = Partition(model.params, world.size, whole)
        size, dtype = len(self.parameters), self.parameters.dtype
        self.leaf_sum = sums.LeafSum(lambda: arrays.zeros(size, dtype))
        own = self.partition.views(self.parameters, world.rank)
        self.optimizer = optim.make(own, training, ops=model.ops)
        decays = optim.DECAYS[training.decay]
        decayed = {name for name, leaf in params.named(model.params) if decays(name, leaf)}
        self.optimizer.decays = lambda name, part: name in decayed  # a part is a vector

    @finite.ignore_overflow()
    def update(self, tokens: Array, targets: Array, lr: float) -> tuple[float, float | None]:
        """Update the parameters of all ranks by one global batch. The contract is Trainer's."""
        tokens, targets = check_pair(tokens, targets, self.model.config)
        loss, flat = self.sum_of_own(tokens, targets)
        if self.progress.step == 0 and not np.isfinite(loss):  # the learning rate is not to blame
            raise finite.error(f"the loss is {loss}", self.model.params, self.model.path)
        self.reduce(flat)
        self.gradients = self.partition.views(flat, self.world.rank)
        norm, scale, clip = None, 1.0, self.training.grad_clip
        if clip is not None:
            norm = self.global_norm(flat)
            if self.progress.step >= self.training.warmup_steps:
                scale = schedule.clip_scale(norm, clip)
        require_finite("loss", loss, self.progress.step)
        require_finite("gradient's norm", norm or 0.0, self.progress.step)
        self.optimizer.step(self.gradients, lr=lr, scale=scale)
        if self.world.size > 1:
            sums.all_gather(self.world.comm, self.parameters, self.partition.bounds)
        self.model.path = None  # an error must not blame the file for what training has changed
        return loss, norm

    def sum_of_own(self, tokens: Array, targets: Array) -> tuple[float, Array]:
        """Return the loss of the global batch, and the gradients that this rank has computed."""
        world, count = self.world, self.training.grad_accumulation
        parts = np.array_split(np.arange(len(tokens)), count)
        scored = [np.count_nonzero(targets[part] != IGNORED) for part in parts]
        losses = np.zeros(count)

        def write(i: int, out: Array) -> None:
            rng = micro_batch_rng(self.training.seed, self.progress.step, i, ops=self.rng.ops)
            share = scored[i] / sum(scored)
            value, _ = self.model.loss_and_gradients(
                tokens[parts[i]],
                targets[parts[i]],
                rng,
                out=params.views(self.partition.shapes, out),
                dloss=share,
            )
            losses[i] = value * share

        leaves = self.leaves or world.size
        own = [
            [i for i in range(leaf, count, leaves) if scored[i]]
            for leaf in sums.order_of_leaves(world.rank, world.size, leaves)
        ]
        flat = self.leaf_sum(own, write)
        return self.sum_in_order(losses), flat

    def reduce(self, flat: Array) -> None:
        """Sum gradients over the ranks, in place in this rank's slice."""
        comm, bounds = self.world.comm, self.partition.bounds
        if self.world.size == 1:
            return
        if self.comm_dtype == "bfloat16":
            sums.reduce_scatter_bfloat16(comm, flat, bounds)
        elif is_power_of_two(self.world.size):
            sums.reduce_halving(comm, flat, bounds)
        else:
            sums.reduce_scatter(comm, flat, bounds)

    def sum_in_order(self, numbers: Array) -> float:
        """Return the sum of one number per micro-batch, of which a rank knows its own."""
        size = self.world.size
        if size > 1:
            table = np.empty((size, len(numbers)))
            self.world.comm.Allgather(numbers, table)
            index = np.arange(len(numbers))
            numbers = table[index % size, index]
        return float(np.cumsum(numbers)[-1])  # one after the other, unlike np.sum

    def global_norm(self, flat: Array) -> float:
        """Return the norm of all gradients: their blocks' sums of squares, in order of blocks."""
        bounds, square_sum = self.partition.block_bounds, self.model.ops.adamw.square_sum
        own = self.partition.blocks[bounds[self.world.rank] : bounds[self.world.rank + 1]]
        squares = np.array([square_sum(flat[start:end]) for start, end in own])
        if self.world.size > 1:
            total = np.empty(bounds[-1])
            self.world.comm.Allgatherv(squares, [total, np.diff(bounds)])
            squares = total
        return math.sqrt(np.cumsum(squares)[-1])

    def gather_moments(self) -> dict[str, Params] | None:
        """Return the moments of the whole model on the first rank, and None on the others."""
        shapes = optim.moment_shapes(self.training, self.partition.shapes)
        found = {}
        for name, tree in self.optimizer.moments.items():
            own = flat_of(tree) if params.total(tree) else np.empty(0, self.parameters.dtype)
            flat = own if self.world.size == 1 else sums.gather(self.world.comm, own)
            if flat is not None:
                found[name] = params.views(shapes[name], flat)
        return found if self.world.is_first else None

    def load_moments(self, moments: dict[str, Params], steps: int) -> None:
        """Copy this rank's part of the moments of a checkpoint. `steps`: the steps made so far."""
        shapes = optim.moment_shapes(self.training, self.partition.shapes)
        low, high = self.partition.bounds[self.world.rank : self.world.rank + 2]
        for name, tree in self.optimizer.moments.items():
            start = 0  # of a leaf in the flat array of all parameters
            whole = zip(
                params.leaves(self.partition.shapes), params.leaves(shapes[name]),
                params.leaves(moments[name]), params.leaves(tree), strict=True,
            )  # fmt: skip
            for shape, kept, full, own in whole:
                end = start + math.prod(shape)
                if math.prod(kept):
                    part = slice(max(low - start, 0), max(high - start, 0))
                    own.reshape(-1)[...] = full.reshape(-1)[part]
                start = end
        self.optimizer.steps = steps

    def save(self, path: Path, record: Record) -> None:
        """Write the checkpoint of the run on the first rank, while the others wait.

        Any number of ranks writes the same numbers, and any number may resume from it.
        """
        moments = self.gather_moments()
        if moments is not None:
            state = replace(run_state.capture(self, record), moments=moments)
            checkpoint.write(path, run_state.contents(self), state)
        if self.world.size > 1:
            self.world.comm.Barrier()


def is_power_of_two(number: int) -> bool:
    """Return True for 1, 2, 4, 8, ..."""
    return number > 0 and number & number - 1 == 0


def check_division(size: int, micro_batches: int, leaves: int | None) -> None:
    """Raise InputError unless `size` ranks can share the micro-batches, and the leaves."""
    fitting = [n for n in range(1, micro_batches + 1) if micro_batches % n == 0]
    if leaves is not None:
        if type(leaves) is not int or not is_power_of_two(leaves):
            raise InputError(f"leaves is {show(leaves)}, but must be a power of two")
        if leaves > micro_batches:
            raise InputError(
                f"leaves is {leaves}, but a step has {micro_batches} micro-batches: use a larger "
                "grad_accumulation, or fewer leaves"
            )
        fitting = [n for n in fitting if leaves % n == 0]
    if size not in fitting:
        among = f"{micro_batches} micro-batches" + (f" and {leaves} leaves" if leaves else "")
        raise InputError(
            f"{size} ranks cannot share {among} evenly: start "
            f"{' or '.join(map(str, fitting))}, or change grad_accumulation"
        )
