"""Data-parallel training: a Trainer whose steps are made by all ranks together.

The global batch is cut into micro-batches by micro_batches.py. Micro-batch i belongs to rank i mod
N. A step has six parts:

    gradients of the rank's own micro-batches       no communication
    the losses, and what is asked of the ranks      a few numbers per rank
    the sum of gradients, by slice (reduce-scatter) sums.py; earlier, in part, with overlap.py
    the norm, from the blocks of all slices         one number per block
    the optimizer, on the rank's slice alone        moments exist once in the world (ZeRO-1)
    the new parameters (all-gather)                 sums.py

The owner of a slice computes it, and the others copy it: parameters are equal on all ranks.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgpt import arrays
from npgpt.arrays import Array
from npgpt.config import TrainingConfig
from npgpt.data.mapped_tokens import MappedTokens, MixedTokens
from npgpt.distributed import agreement, micro_batches, sums
from npgpt.distributed.agreement import require_equal, sample
from npgpt.distributed.collectives import first_reports
from npgpt.distributed.evaluation import in_order
from npgpt.distributed.kernel_probe import probe
from npgpt.distributed.micro_batch_rng import micro_batch_rng
from npgpt.distributed.overlap import Background, Choice, slices_of_blocks
from npgpt.distributed.partition import Partition, flat_of, matrices_of_blocks, nothing
from npgpt.distributed.world import World, once_per_machine
from npgpt.errors import InputError, RunError
from npgpt.gpt import GPT
from npgpt.model import finite, params
from npgpt.model.inputs import check_pair
from npgpt.model.params import Params
from npgpt.model.transformer import OnBlock, do_nothing
from npgpt.ops.linear_cross_entropy import IGNORED
from npgpt.rng import Generator
from npgpt.training import optim, run_state, schedule
from npgpt.training.events import Event, Progress, Step
from npgpt.training.run_state import Record
from npgpt.training.trainer import Trainer, require_finite
from npgpt.weights import checkpoint


class Asked(NamedTuple):
    """Requests to all ranks, which follow a step."""

    signal: int = 0  # number of the signal that asks them to stop; 0: none
    save: bool = False


class DataParallelTrainer(Trainer):
    """A training run on all ranks of a world.

    All ranks have the same arguments. Batch size times accumulation is the *global* batch.

    Parameters
    ----------
    world : World
        The ranks.
    model, train_tokens, val_tokens, training, rng, prompt, progress
        As for `Trainer`. `rng` draws the orders; dropout masks depend on `training.seed`, the step
        and the micro-batch. With `training.deterministic`, any number of ranks that divides
        `training.leaves` gives the same bits.

    Attributes
    ----------
    ask : callable
        Called once in each step, for what is asked of this rank. By default: nothing.
    asked : Asked
        What is asked of any rank, since the last step.
    optimizer : SGD, RMSprop, Adam, AdamW or Muon
        The optimizer of this rank's slice.
    gradients : Params
        The last gradient's slice of this rank, before clipping.

    Raises
    ------
    InputError
        If the ranks cannot share a step evenly, or an argument is invalid.
    """

    def __init__(
        self,
        model: GPT,
        train_tokens: Array | MappedTokens | MixedTokens,
        val_tokens: Array | MappedTokens | MixedTokens,
        training: TrainingConfig,
        rng: Generator,
        *,
        world: World,
        prompt: Sequence[int] = (),
        progress: Progress | None = None,
    ) -> None:
        self.micro_batches = micro_batches.count_micro_batches(training, world.size)
        if training.comm_dtype == "bfloat16" and model.dtype != np.float32:
            raise InputError(f"comm_dtype is 'bfloat16', but the model's dtype is {model.dtype}")
        if training.overlap == "on" and world.size > 1 and not world.has_threads:
            raise InputError(
                "overlap is on, but this MPI allows no calls of a second thread: choose auto or off"
            )
        super().__init__(
            model, train_tokens, val_tokens, training, rng, prompt=prompt, progress=progress
        )
        self.world = world
        self.ask: Callable[[], Asked] = Asked
        self.asked, self.slowest_rank, self.communication = Asked(), 0, 0.0
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
            "the prompt's tokens": self.prompt,
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
        self.blocks = slices_of_blocks(self.partition.shapes)
        self.overlap = Choice(training.overlap, world.size > 1 and world.has_threads)
        self.last_times = 0.0, 0.0  # seconds of the last step, and of its communication
        self.buffers: list[Array] = []  # kept: pages that are new take longer than an exchange
        self.make_optimizer()

    def make_optimizer(self) -> None:
        """Make the optimizer of this rank's slice."""
        model, training = self.model, self.training
        own = self.partition.views(self.parameters, self.world.rank)
        self.optimizer = optim.make(own, training, ops=model.ops)
        decays = optim.DECAYS[training.decay]
        decayed = {name for name, leaf in params.named(model.params) if decays(name, leaf)}
        self.optimizer.decays = lambda name, part: name in decayed  # a part is a vector

    @finite.ignore_overflow()
    def update(self, tokens: Array, targets: Array, lr: float) -> tuple[float, float | None]:
        """Update the parameters of all ranks by one global batch. The contract is Trainer's."""
        tokens, targets = check_pair(tokens, targets, self.model.config)
        begin = time.perf_counter()
        losses, flat = self.sum_of_own(tokens, targets)
        computed = time.perf_counter()
        self.background.wait()
        self.communication = time.perf_counter() - computed
        loss = self.exchange(losses, computed - begin)
        started = time.perf_counter()
        if self.progress.step == 0 and not np.isfinite(loss):  # the learning rate is not to blame
            raise finite.error(f"the loss is {loss}", self.model.params, self.model.path)
        require_finite("loss", loss, self.progress.step)
        self.reduce(flat, self.rest)
        self.gradients = self.partition.views(flat, self.world.rank)
        norm, scale, clip = None, 1.0, self.training.grad_clip
        if clip is not None:
            norm = self.global_norm(flat)
            if self.progress.step >= self.training.warmup_steps:
                scale = schedule.clip_scale(norm, clip)
        require_finite("gradient's norm", norm or 0.0, self.progress.step)
        self.communication += time.perf_counter() - started
        self.optimizer.step(self.gradients, lr=lr, scale=scale)
        started = time.perf_counter()
        if self.world.size > 1:
            sums.all_gather(self.world.comm, self.parameters, self.partition.bounds)
        ended = time.perf_counter()
        self.communication += ended - started
        self.last_times = ended - begin, self.communication
        self.model.path = None  # an error must not blame the file for what training has changed
        return loss, norm

    def _step_events(self, tokens: Array, targets: Array) -> Iterator[Event]:
        """Make one step and yield its events, the last with the times of many ranks."""
        with first_reports(self.world, RunError):  # of a loss, which all ranks have
            for event in super()._step_events(tokens, targets):
                if isinstance(event, Step) and self.world.size > 1:
                    event.communication = self.communication
                    event.slowest_rank = self.slowest_rank
                yield event

    def sum_of_own(self, tokens: Array, targets: Array) -> tuple[Array, Array]:
        """Return this rank's shares of the loss (M,), by micro-batch, and its gradients (n,).

        With overlap, `background` may still add them to those of other ranks, but for `rest`.
        """
        world, count = self.world, self.micro_batches
        parts = np.array_split(np.arange(len(tokens)), count)
        scored = [int(np.count_nonzero(targets[part] != IGNORED)) for part in parts]
        losses, averaged = np.zeros(count), self.count_averaged(scored)

        def write(i: int | None, out: Array, on_block: OnBlock = do_nothing) -> None:
            if i is None:
                out.fill(0)
                return
            rng = micro_batch_rng(self.training.seed, self.progress.step, i, ops=self.rng.ops)
            value, _ = self.model.loss_and_gradients(
                tokens[parts[i]],
                targets[parts[i]],
                rng,
                out=params.views(self.partition.shapes, out),
                dloss=scored[i] / averaged,
                on_block=on_block,
            )
            losses[i] = value * (scored[i] / sum(scored))

        leaves = micro_batches.count_parts(self.training, world.size)
        own = [
            [i for i in range(leaf, count, leaves) if scored[i]]
            for leaf in sums.order_of_leaves(world.rank, world.size, leaves)
        ]
        last, chain = self.leaf_sum.prepare(own, write)

        def add(part: slice) -> None:
            sums.add_up(chain, part)
            self.reduce(chain[0], part, self.background.wait_for)

        blocks = self.blocks if self.overlap.is_on else []
        self.rest = slice(0, blocks[-1].start if blocks else len(chain[0]))
        self.background = Background(add, blocks)
        write(last, chain[-1], self.background.release)
        sums.add_up(chain, self.rest)
        return losses, chain[0]

    def count_averaged(self, scored: list[int]) -> int:
        """Return the number of targets whose mean loss the gradients are of.

        scored : the number of targets in each micro-batch that are not ignored
        """
        return sum(scored)

    def reduce(self, flat: Array, part: slice, wait: sums.Wait = sums.block) -> None:
        """Sum a part of the gradients over the ranks, in place in this rank's slice."""
        if self.world.size > 1:
            in_bfloat16 = self.training.comm_dtype == "bfloat16"
            reduce = sums.reduce_scatter_bfloat16 if in_bfloat16 else sums.reduce
            bounds = np.clip(self.partition.bounds, part.start, part.stop).tolist()
            reduce(self.world.comm, flat, bounds, self.buffers, wait)

    def exchange(self, losses: Array, seconds: float) -> float:
        """Return the loss of the global batch; learn what is asked and which rank is the slowest.

        losses : (M,), of which a rank knows those of its micro-batches
        seconds : the time in which this rank has computed its gradients
        """
        signal, save = self.ask()
        size, index = self.world.size, np.arange(len(losses))
        table = np.array([*losses, signal, save, seconds, *self.last_times])[None]
        if size > 1:
            table = agreement.all_gather(self.world, table[0])
        signals, saves, times, *last_times = table[:, -5:].T
        self.asked = Asked(int(signals.max()), bool(saves.any()))
        self.slowest_rank = int(times.argmax())
        self.overlap.observe(*(float(seconds.max()) for seconds in last_times))
        return float(np.cumsum(table[index % size, index])[-1])  # in order, unlike np.sum

    def each(self, function: Callable[[int], float], count: int) -> list[float]:
        """Return the values of a function of 0, 1, ..., count - 1, of which each has its share."""
        own = [function(i) for i in range(self.world.rank, count, self.world.size)]
        return in_order(self.world, own, count)

    def sample(self) -> list[int]:
        """Return the prompt and its greedy continuation, which the first rank generates."""
        tokens = np.zeros(len(self.prompt) + self.training.sample_tokens, np.int64)
        if self.world.is_first:
            tokens[:] = super().sample()
        if self.world.size > 1:
            self.world.comm.Bcast(tokens)
        return tokens.tolist()

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

    def gather_moments(self) -> dict[str, Params]:
        """Return the moments of the whole model on the first rank, and none on the others."""
        shapes = optim.moment_shapes(self.training, self.partition.shapes)
        found = {}
        for name, tree in self.optimizer.moments.items():
            own = flat_of(tree) if params.total(tree) else np.empty(0, self.parameters.dtype)
            flat = own if self.world.size == 1 else sums.gather(self.world.comm, own)
            if flat is not None:
                found[name] = params.views(shapes[name], flat)
        return found

    def moments_to_copy(self) -> dict[str, Params]:
        """Return trees of zeros with the shapes of `gather_moments`; no rank waits for others."""
        zero = np.zeros((), self.parameters.dtype)
        return {
            name: params.map_leaves(tree, lambda shape: np.broadcast_to(zero, tuple(shape)))
            for name, tree in self.shapes_to_gather().items()
        }

    def shapes_to_gather(self) -> dict[str, Params]:
        """Return the Shapes of the moments in a checkpoint."""
        return optim.moment_shapes(self.training, self.partition.shapes)

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
        state = run_state.capture(self, record)
        if self.world.is_first:
            checkpoint.write(path, run_state.contents(self), state)
        if self.world.size > 1:
            self.world.comm.Barrier()
