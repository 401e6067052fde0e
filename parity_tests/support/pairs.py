"""Pairs of runs that start at once, without a name of their own.

    python -m parity_tests.support.pairs 20    # 40 directories

Every run has a directory to itself, and every directory is complete.
"""

import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from parity_tests.support.runs import FILES, TEXT, TINY, final


def check(pairs: int) -> int:
    """Start these pairs in the current directory; assert what they leave. Return their number."""
    import npgpt.inference.evaluate  # here, so that no process imports them after the barrier
    import npgpt.training.progress_bar
    import npgpt.training.run  # noqa: F401

    Path("text.txt").write_text(TEXT)
    fork = multiprocessing.get_context("fork")
    for pair in range(pairs):
        barrier = fork.Barrier(2)
        both = [fork.Process(target=train, args=(barrier, 2 * pair + i)) for i in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join()
        assert [process.exitcode for process in both] == [0, 0]
    names = {path.name for path in Path("runs").iterdir()}
    assert names == {f"tiny-{number}" for number in range(1, 2 * pairs + 1)}
    seeds = set()
    for directory in Path("runs").iterdir():
        assert {path.name for path in directory.iterdir()} == FILES
        assert final(directory)[1]["step"] == 1
        seeds.add(json.loads((directory / "config.json").read_text())["training"]["seed"])
    assert seeds == set(range(2 * pairs))
    return len(names)


def train(barrier, seed: int) -> None:
    """Train for one step as soon as the other process of the pair is ready."""
    from npgpt.cli.main import main

    command = [*"train --data text.txt --ops numpy --steps 1".split(), *TINY, "--seed", str(seed)]
    barrier.wait()
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        status = main(command)
    sys.exit(status)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        print(f"{check(int(sys.argv[1]))} complete directories")
