"""llm.c's CPU program as one of those that are measured in turn: its files, and a step at a time.

The program is `train_gpt2`, compiled from llm.c's train_gpt2.c. It knows one batch, 4 x 64, and one
AdamW (lr 1e-4, no decay), trains 41 steps and says the loss before each. It is stopped by a signal
at the end of a step and goes on when it is its turn again. Before every tenth step it validates,
and before every twentieth it writes a text as well: those steps are not measured.
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
MAGIC, VERSION, HEADER = 20240520, 1, 256  # of a file of tokens; the header's size in int32
BATCHES = 64  # in a text: more than it trains on
COMPARED = 3  # steps before it is timed
VALIDATES = 10  # steps between two validations
MOST_ROUNDS = 34  # of its 41 steps: without those that are compared, and those that it validates at
STEP = re.compile(r"step (\d+): train loss (\S+) \(took")


def lacks(program: str | None) -> str | None:
    """Why llm.c is left out; None where it is not."""
    if program is None:
        return "--llmc names no program"
    if not os.access(program, os.X_OK) or not Path(program).is_file():
        return f"{program} is not a program"
    return None


def write_files(folder: Path, config, tree, tokens: np.ndarray) -> None:
    """What the program looks for where it starts: a checkpoint, and texts whose every batch is
    these tokens (B, T), so that it does not matter in which order it takes them."""
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
    """A Runner of the program: `result` is the losses of its first steps. The folder has its files
    and is removed with it; it opens them again and again."""

    name = "llm.c"

    def __init__(self, program: str, folder: tempfile.TemporaryDirectory, threads: int):
        self.folder = folder
        ours, theirs = os.openpty()  # to a pipe it would write when it has much to say, or ends
        self.process = subprocess.Popen(
            [os.path.abspath(program)],
            cwd=folder.name,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            env=os.environ | harness.on_threads(threads),
        )
        atexit.register(self.close)  # a stopped process does not notice that nobody is left
        os.close(theirs)
        self.lines = open(ours, encoding="utf-8", errors="replace")
        self.result = [self.step()[1] for _ in range(COMPARED)]

    def step(self) -> tuple[int, float, float]:
        """Lets it run to the end of its next step: that one's number, its loss, the seconds."""
        self.process.send_signal(signal.SIGCONT)
        started = time.perf_counter()
        try:
            for line in self.lines:
                if said := STEP.match(line):
                    seconds = time.perf_counter() - started
                    self.process.send_signal(signal.SIGSTOP)
                    return int(said[1]), float(said[2]), seconds
        except OSError:  # what a terminal says when nobody is left at its other end
            pass
        raise SystemExit(f"llm.c ended with code {self.process.wait()} and no further step")

    def measure(self) -> dict[str, float]:
        """Seconds of one more step."""
        number, _, seconds = self.step()
        if number % VALIDATES == 0:
            _, _, seconds = self.step()
        return {"seconds": seconds}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.lines.close()
        self.folder.cleanup()
