"""npgpt plot."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from npgpt.cli.common import default
from npgpt.errors import InputError, RunError


@dataclass(kw_only=True)
class Plot:
    """Plot the losses of one run, or of several runs in one figure.

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
        from npgpt.training.plot import plot, read_curve

        if not self.runs:
            raise InputError("no run given: name at least one run directory, such as runs/tiny-1")
        directory = self.runs[0] if len(self.runs) == 1 else Path()
        out = self.out or directory / "loss.png"
        curves = [read_curve(path) for path in self.runs]
        try:
            plot(curves, out)
        except OSError as error:
            raise RunError(f"{out} could not be written: {error.strerror or error}") from None
        print(out)
        return 0
