"""npgpt plot."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from npgpt.cli.common import default
from npgpt.errors import InputError
from npgpt.system.terminal import printable_line

MAX_RUNS = 100  # each has a line in the legend


@dataclass(kw_only=True)
class Plot:
    """Plot the losses, learning rate and gradient norm of a run, or of several in one figure.

    Parameters
    ----------
    runs
        Run directories.
    out
        PNG file to write.
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="PATH [PATH ...]", help_behavior_hint=""),
    ]
    out: Annotated[Path | None, default("loss.png, in the directory of a single run", "PATH")] = (
        None
    )

    def run(self) -> int:
        """Write the figure; return the exit status."""
        from npgpt.training.curve import read_curve
        from npgpt.training.plot import plot

        if not self.runs:
            raise InputError("no run given: name at least one run directory, such as runs/tiny-1")
        runs = {os.path.abspath(path): path for path in self.runs}  # each once
        if len(runs) > MAX_RUNS:
            raise InputError(f"{len(runs)} runs are given, but one figure has at most {MAX_RUNS}")
        directory = self.runs[0] if len(runs) == 1 else Path()
        out = self.out or directory / "loss.png"
        plot([read_curve(path) for path in runs.values()], out)
        print(printable_line(str(out)))
        return 0
