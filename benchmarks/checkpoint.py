"""Measure the wait of training for a checkpoint of GPT-2 small with AdamW's moments (1.5 GB).

    python -m benchmarks.checkpoint [--rounds 5]

prepare    seconds of the training thread after the first step, which starts to take the memory of
           the copy
stall      seconds of the training thread for a checkpoint that is written behind: the check that
           all parameters are finite, and the copy
beside     seconds that matrix products on all cores lose while the file is written: the writer
           takes part of a core
best       seconds of the training thread for a copy of the best model
foreground seconds of a checkpoint without a copy, as at the end of a run
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import harness
from npgpt import backends
from npgpt.config import Config, RunConfig, TrainingConfig
from npgpt.gpt import GPT
from npgpt.model import params
from npgpt.rng import Generator
from npgpt.training.checkpoints import Checkpoints
from npgpt.training.events import Evaluation
from npgpt.training.run_state import Record
from npgpt.training.trainer import Trainer

LIMIT = 0.5  # seconds of the training thread


def make_trainer() -> Trainer:
    """Return a run of GPT-2 small in which every number has been written to."""
    ops = backends.get("numpy", dtype="float32")
    config, tokens = Config(), np.arange(4096)
    model = GPT.from_params(config, params.zeros(config), ops=ops, tokenizer="gpt2")
    trainer = Trainer(model, tokens, tokens, TrainingConfig(batch_size=1), Generator(1, ops=ops))
    for tree in (model.params, *trainer.optimizer.moments.values()):
        for number, leaf in enumerate(params.leaves(tree)):
            leaf[...] = 1 + number / 100
    trainer.progress.step = 1
    return trainer


def time_lost(checkpoints: Checkpoints) -> float:
    """Compute until the checkpoint is written. Return the seconds more than without a writer."""
    x = np.ones((1024, 1024), np.float32)
    count, started = 0, time.perf_counter()
    while checkpoints.background.busy:
        x @ x
        count += 1
    taken = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(count):
        x @ x
    return taken - (time.perf_counter() - started)


def measure(trainer: Trainer, directory: Path) -> dict[str, float]:
    """Save once behind and once in the foreground. Return the seconds of each part."""
    found = {}
    with Checkpoints(directory, trainer, Record(RunConfig(), "")) as checkpoints:
        started = time.perf_counter()
        checkpoints.prepare()
        found["prepare"] = time.perf_counter() - started
        checkpoints.background.wait()  # for a second or two, in which training continues
        started = time.perf_counter()
        checkpoints.save()
        found["stall"] = time.perf_counter() - started
        found["beside"] = time_lost(checkpoints)
        checkpoints.check()
        started = time.perf_counter()
        checkpoints.add_evaluation(Evaluation(0, 1, 1, 1.0, 1.0, 1.0, 1.0))
        found["best"] = time.perf_counter() - started
        checkpoints.candidate = None
        started = time.perf_counter()
        checkpoints.save(last=True)
        found["foreground"] = time.perf_counter() - started
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    trainer = make_trainer()
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(trainer, Path(folder)) for _ in range(rounds)]
    seconds = {name: [one[name] for one in found] for name in found[0]}
    for name, all_of_it in seconds.items():
        median = statistics.median(all_of_it)
        print(f"{name:<10} {median:.3f} s ({min(all_of_it):.3f} to {max(all_of_it):.3f})")
    harness.write("checkpoint", {"limit": LIMIT, "seconds": seconds})


if __name__ == "__main__":
    main()
