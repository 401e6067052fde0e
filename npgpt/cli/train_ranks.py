"""`npgpt train` on many ranks: the first one prints and writes files, and all decide together."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from npgpt.config import RunConfig
from npgpt.distributed.world import World
from npgpt.system.streams import Output

if TYPE_CHECKING:
    from npgpt.cli.signals import StopRequest
    from npgpt.distributed.trainer import Asked
    from npgpt.training.checkpoints import Checkpoints
    from npgpt.training.events import Event
    from npgpt.training.trainer import Trainer


class Silent:
    """The bar, the run directory and the checkpoints of a rank that shows and writes nothing."""

    def __init__(self, trainer: "Trainer"):
        self.trainer = trainer

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def checkpoints(self, trainer: "Trainer") -> "Silent":
        """Return this object, which stands for the checkpoints as well."""
        return self

    def save(self, *, last: bool = False) -> None:
        """Send this rank's moments to the first one, which writes the checkpoint."""
        self.trainer.gather_moments()

    def is_due_by_clock(self) -> bool:
        """Return False: the clock of the first rank decides."""
        return False

    def ignore(self, event: "Event | str | None" = None) -> None:
        """Do nothing with a line or an event."""

    show = print = record = check = prepare = add_evaluation = finish = ignore


def trainer_kind(settings: RunConfig, world: World) -> "Callable[..., Trainer]":
    """Return the class of a run's trainer, which takes the arguments of `Trainer`."""
    if settings.training.sync_every is not None:
        from npgpt.distributed.diloco_trainer import DiLoCoTrainer

        return functools.partial(DiLoCoTrainer, world=world)
    if world.size > 1 or settings.training.deterministic:
        from npgpt.distributed.trainer import DataParallelTrainer

        return functools.partial(DataParallelTrainer, world=world)
    from npgpt.training.trainer import Trainer

    return Trainer


def describe(trainer: "Trainer", world: World) -> str | None:
    """Return a line about how the ranks share a step; None if there is one, as usual."""
    training = trainer.training
    if world.size == 1 and not training.deterministic and training.sync_every is None:
        return None
    from npgpt.distributed import micro_batches

    ranks = f"{world.size} rank{'s' if world.size > 1 else ''}"
    equal = f", equal bits on 1 to {training.leaves} ranks" if training.deterministic else ""
    rounds = f"; an exchange every {training.sync_every} steps" if training.sync_every else ""
    return f"{ranks}{equal}: {micro_batches.describe(training, world.size)}{rounds}"


def ask(
    trainer: "Trainer", stop: "StopRequest", checkpoints: "Checkpoints | Silent"
) -> "Callable[[], Asked]":
    """Return a function of what the run is asked to do after a step: on all ranks the same."""
    from npgpt.distributed.trainer import Asked, DataParallelTrainer

    def own() -> Asked:
        return Asked(stop.number or 0, checkpoints.is_due_by_clock())

    if isinstance(trainer, DataParallelTrainer):
        trainer.ask = own  # called within a step: the ranks agree in an exchange that they make
        return lambda: trainer.asked
    return own


def agree_on_fit(settings: RunConfig, world: World) -> RunConfig:
    """Return settings that were fitted to the memory of each machine with the smallest fit."""
    if world.size == 1:
        return settings
    from npgpt.distributed.collectives import smallest

    training = settings.training
    batch, warmup = smallest(world, [training.batch_size, training.warmup_steps])
    return replace(settings, training=replace(training, batch_size=batch, warmup_steps=warmup))


def follow_launcher() -> None:
    """Write to no terminal that the launcher does not have itself.

    mpirun gives its ranks terminals of their own, and may write to a file.
    """
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        name = ""
        with contextlib.suppress(OSError):  # another system than Linux, or another user's launcher
            name = os.readlink(f"/proc/{os.getppid()}/fd/{descriptor}")
        if isinstance(stream, Output) and not name.startswith(("/dev/pts/", "/dev/tty")):
            stream.is_terminal = False


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Drop what is printed on standard output."""
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        yield
