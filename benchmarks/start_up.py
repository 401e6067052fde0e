"""How long until something happens: import, --help, and the whole default training run from cold.

    python -m benchmarks.start_up [--rounds 7] [--no-train]

`npgpt train` runs in an empty folder with an empty Numba cache, as on a machine that has just
installed npgpt: compiling is part of the time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import once, table

PYTHON = [sys.executable]
COMMANDS = {
    "python -c pass": [*PYTHON, "-c", "pass"],
    "import npgpt": [*PYTHON, "-c", "import npgpt"],
    "npgpt --help": [*PYTHON, "-m", "npgpt", "--help"],
    "npgpt train --help": [*PYTHON, "-m", "npgpt", "train", "--help"],
}


def run(command: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, check=True, capture_output=True, text=True, **options)


def train_from_cold() -> dict[str, float]:
    """Seconds of `npgpt train` with its defaults, and the losses that it ends with."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(Path(folder) / "numba")}
        command = [*PYTHON, "-m", "npgpt", "train"]
        seconds = once(lambda: run(command, cwd=folder, env=environment))
        metrics = (Path(folder) / "runs" / "tiny-1" / "metrics.jsonl").read_text()
        last = json.loads(metrics.splitlines()[-1])
    return {"seconds": seconds, "train_loss": last["train_loss"], "val_loss": last["val_loss"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--train", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if "usage: npgpt" not in run(COMMANDS["npgpt --help"]).stdout:
        sys.exit("npgpt --help prints no usage")

    figures, rows = {}, [["command", "seconds"]]
    for name, command in COMMANDS.items():
        taken = [once(lambda command=command: run(command)) for _ in range(options.rounds)]
        figures[name] = {"seconds": statistics.median(taken)}
        rows.append([name, f"{figures[name]['seconds']:.3f}"])
    if options.train:
        figures["npgpt train, from cold"] = found = train_from_cold()
        rows.append(["npgpt train, from cold", f"{found['seconds']:.1f}"])
    print(table(rows))
    harness.write("start_up", {"rounds": options.rounds, **figures})


if __name__ == "__main__":
    main()
