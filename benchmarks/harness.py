"""Time implementations against each other: processes, rounds, ratios, tables, results as JSON.

Each implementation runs in a process of its own, because two thread pools in one process disturb
each other. They measure in turn: A, B, A, B. A machine that slows down slows both. The figure is
the median of the pairwise ratios. Before anything is timed, the results are compared.
"""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from importlib import metadata
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).parent.parent
RESULTS = Path(os.environ.get("NPGPT_RESULTS", ROOT / "benchmarks" / "results"))
PAUSE = 0.3  # seconds
NEAR = 1.25  # of the quickest other program: those are measured in every round


class Runner:
    """An implementation in its own process: `python -m benchmarks.X --serve NAME ARGUMENTS`.

    result: what it computes, for the comparison. python: the interpreter, by default this one.
    """

    def __init__(self, module: str, name: str, *arguments: str, environment=None, python=None):
        self.name = name
        python = python or sys.executable
        command = [python, "-W", "error", "-m", module, "--serve", name, *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        )
        self.result = self.read()

    def read(self):
        """Return the next JSON value that the process prints."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmark {self.name} died with code {self.process.wait()}")
        return json.loads(line)

    def measure(self, work: str = "") -> dict[str, float]:
        """Measure once more, all or the named work; return seconds by part."""
        print(work, file=self.process.stdin, flush=True)
        return self.read()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def serve(result, measure: Callable[..., dict[str, float]], out: TextIO | None = None) -> None:
    """Serve a Runner: print the result, then measure once for every line of standard input.

    A line that is not empty names the work to measure. out: `own_stdout()`, if it was called.
    """
    print(json.dumps(result), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(*line.split())), file=out, flush=True)
    if out:
        out.close()


def own_stdout() -> TextIO:
    """Return standard output for `serve`; all that libraries print there goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def alternate(runners: list[Runner], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Measure every implementation once per round, starting with another one in every round.

    A pause precedes every measurement: idle threads of a pool spin before they sleep (OpenBLAS's
    for 0.1 s) and would slow the next implementation.
    """
    found = {runner.name: [] for runner in runners}
    for i in range(rounds):
        for runner in rotated(runners, i):
            time.sleep(PAUSE)
            found[runner.name].append(runner.measure())
    for runner in runners:
        runner.close()
    return found


def rotated(runners: list[Runner], count: int) -> list[Runner]:
    """Return the runners from another start: the first one `count` places further back."""
    start = count % len(runners)
    return runners[start:] + runners[:start]


def race(
    runners: list[Runner], works: list[str], rounds: int, always: Collection[str]
) -> dict[str, dict[str, list[float]]]:
    """Measure each work in turn; return seconds by work and program.

    `runner.result["works"]` names the works that a program can do. After the first round, only the
    names in `always` and the programs within NEAR of the quickest other one are measured again.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for work in works:
        taking = [runner for runner in runners if work in runner.result["works"]]
        found[work] = seconds = {runner.name: [] for runner in taking}
        for i in range(rounds):
            for runner in rotated(taking, i):
                time.sleep(PAUSE)
                seconds[runner.name].append(runner.measure(work)["seconds"])
            others = [taken[0] for name, taken in seconds.items() if name not in always]
            most = NEAR * min(others, default=0.0)
            taking = [r for r in taking if r.name in always or seconds[r.name][0] <= most]
    for runner in runners:
        runner.close()
    return found


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Return the median of the pairwise ratios, and the range of their middle half."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    quarter = len(ratios) // 4
    low, high = ratios[quarter], ratios[-1 - quarter]
    return {"median": statistics.median(ratios), "low": low, "high": high}


def comparison(
    work: str,
    beside: str,
    ours: list[float],
    theirs: list[float],
    at_most: float | None = None,
    unit: str = "s",
) -> dict:
    """Return npgpt's and the baseline's medians for some work, and the ratio of the pairs.

    A baseline that was measured in the first rounds only is paired with those. at_most: the target
    of the ratio, if there is one.
    """
    pairs = ratio(ours[: len(theirs)], theirs)
    return {
        "work": work,
        "beside": beside,
        "unit": unit,
        "npgpt": statistics.median(ours),
        "other": statistics.median(theirs),
        "ratio": pairs,
        "at_most": at_most,
    }


def compared(comparisons: list[dict]) -> str:
    """Return the comparisons as one table of times and one of memory."""
    tables = []
    for unit, what in (("s", "time"), ("GB", "memory")):
        head = [
            "work",
            "npgpt",
            "baseline",
            f"baseline {what}",
            "ratio (lower is better)",
            "target",
        ]
        rows = [row_of(c) for c in comparisons if c["unit"] == unit]
        tables += [table([head, *rows])] if rows else []
    return "\n\n".join(tables)


def row_of(comparison: dict) -> list[str]:
    """Return a comparison as a row: work, npgpt, baseline, its value, ratio, target."""
    c, r, target = comparison, comparison["ratio"], comparison["at_most"]
    spread = f" ({r['low']:.2f} to {r['high']:.2f})" if r["low"] < r["high"] else ""
    missed = ", missed" if target is not None and round(r["median"], 2) > target else ""
    return [
        c["work"],
        f"{c['npgpt']:.2f} {c['unit']}",
        c["beside"],
        f"{c['other']:.2f} {c['unit']}",
        f"{r['median']:.2f}{spread}",
        "" if target is None else f"{target:.2f}{missed}",
    ]


def on_threads(count: int) -> dict[str, str]:
    """Return environment variables that give every thread pool `count` threads."""
    pools = "NUMBA", "OMP", "OPENBLAS", "MKL"
    return {f"{pool}_NUM_THREADS": str(count) for pool in pools}


def once(function: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def table(rows: list[list[str]]) -> str:
    """Return rows, the first of them the head, as a Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def write(name: str, figures: dict) -> Path:
    """Write the figures and the machine as JSON into the results folder."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n", "utf-8")
    print(f"\nwritten to {path}")
    return path


def machine() -> dict[str, str | int | None]:
    """Return processor, memory, versions and commit."""
    from npgpt.kernels.cpu import BYTES
    from npgpt.performance import system_info
    from npgpt.system import machine

    return {
        "cpu": machine.cpu()[0],
        "cores": machine.cores(),
        "vector_bits": 8 * BYTES,  # of npgpt's kernels: 256 with benchmarks/avx2.py
        "memory": machine.memory()[0],
        "system": platform.system(),
        "python": platform.python_version(),
        "blas": ", ".join(pool.text for pool in system_info.blas_pools()),
        "commit": commit(),
    } | {package: metadata.version(package) for package in ("numpy", "numba", "torch")}


def commit() -> str | None:
    """Return the checked-out commit, with "-dirty" if its code was changed; None without git.

    Results and pages with figures, which benchmarks write, do not count as changes.
    """

    def git(*arguments: str) -> str:
        said = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return said.stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--", "*.py", "pyproject.toml")
    except OSError:
        return None
    return head + "-dirty" * bool(changed) or None


def reset_peak_memory() -> None:
    """Let `peak_memory` forget the peaks so far (Linux), such as that of a conversion."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Return the peak resident size of this process in bytes (Linux; 0 elsewhere)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmHWM" in line)
