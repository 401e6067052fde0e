"""npgpt plot."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from npgpt.errors import InputError, RunError


@dataclass(kw_only=True)
class Plot:
    """Draw the loss curves of one run, or of several in one picture."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    out: Path | None = None
    """The picture, a PNG [default: loss.png in the folder of one run, or in this folder]."""

    def run(self) -> int:
        """The exit code."""
        from npgpt.training.plot import plot, read_curve

        if not self.runs:
            raise InputError("name at least one folder of a run, for example runs/tiny-1")
        home = self.runs[0] if len(self.runs) == 1 else Path()
        out = self.out or home / "loss.png"
        curves = [read_curve(path) for path in self.runs]
        try:
            plot(curves, out)
        except OSError as error:
            raise RunError(f"{out} could not be written: {error.strerror}") from None
        print(out)
        return 0
