"""Training runs that are killed at random moments and resumed must end in the same bits.

    python -m parity_tests.support.kills N [SEED]

`kill -9` ends a run three times at most, at a random moment: in a step, in an evaluation, while a
checkpoint is written behind. The run is resumed to its end. Its checkpoints, metrics, samples and
best model must be those of a run that was never killed. Linux only: every run is a fork.
"""

import functools
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from npgpt.training.metrics import CLOCK_KEYS
from parity_tests.support.faults import elsewhere
from parity_tests.support.runs import TEXT, final, lines

RUN = (
    "train --data text.txt --out run --ops numpy --steps 40 --n-layer 1 --n-embd 16 --n-head 2 "
    "--context-length 16 --batch-size 4 --stride 16 --eval-every 2 --eval-batches 1 --lr 0.1 "
    "--sample-tokens 3 --warmup-steps 30 --keep 2"
)
EVERY = (1, 3, 7)  # steps between two checkpoints


def fork(command: str, log: Path) -> int:
    """Start a command in a child. Return its process id."""
    if process := os.fork():
        return process
    status = 70
    try:
        from npgpt.cli.main import main

        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        status = main(command.split())
    finally:
        os._exit(status)


def run(command: str, seconds: float | None = None) -> bool:
    """Run a command; kill it after `seconds`. Return True if it ended first, with success."""
    log = Path("log.txt")
    process = fork(command, log)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == 0 or (code == -signal.SIGKILL and seconds is not None), log.read_text()
    return code == 0


def result() -> dict[str, Any]:
    """Return all that must be equal in the end."""
    directory = Path("run")
    # The temporary file of a picture is left: npgpt plot, which takes no lock, may be writing it.
    names = [name for name in os.listdir(directory) if not name.startswith(".loss.png.")]
    found: dict[str, Any] = {"names": sorted(names)}
    for path in directory.glob("checkpoint*.h5"):
        (directory / "one").mkdir()
        os.link(path, directory / "one" / "checkpoint.h5")
        found[path.name] = final(directory / "one")
        os.unlink(directory / "one" / "checkpoint.h5")
        (directory / "one").rmdir()
    metrics = lines(directory / "metrics.jsonl")
    found["metrics"] = [{k: v for k, v in line.items() if k not in CLOCK_KEYS} for line in metrics]
    for name in ("samples.txt", "best.h5"):
        found[name] = (directory / name).read_bytes()
    return found


def again(command: str) -> str:
    """Return the command that continues a run, or starts it if there is none."""
    return "train --resume run" if os.path.exists("run/config.json") else command


@functools.cache
def measure(every: int) -> tuple[str, dict[str, Any], float]:
    """Run without a kill. Return the command, its result and its seconds."""
    command = f"{RUN} --checkpoint-every {every}"
    with elsewhere():
        Path("text.txt").write_text(TEXT)
        started = time.perf_counter()
        assert run(command)
        return command, result(), time.perf_counter() - started


def attempt(command: str, seconds: float, draw: random.Random) -> tuple[dict[str, Any], Counter]:
    """Run with kills, then to the end. Return the result, and what the kills left."""
    kills: Counter = Counter()
    with elsewhere():
        Path("text.txt").write_text(TEXT)
        for _ in range(draw.randint(1, 3)):
            if run(again(command), draw.uniform(0, seconds)):
                break
            names = os.listdir("run") if os.path.exists("run") else []
            kills["kills"] += 1
            kills["while a checkpoint was written"] += any(".h5." in name for name in names)
            kills["before the first checkpoint"] += "checkpoint.h5" not in names
            kills["with a best model ahead"] += any(".best-" in name for name in names)
        assert run(again(command))
        return result(), kills


def main(count: int, seed: int = 1) -> int:
    """Print how many of `count` runs ended in the same bits. Return 1 unless all did."""
    import h5py  # noqa: F401  # what is imported here is not imported by every child

    from npgpt.cli.main import main as command_line

    with elsewhere():
        Path("text.txt").write_text(TEXT)
        command_line(f"{RUN} --steps 2".split())
    draw, same, kills = random.Random(seed), 0, Counter()
    for number in range(count):
        command, whole, seconds = measure(EVERY[number % len(EVERY)])
        found, left = attempt(command, seconds, draw)
        kills += left
        if found == whole:
            same += 1
        else:
            wrong = sorted(k for k in found.keys() | whole.keys() if found.get(k) != whole.get(k))
            print(f"run {number} (seed {seed}): {', '.join(wrong)} differ", flush=True)
    print(f"{same} of {count} runs ended in the same bits; {dict(kills)}")
    return int(same != count)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
