"""Time import, --help, the first token, and the default training run, the last from an empty cache.

    python -m benchmarks.start_up [--rounds 7] [--no-train]

`npgpt train` runs in an empty folder with an empty Numba cache, as after an installation: compiling
is part of the time. `compiling` is from an empty cache to the end of the first training step of a
tiny model, and to the end of its first tokens, with npgpt/performance/precompile.py. As in every
preset, its products have more than 32 rows: fewer are multiplied by other kernels.

`npgpt generate` is timed to its first output: a short prompt, and a random model of the 124M shape
as Hugging Face's files. These are in the page cache, as compiled kernels are. Python's bytecode is
compiled too, as pip does.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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

PROMPT = "Hello there, how are you"
TARGETS = {"first_step": 12, "everything": 25, "first_token": 0.7}  # seconds

FIRST = """
import time
started = time.perf_counter()
from npgpt.system import env_vars
env_vars.set_defaults()
import numpy as np, npgpt
from npgpt.performance import precompile
precompile.compile_kernels("train", "float32", "book", dropout=0.1)
config = npgpt.Config(
    vocab_size=257, context_length=32, n_layer=1, n_head=2, n_embd=64, dropout=0.1, tied=False
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


def first_token(model: Path) -> Callable[[], float]:
    """Return a function that returns the seconds from the start of `npgpt generate` to its text."""
    given = ["--model", str(model), "--tokenizer", "gpt2", "--prompt", PROMPT]
    command = [*PYTHON, "-m", "npgpt", "generate", *given, "--max-new-tokens", "1"]

    def measure():
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            said = process.stdout.read(1)
            seconds = time.perf_counter() - started
            said += process.stdout.read()
        if process.returncode or not said.startswith(PROMPT.encode()):
            sys.exit(f"npgpt generate ended with code {process.returncode} and wrote {said!r}")
        return seconds

    return measure


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


def write_model(path: Path) -> None:
    """Write a random model of the 124M shape as Hugging Face's files."""
    import npgpt
    from npgpt.weights.huggingface import write_huggingface

    model = npgpt.GPT(npgpt.Config(), seed=1)
    write_huggingface(path, model.config, model.params, None, dtype="float32")


def use_bytecode(path: Path) -> None:
    """Let the commands keep Python's bytecode in a folder, also if the environment forbids it."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(path)


def row_of(name: str, taken: list[float], target: str) -> list[str]:
    """Return a row with the median, the target, and whether it is missed."""
    seconds, limit = statistics.median(taken), TARGETS[target]
    return [name, f"{seconds:.3g}", f"{limit:g}" + ", missed" * (seconds > limit)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--train", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--scratch", type=Path, help="a directory with 0.6 GB of free space")
    options = parser.parse_args()
    if "usage: npgpt" not in run(COMMANDS["npgpt --help"]).stdout:
        sys.exit("npgpt --help prints no usage")

    figures, rows = {}, [["command", "seconds", "target"]]
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        use_bytecode(Path(folder) / "bytecode")
        for name, command in COMMANDS.items():
            run(command)
            taken = [once(lambda command=command: run(command)) for _ in range(options.rounds)]
            figures[name] = {"seconds": statistics.median(taken)}
            rows.append([name, f"{figures[name]['seconds']:.3f}", ""])
        write_model(Path(folder) / "model")
        measure = first_token(Path(folder) / "model")
        measure()  # compiles, unless the kernels are in the cache
        taken = [measure() for _ in range(options.rounds)]
        figures["npgpt generate, the first token"] = {"seconds": statistics.median(taken)}
        rows.append(row_of("npgpt generate, the first token", taken, "first_token"))
    if options.train:
        step, everything = compiling()
        figures["compiling"] = {"first_step": step, "everything": everything}
        rows.append(row_of("compiling, to the first training step", [step], "first_step"))
        rows.append(row_of("compiling, everything", [everything], "everything"))
        figures["npgpt train, from cold"] = found = train_from_cold()
        rows.append(["npgpt train, from cold", f"{found['seconds']:.1f}", ""])
    print(table(rows))
    harness.write("start_up", {"rounds": options.rounds, **figures})


if __name__ == "__main__":
    main()
