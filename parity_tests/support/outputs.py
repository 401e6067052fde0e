"""Runs whose output is closed, full, broken or dead, each with no signal and with each of three.

    python -m parity_tests.support.outputs    # all 16, two at a time

Every run leaves a checkpoint of the last finished step, and a log of what could not be shown.
"""

import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from parity_tests.support.processes import LONG
from parity_tests.support.runs import FILES, TEXT, TINY, final

KINDS = ("closed", "full", "broken", "dead")
SIGNALS = [0, *(getattr(signal, f"SIG{n}", None) for n in ("INT", "TERM", "HUP"))]
AT_ONCE = 2

# A run that closes its terminal, if it has one, and sends itself a signal, in the middle of a step.
RUN = """
import os, signal, sys
from npgpt.training.trainer import Trainer

number, terminal, *command = sys.argv[1:]
update = Trainer.update

def interrupted(self, *batch):
    if self.progress.step == 2 and terminal != "none":
        os.close(int(terminal))
    if self.progress.step == 3 and number != "0":
        signal.raise_signal(int(number))
    return update(self, *batch)

Trainer.update = interrupted
if number == "2":  # ignored, where a shell runs the tests behind itself
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[1:] = command
from npgpt.__main__ import main

sys.exit(main())
"""


def check(kind: str, number: int, parent: Path) -> None:
    """Train in a directory below `parent`, and assert what the run leaves there."""
    folder = parent / f"{kind}-{int(number)}"
    folder.mkdir()
    text = folder.with_suffix(".txt")
    text.write_text(TEXT)
    train = f"train --ops numpy --steps 6 --data {text} --out {folder}".split()
    with ExitStack() as stack:  # at its end the run alone holds the other end of a terminal
        shell, terminal, options = output(kind, stack)
        command = [sys.executable, "-c", RUN, str(int(number)), terminal, *train, *TINY]
        process = subprocess.Popen([*shell, *command], **options)
    try:
        status = process.wait(timeout=LONG)
    finally:
        process.kill()
    assert status == (128 + number if number else 0)
    step = final(folder)[1]["step"]
    assert step == (4 if number else 6)
    assert {path.name for path in folder.iterdir()} == FILES | {"train.log"}
    said = (folder / "train.log").read_text()
    assert "[standard output could not be written: " in said
    assert "\x1b" not in said
    if number:
        assert f"Stopped after step {step - 1}; the checkpoint is saved in {folder}\n" in said
        assert "Finishing this step, then saving ..." in said
    else:
        assert "Ep 1 (Step 000004)" in said
        assert f"Next: npgpt generate --model {folder}" in said


def output(kind: str, stack: ExitStack) -> tuple[list[str], str, dict]:
    """Return the words before a command, its terminal or "none", and options of Popen, by kind."""
    options = {"env": os.environ | {"TERM": "xterm"}}
    if kind == "closed":
        return ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"], "none", options
    if kind == "full":
        stream = stack.enter_context(open("/dev/full", "w"))
        return [], "none", options | {"stdout": stream, "stderr": stream}
    if kind == "broken":
        reader, writer = os.pipe()
        os.close(reader)
        stack.callback(os.close, writer)
        return [], "none", options | {"stdout": writer, "stderr": writer}
    master, slave = os.openpty()
    stack.callback(os.close, slave)
    stack.callback(os.close, master)
    return [], str(master), options | {"stdout": slave, "stderr": slave, "pass_fds": [master]}


def main() -> int:
    cases, passed = list(product(KINDS, SIGNALS)), 0
    with tempfile.TemporaryDirectory() as parent, ThreadPoolExecutor(AT_ONCE) as pool:
        found = {case: pool.submit(check, *case, Path(parent)) for case in cases}
        for case, future in found.items():
            error = future.exception()
            passed += error is None
            print(*map(str, case), "ok" if error is None else repr(error), flush=True)
    print(f"{passed} of {len(cases)} leave a checkpoint of the last finished step")
    return int(passed < len(cases))


if __name__ == "__main__":
    sys.exit(main())
