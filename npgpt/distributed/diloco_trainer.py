"""DiLoCo over ranks: each makes H steps by itself between two exchanges (diloco.py).

A step's batch is cut as in data-parallel training, and each rank takes an inner step on its own
micro-batches. Then, once in a round:

    Delta_i = theta - theta_i                            on each rank
    their sum, by slice (reduce-scatter)                 sums.py
    the outer optimizer, on the rank's slice alone       its momentum exists once in the world
    the new theta, from which all continue (all-gather)  sums.py

A round ends after H steps, and earlier with an epoch, before a checkpoint, and with the run. An
evaluation that is due within a round follows its end. Parameters are then those of theta.

A checkpoint has one set of inner moments, their mean over the ranks. All continue from it: the run
that has written it as well, so that one resumed on as many ranks has the same bits.
"""

import time
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.distributed import sums
from npgpt.distributed.diloco import OuterOpt
from npgpt.distributed.overlap import Choice
from npgpt.distributed.partition import flat_of
from npgpt.distributed.trainer import DataParallelTrainer
from npgpt.model import finite, params
from npgpt.model.inputs import check_pair
from npgpt.model.params import Params
from npgpt.training import optim, schedule
from npgpt.training.checkpoints import is_due
from npgpt.training.trainer import Trainer, require_finite


class DiLoCoTrainer(DataParallelTrainer):
    """A training run on all ranks of a world, which exchange parameters every H steps.

    Parameters
    ----------
    *arguments
        As for `DataParallelTrainer`. `training.sync_every` is H.

    Attributes
    ----------
    theta : (n,) array
        The outer parameters.
    outer : OuterOpt
        The optimizer of this rank's slice of theta.
    optimizer : SGD, RMSprop, Adam, AdamW or Muon
        The inner optimizer of all parameters.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        low, high = self.partition.bounds[self.world.rank : self.world.rank + 2]
        self.own = slice(low, high)
        self.theta = self.parameters.copy()
        t = self.training
        self.outer = OuterOpt(self.theta[self.own], t.outer_lr, t.outer_momentum)
        self.started = self.progress.step  # index of the round's first step
        self.is_end = False  # of a round, after the last step
        self.overlap = Choice("off", False)

    def make_optimizer(self) -> None:
        """Make the inner optimizer, of all parameters."""
        self.optimizer = optim.make(self.model.params, self.training, ops=self.model.ops)

    def count_averaged(self, scored: list[int]) -> int:
        """Return the number of targets of this rank, whose mean loss the gradients are of."""
        return sum(scored[self.world.rank :: self.world.size])

    @finite.ignore_overflow()
    def update(self, tokens: Array, targets: Array, lr: float) -> tuple[float, float | None]:
        """Make an inner step on this rank's part of the batch, and maybe end the round."""
        tokens, targets = check_pair(tokens, targets, self.model.config)
        started, index = time.perf_counter(), self.progress.step
        losses, flat = self.sum_of_own(tokens, targets)
        loss = self.exchange(losses, time.perf_counter() - started)
        if index == 0 and not np.isfinite(loss):  # the learning rate is not to blame
            raise finite.error(f"the loss is {loss}", self.model.params, self.model.path)
        require_finite("loss", loss, index)
        self.gradients = params.views(self.partition.shapes, flat)
        norm, scale, clip = None, 1.0, self.training.grad_clip
        if clip is not None:
            norm = schedule.global_norm(self.gradients, ops=self.model.ops)
            require_finite("gradient's norm", norm, index)
            if index >= self.training.warmup_steps:
                scale = schedule.clip_scale(norm, clip)
        self.optimizer.step(self.gradients, lr=lr, scale=scale)
        self.model.path = None
        started = time.perf_counter()
        if self.is_end:
            self.started = index
        self.is_end = self.ends_round()
        if self.is_end:
            self.synchronize(flat)
        self.communication = time.perf_counter() - started
        return loss, norm

    def ends_round(self) -> bool:
        """Return True if the round ends with the step under way: on all ranks the same."""
        progress, asked = self.progress, self.asked
        done, ends_epoch = progress.step + 1, progress.position + 1 == len(self.steps_data)
        return (
            done % (self.training.sync_every or 1) == 0
            or done == self.total_steps
            or ends_epoch
            or is_due(self.training, done, ends_epoch)
            or asked.save
            or asked.signal > 0
        )

    def synchronize(self, buffer: Array) -> None:
        """Make the outer step, and continue from theta on all ranks. `buffer`: (n,) for Delta."""
        Delta = np.subtract(self.theta, self.parameters, out=buffer)
        self.reduce(Delta, slice(0, len(Delta)))
        own = Delta[self.own]
        own /= self.world.size
        self.outer.step(self.theta[self.own], own)
        if self.world.size > 1:
            sums.all_gather(self.world.comm, self.theta, self.partition.bounds)
        self.parameters[...] = self.theta

    def evaluates_after(self, index: int) -> bool:
        """Return True at the end of a round in which an evaluation was due."""
        due_before = (self.started - 1) // self.training.eval_every
        return self.is_end and index // self.training.eval_every > due_before

    def gather_moments(self) -> dict[str, Params]:
        """Return the mean of the inner moments, which all ranks have from now on, and the outer.

        The outer momentum is on the first rank alone.
        """
        found = {name: tree for name, tree in self.optimizer.moments.items() if params.total(tree)}
        momentum: Array | None = self.outer.b
        if self.world.size > 1:
            for tree in found.values():
                self.average(flat_of(tree))
            momentum = sums.gather(self.world.comm, self.outer.b)
        if momentum is not None:
            found["outer"] = params.views(self.partition.shapes, momentum)
        return found

    def shapes_to_gather(self) -> dict[str, Params]:
        """Return the Shapes of the moments in a checkpoint."""
        inner = {name for name, tree in self.optimizer.moments.items() if params.total(tree)}
        found = {name: tree for name, tree in super().shapes_to_gather().items() if name in inner}
        return found | {"outer": self.partition.shapes}

    def average(self, flat: Array) -> None:
        """Replace an array (n,) by its mean over the ranks, with the same bits on all."""
        comm, rank, size = self.world.comm, self.world.rank, self.world.size
        bounds = [len(flat) * i // size for i in range(size + 1)]
        sums.reduce(comm, flat, bounds)
        flat[bounds[rank] : bounds[rank + 1]] /= size
        sums.all_gather(comm, flat, bounds)

    def load_moments(self, moments: dict[str, Params], steps: int) -> None:
        """Copy the inner moments of a checkpoint, and this rank's part of the outer momentum."""
        inner = {name: tree for name, tree in moments.items() if name != "outer"}
        Trainer.load_moments(self, inner, steps)
        self.outer.b = flat_of(moments["outer"])[self.own].copy()
