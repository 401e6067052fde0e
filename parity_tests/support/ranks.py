"""Programs on several ranks, each started by mpirun in a process of its own with a time limit.

    mpirun -n 4 python -m parity_tests.support.ranks train FILE     a small run, its bits in a file
    mpirun -n 2 python -m parity_tests.support.ranks raise          the last rank raises an error
    mpirun -n 3 python -m parity_tests.support.ranks compare        the last rank has other settings
    mpirun -n 2 python -m parity_tests.support.ranks kill           the last rank is killed
    mpirun -n 4 python -m parity_tests.support.ranks npgpt RANK STEP ACTION train ...

The last one is the command line, with an ACTION on one rank in one step: the name of a signal that
it sends to itself, or "raise" for an error. With --overlap on, it acts within backward, while its
thread sends the last block. A RANK of -1 is none.

`train FILE optimizer leaves dtype overlap` may be repeated: a start costs more than a run. Each
saves a checkpoint after half of its steps beside FILE, and continues from one that exists.
"""

import functools
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from npgpt.config import Config, RunConfig, TrainingConfig
from npgpt.distributed import agreement, partition, sums, world
from npgpt.errors import InputError, RunError
from parity_tests.support.processes import LONG
from parity_tests.support.sources import ROOT

STEPS = 20
LONG_RUN = 50  # steps of runs with 8 leaves, which also have three micro-batches in each
MICRO_BATCHES = 12  # divisible by 1, 2, 3 and 4; three in each of 4 leaves
MPIRUN = shutil.which(
    "mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
)
CONFIG = Config(vocab_size=257, context_length=8, n_layer=1, n_head=2, n_embd=8, dropout=0.2)
TRAINING = TrainingConfig(
    steps=STEPS, batch_size=1, grad_accumulation=MICRO_BATCHES, lr=1e-2, min_lr=1e-3,
    warmup_steps=2, grad_clip=0.3, eval_every=7, eval_batches=1, sample_tokens=2, seed=7,
    decay="matrices",
)  # fmt: skip
# as root, with more ranks than cores, which would wait for each other without rest
SETTINGS = {
    "NUMBA_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
}


@functools.cache
def why_not() -> str | None:
    """The reason for which no test can start ranks here."""
    if find_spec("mpi4py") is None:
        return "mpi4py is not installed: pip install 'npgpt[mpi-local]'"
    return None if MPIRUN else "mpirun was not found: pip install 'npgpt[mpi-local]'"


def start(size: int, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run one of the programs above on `size` ranks."""
    if why_not():
        pytest.skip(why_not())
    program = [sys.executable, "-W", "ignore", "-m", "parity_tests.support.ranks"]
    return subprocess.run(
        [*mpirun(size), *program, *map(str, arguments)],
        env=os.environ | SETTINGS, cwd=cwd, capture_output=True, text=True, timeout=LONG,
    )  # fmt: skip


def mpirun(size: int) -> list[str]:
    """Return the beginning of a command that starts `size` ranks."""
    return [str(MPIRUN), "-n", str(size), "--bind-to", "none"]


def alone(program: str, **variables: str) -> subprocess.CompletedProcess:
    """Run a Python program in one process, with environment variables of a launcher."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | SETTINGS | variables, capture_output=True, text=True, timeout=LONG,
    )  # fmt: skip


def train(
    here: world.World, path: str, optimizer: str, leaves: int, dtype: str, overlap: str
) -> None:
    """Make a run, and write its bits into a file on the first rank."""
    from dataclasses import replace

    from npgpt.distributed.trainer import DataParallelTrainer
    from npgpt.gpt import GPT
    from npgpt.model.params import named
    from npgpt.rng import Generator
    from npgpt.training import run_state
    from npgpt.training.events import Evaluation, Progress, Step

    tokens = np.random.default_rng(0).integers(0, 257, 600)
    sums_of: dict = dict(deterministic=leaves > 0, leaves=leaves or 1, comm_dtype=dtype)
    length: dict = dict(steps=LONG_RUN, grad_accumulation=3 * leaves) if leaves == 8 else {}
    training = replace(TRAINING, optimizer=optimizer, overlap=overlap, **sums_of, **length)
    half = Path(path).with_suffix(".h5")
    settings = RunConfig(config=CONFIG, training=training)
    rng, saved, progress = Generator(training.seed), None, None
    if half.exists():
        _, model, saved = run_state.read(half)
        rng = Generator.from_state(saved.random_state)
        progress = Progress(**saved.state["progress"], order=saved.order)
    else:
        model = GPT(CONFIG, seed=rng, tokenizer="byte")
    trainer = DataParallelTrainer(
        model, tokens, tokens[:40], training, rng, progress=progress, world=here
    )  # fmt: skip
    if saved:
        trainer.load_moments(saved.moments, progress.step)
    events = []
    for event in trainer.events():
        events.append(event)
        if isinstance(event, Step) and event.step == STEPS // 2 - 1 and leaves:
            trainer.save(half, run_state.Record(settings, "a digest"))
    steps = [event for event in events if isinstance(event, Step)]
    evaluations = [event for event in events if isinstance(event, Evaluation)]
    moments = trainer.gather_moments()
    own = sum(tree.wte.weight.base.nbytes for tree in trainer.optimizer.moments.values())
    if here.is_first:
        flat = {f"{k}.{name}": a for k, tree in moments.items() for name, a in named(tree)}
        np.savez(
            path, parameters=trainer.parameters, losses=[step.loss for step in steps],
            norms=[step.norm for step in steps], rng=rng.state, moment_bytes=own,
            validation=[event.val_loss for event in evaluations], **flat,
        )  # fmt: skip


def main(here: world.World) -> int:
    partition.BLOCK, sums.BUCKET = 16, 512  # as many cuts and buckets as in a large model
    command, *arguments = sys.argv[1:]
    if command == "train":
        for i in range(0, len(arguments), 5):
            path, optimizer, leaves, dtype, overlap = arguments[i : i + 5]
            train(here, path, optimizer, int(leaves), dtype, overlap)
        return 0
    if command == "compare":
        here = here._replace(host=f"machine-{here.rank // 2}")
        agreement.require_equal(here, {"the setting lr": here.rank // 2})
        return 0
    if here.rank == here.size - 1:
        if command == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RunError("the loss became nan at step 3")
    here.comm.Barrier()  # for ever: the last rank never comes
    return 0


def npgpt(rank: str, step: str, action: str, *arguments: str) -> int:
    """Run a command of npgpt, with an action on one rank."""
    from npgpt.cli.main import main
    from npgpt.distributed.overlap import Background
    from npgpt.distributed.trainer import DataParallelTrainer

    compute, release = DataParallelTrainer.sum_of_own, Background.release

    def act():
        if action == "raise":
            raise InputError("a.bin has token 70000, but must be below 257")
        signal.raise_signal(getattr(signal, action))

    def releasing(self):
        release(self)
        act()

    def acting(self, *batch):
        is_now = (self.world.rank, self.progress.step) == (int(rank), int(step))
        Background.release = releasing if is_now and self.overlap.is_on else release
        if is_now and not self.overlap.is_on:
            act()
        return compute(self, *batch)

    DataParallelTrainer.sum_of_own = acting
    return main([*arguments])


if __name__ == "__main__":
    if sys.argv[1] == "npgpt":
        sys.exit(npgpt(*sys.argv[2:]))
    sys.exit(world.run(main))
