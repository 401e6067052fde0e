"""Run commands under limits of their address space: each succeeds, or says so in one line.

    python -m parity_tests.support.memory_limits               # 50 limits
    python -m parity_tests.support.memory_limits --levels 5 --commands train --show

The lowest limit is a little above what `python -c "import numpy"` needs, the highest lets every
command succeed. The table counts what happened. Anything but success, or exit status 1 with one
line on standard error that says `not enough memory`, is shown and fails.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from parity_tests.support.runs import TEXT, TINY, unannounced

MIB = 1 << 20
LOWEST, HIGHEST = 1.1, 3200 * MIB  # of what NumPy needs; bytes
SECONDS = 120  # longer is a hang
COMMANDS = {
    "train": ["train", "--data", "text.txt", "--out", "{out}", "--steps", "3", *TINY],
    "generate": ["generate", "--model", "run", "--prompt", "The", "--max-new-tokens", "5"],
    "evaluate": ["evaluate", "--model", "run", "--data", "text.txt"],
    "inspect": ["inspect", "run"],
}


@dataclass
class Outcome:
    """The end of a command."""

    kind: str  # "success", "one line" or what went wrong
    stderr: str


def run(arguments: list[str], limit: int | None, cwd: Path, **environment: str) -> Outcome:
    """Run Python under a limit of its address space in bytes."""

    def before():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    try:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=os.environ | environment, timeout=SECONDS,
            capture_output=True, text=True, errors="replace", preexec_fn=before,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Outcome("hang", "")
    said = unannounced(done.stderr)
    if done.returncode == 0 and not said:
        return Outcome("success", said)
    if done.returncode == 0 and re.fullmatch(r"npgpt: \S+ could not be drawn: .*\n", said):
        return Outcome("success, no picture", said)
    if done.returncode == 1 and re.fullmatch(r"npgpt: .*not enough memory.*\n", said):
        return Outcome("one line", said)
    if done.returncode < 0:
        return Outcome(f"signal {-done.returncode}", said)
    kind = "traceback" if "Traceback" in said else "other output"
    return Outcome(f"{kind}, status {done.returncode}", said)


def needed(program: str, cwd: Path) -> int:
    """Return the smallest limit under which a program succeeds, to 4 MiB."""
    low, high = 0, HIGHEST
    while high - low > 4 * MIB:
        middle = (low + high) // 2
        if run(["-c", program], middle, cwd).kind == "success":
            high = middle
        else:
            low = middle
    return high


def limits(levels: int, cwd: Path) -> list[int]:
    """Return the limits in bytes, denser at the lower end."""
    first = LOWEST * needed("import numpy", cwd)
    ratio = (HIGHEST / first) ** (1 / max(levels - 1, 1))
    return [int(first * ratio**i) for i in range(levels)]


def prepare(cwd: Path) -> None:
    """Make a text and a run, and compile the kernels of all commands."""
    (cwd / "text.txt").write_text(TEXT)
    for name, command in COMMANDS.items():
        outcome = run(["-m", "npgpt", *filled(command, "run")], None, cwd)
        assert outcome.kind == "success", (name, outcome)


def filled(command: list[str], out: str) -> list[str]:
    """Return a command with the directory of its run."""
    return [argument.format(out=out) for argument in command]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--levels", type=int, default=50)
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS))
    parser.add_argument("--between", type=int, nargs=2, metavar="MIB", help="in place of all")
    parser.add_argument("--show", action="store_true", help="show every line")
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        prepare(cwd)
        if arguments.between:
            first, last = arguments.between
            step = (last - first) / max(arguments.levels - 1, 1)
            levels = [int((first + i * step) * MIB) for i in range(arguments.levels)]
        else:
            levels = limits(arguments.levels, cwd)
        print(f"{len(levels)} limits from {levels[0] / MIB:,.0f} to {levels[-1] / MIB:,.0f} MiB")
        for name in arguments.commands:
            kinds: Counter[str] = Counter()
            enough = None
            for i, limit in enumerate(levels):
                command = filled(COMMANDS[name], f"{name}-{i}")
                outcome = run(["-m", "npgpt", *command], limit, cwd)
                kinds[outcome.kind] += 1
                if outcome.kind == "success":
                    enough = enough or limit
                wrong = outcome.kind not in ("success", "success, no picture", "one line")
                failed += wrong
                if wrong or arguments.show:
                    print(
                        f"{name} {limit / MIB:,.0f} MiB: {outcome.kind}\n{outcome.stderr[-1500:]}"
                    )
            counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            print(f"{name:<10} {counts}; succeeds from {(enough or 0) / MIB:,.0f} MiB", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
