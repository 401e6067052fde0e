"""Runs on four ranks of which one is killed: all must end, and the run resumes bit for bit.

    python -m parity_tests.support.rank_kills N [SEED]

`kill -9` ends one rank in a random step: while it computes, at one of its calls of MPI, or while it
saves. Within 30 seconds all ranks must have ended, with a status that is not 0 and a message that
names the rank and its host. The checkpoint must be complete. The run is resumed on one, two or four
ranks, and must end in the bits of a run that was never killed. Linux only.
"""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from parity_tests.support import ranks
from parity_tests.support.faults import elsewhere
from parity_tests.support.processes import LONG
from parity_tests.support.runs import TEXT, final
from parity_tests.support.time_left import with_time_left

SIZE, STEPS, LIMIT = 4, 12, 30  # LIMIT: seconds
RUN = (
    "train --data text.txt --ops numpy --steps 12 --n-layer 1 --n-embd 16 --n-head 2 --dropout 0.1 "
    "--context-length 16 --batch-size 8 --stride 16 --eval-every 4 --eval-batches 1 --lr 0.01 "
    "--sample-tokens 3 --grad-clip 0.5 --checkpoint-every 2 --deterministic --leaves 4 --overlap on"
).split()
WHEN = "computing", "communicating", "saving"
CALLS = {"computing": 1, "communicating": 8, "saving": 3}  # at one of these calls, or after it


def kill() -> None:
    """End this process as a lack of memory would, and note when."""
    Path("killed").write_text(str(time.time()))
    os.kill(os.getpid(), signal.SIGKILL)


class Comm:
    """An MPI communicator that kills the process before its call number `last`."""

    def __init__(self, comm: Any, last: int):
        self.comm, self.last = comm, last

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.comm, name)
        if name[0].isupper() and not name.startswith("Get_"):
            self.last -= 1
            if self.last <= 0:
                kill()
        return found


def child(rank: int, step: int, when: str, call: int, arguments: list[str]) -> int:
    """Run a command; on one rank, die in this step."""
    from npgpt.cli.main import main
    from npgpt.distributed.trainer import DataParallelTrainer
    from npgpt.weights import checkpoint

    compute, gather, write = (
        DataParallelTrainer.sum_of_own, DataParallelTrainer.gather_moments, checkpoint.write,
    )  # fmt: skip

    def is_now(trainer: DataParallelTrainer) -> bool:
        return (trainer.world.rank, trainer.progress.step) == (rank, step)

    def computing(self, *batch):
        if is_now(self) and when == "computing":
            kill()
        if is_now(self) and when == "communicating":
            self.world = self.world._replace(comm=Comm(self.world.comm, call))
        return compute(self, *batch)

    def gathering(self):
        if self.world.rank == rank and self.progress.step > step and when == "saving":
            if rank:
                self.world = self.world._replace(comm=Comm(self.world.comm, call))
            else:
                checkpoint.write = writing
        return gather(self)

    def writing(*arguments):
        threading.Timer(random.uniform(0, 0.02), kill).start()
        return write(*arguments)

    DataParallelTrainer.sum_of_own = computing
    DataParallelTrainer.gather_moments = gathering
    return main(arguments)


def run(size: int, *arguments: object) -> subprocess.CompletedProcess:
    """Run this module's child on `size` ranks."""
    program = [sys.executable, "-m", "parity_tests.support.rank_kills", "child"]
    return subprocess.run(
        [*ranks.mpirun(size), *program, *map(str, arguments)],
        env=os.environ | ranks.SETTINGS, capture_output=True, text=True, timeout=LONG,
    )  # fmt: skip


def left_over() -> list[str]:
    """Return the processes of this module's children that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            same = os.readlink(path.parent / "cwd") == os.getcwd()
        except OSError:
            continue
        if same and "rank_kills child" in line:
            found.append(line)
    return found


def attempt(when: str, draw: random.Random) -> tuple[float, list[str], bool]:
    """Kill one rank, then resume. Return the seconds to the end of all, faults, and if it died."""
    rank, step, faults = draw.randrange(SIZE), draw.randrange(STEPS - 1), []
    call = draw.randint(1, CALLS[when])
    Path("text.txt").write_text(TEXT)
    said = run(SIZE, rank, step, when, call, *RUN, "--out", "run")
    killed, seconds = Path("killed"), 0.0
    if killed.exists():
        seconds = time.time() - float(killed.read_text())
    named = re.search(rf"rank {rank} .*on\s+node\s+\S+\s+exited\s+on\s+signal 9", said.stderr, re.S)
    died = said.returncode != 0
    if died and not named:
        faults.append(f"no message names rank {rank}: {said.stderr[-300:]}")
    if died and seconds > LIMIT:
        faults.append(f"all ended after {seconds:.0f} s")
    if left := left_over():
        faults.append(f"{len(left)} processes are left")
    if os.path.exists("run/checkpoint.h5"):
        final("run")  # verifies all checksums
    again = (
        ["train", "--resume", "run"]
        if os.path.exists("run/config.json")
        else [*RUN, "--out", "run"]
    )
    size = draw.choice([1, 2, 4])
    said = run(size, -1, 0, when, 0, *again)
    if said.returncode:
        faults.append(f"{size} ranks could not resume: {said.stderr[-300:]}")
    return seconds, faults, died


def main(count: int, seed: int = 1) -> int:
    """Print how many of `count` runs ended in the same bits. Return 1 unless all did."""
    with elsewhere():
        Path("text.txt").write_text(TEXT)
        assert run(1, -1, 0, "", 0, *RUN, "--out", "run").returncode == 0
        complete = final("run")
    draw, same, kills, longest = random.Random(seed), 0, Counter(), 0.0
    for number in with_time_left(range(count), count, "kills"):
        when = WHEN[number % len(WHEN)]
        with elsewhere():
            seconds, faults, died = attempt(when, draw)
            if not faults and final("run") != complete:
                faults.append("other bits")
        kills[when] += died
        same += not faults
        longest = max(longest, seconds)
        for fault in faults:
            print(f"run {number} (seed {seed}), killed while {when}: {fault}", flush=True)
    print(f"{same} of {count} runs ended in the same bits; kills: {dict(kills)}; at most "
          f"{longest:.1f} s from a kill to the end of all ranks")  # fmt: skip
    return int(same != count)


if __name__ == "__main__":
    if sys.argv[1] == "child":
        rank, step, when, call, *arguments = sys.argv[2:]
        sys.exit(child(int(rank), int(step), when, int(call), arguments))
    sys.exit(main(*map(int, sys.argv[1:])))
