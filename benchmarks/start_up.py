"""Time import, --help and the default training run, the last from an empty cache.

    python -m benchmarks.start_up [--rounds 7] [--no-train]

`npgpt train` runs in an empty folder with an empty Numba cache, as after an installation: compiling
is part of the time. `compiling` is from an empty cache to the end of the first training step of a
tiny model, and to the end of its first tokens, with npgpt/performance/precompile.py.
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

FIRST = """
import time
started = time.perf_counter()
from npgpt.system import env_vars
env_vars.set_defaults()
import numpy as np, npgpt
from npgpt.performance import precompile
precompile.compile_kernels("train", "float32", "book", dropout=0.1)
config = npgpt.Config(
    vocab_size=257, context_length=32, n_layer=1, n_head=2, n_embd=32, dropout=0.1, tied=False
)
rng, tokens = npgpt.Generator(1), np.arange(66).reshape(2, 33)
model = npgpt.GPT(config, seed=rng, scheme="book")
loss, gradients = model.loss_and_gradients(tokens[:, :-1], tokens[:, 1:], rng)
npgpt.AdamW(model.params, lr=1e-3).step(gradients)
print(time.perf_counter() - started)
precompile.compile_kernels("generate", "float32")
list(npgpt.generate(model, tokens[:, :5], 3, temperature=1.0, rng=rng))
model.evaluate(tokens[:, :-1], tokens[:, 1:])
print(time.perf_counter() - started)
"""


def run(command: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, check=True, capture_output=True, text=True, **options)


def train_from_cold() -> dict[str, float]:
    """Return the seconds of `npgpt train` with its defaults, and its last losses."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(Path(folder) / "numba")}
        command = [*PYTHON, "-m", "npgpt", "train"]
        seconds = once(lambda: run(command, cwd=folder, env=environment))
        metrics = (Path(folder) / "runs" / "tiny-1" / "metrics.jsonl").read_text()
        last = [json.loads(line) for line in metrics.splitlines() if "val_loss" in line][-1]
    return {"seconds": seconds, "train_loss": last["train_loss"], "val_loss": last["val_loss"]}


def compiling() -> tuple[float, float]:
    """Return the seconds from an empty cache to the end of the first step, and to the end."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        step, everything = run([*PYTHON, "-c", FIRST], env=environment).stdout.split()
    return float(step), float(everything)


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
        step, everything = compiling()
        figures["compiling"] = {"first_step": step, "everything": everything}
        rows.append(["compiling, to the first training step", f"{step:.1f}"])
        rows.append(["compiling, everything", f"{everything:.1f}"])
        figures["npgpt train, from cold"] = found = train_from_cold()
        rows.append(["npgpt train, from cold", f"{found['seconds']:.1f}"])
    print(table(rows))
    harness.write("start_up", {"rounds": options.rounds, **figures})


if __name__ == "__main__":
    main()
