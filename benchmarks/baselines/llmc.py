"""llm.c's CPU program, run one training step at a time, and the files that it reads.

The program is `train_gpt2`, compiled from llm.c's train_gpt2.c. It has one batch shape, 4 x 64, and
one AdamW (lr 1e-4, no decay), trains 41 steps and prints the loss before each. A signal stops it at
the end of a step, and another continues it at its next turn. Before every tenth step it validates,
and before every twentieth it also generates a text: those steps are not measured.
"""

import atexit
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import harness

SHAPE = "4x64"
CHECKPOINT = "gpt2_124M.bin"
TOKENS = "dev/data/tinyshakespeare/tiny_shakespeare_{}.bin"
MAGIC, VERSION, HEADER = 20240520, 1, 256  # of a token file; the header's size in int32
BATCHES = 64  # of a token file: more than the program trains on
COMPARED = 3  # steps before the first that is timed
VALIDATES = 10  # steps between two validations
MOST_ROUNDS = 34  # of its 41 steps: without those compared, and those after a validation
STEP = re.compile(r"step (\d+): train loss (\S+) \(took")


def missing(program: str | None) -> str | None:
    """Return why llm.c is skipped, or None if `program` can be run."""
    if program is None:
        return "--llmc names no program"
    if not os.access(program, os.X_OK) or not Path(program).is_file():
        return f"{program} is not a program"
    return None


def write_files(folder: Path, config, tree, tokens: np.ndarray) -> None:
    """Write the checkpoint and the token files that the program reads.

    Every batch of the token files is `tokens` (B, T): the order of the batches does not matter.
    """
    from npgpt.weights.llmc import write_llmc

    write_llmc(folder / CHECKPOINT, config, tree, dtype="float32")
    text = np.resize(tokens, BATCHES * tokens.size + 1)
    header = np.zeros(HEADER, "<i4")
    header[:3] = MAGIC, VERSION, text.size
    for part in ("train", "val"):
        path = folder / TOKENS.format(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header.tobytes() + text.astype("<u2").tobytes())


class LlmC:
    """A Runner of the program. `result`: the losses of its first steps.

    `folder` holds the program's files, which it opens repeatedly; `close` removes the folder.
    """

    name = "llm.c"

    def __init__(self, program: str, folder: tempfile.TemporaryDirectory, threads: int):
        self.folder = folder
        ours, theirs = os.openpty()  # to a pipe it would write only full buffers
        self.process = subprocess.Popen(
            [os.path.abspath(program)],
            cwd=folder.name,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            env=os.environ | harness.on_threads(threads),
        )
        atexit.register(self.close)  # a stopped process does not end with its parent
        os.close(theirs)
        self.lines = open(ours, encoding="utf-8", errors="replace")
        self.result = [self.step()[1] for _ in range(COMPARED)]

    def step(self) -> tuple[int, float, float]:
        """Run the next step; return its number, loss and seconds."""
        self.process.send_signal(signal.SIGCONT)
        started = time.perf_counter()
        try:
            for line in self.lines:
                if said := STEP.match(line):
                    seconds = time.perf_counter() - started
                    self.process.send_signal(signal.SIGSTOP)
                    return int(said[1]), float(said[2]), seconds
        except OSError:  # a terminal's end of file: the program has ended
            pass
        raise SystemExit(f"llm.c ended with code {self.process.wait()} before its next step")

    def measure(self) -> dict[str, float]:
        """Return the seconds of one more step."""
        number, _, seconds = self.step()
        if number % VALIDATES == 0:
            _, _, seconds = self.step()
        return {"seconds": seconds}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.lines.close()
        self.folder.cleanup()
