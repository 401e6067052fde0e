"""npgpt probe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

from npgpt.cli.common import default, require_new
from npgpt.errors import InputError
from npgpt.system.terminal import printable_line

ProbeModel = Annotated[Optional[Path], default("a tiny one, with lively weights", "PATH")]  # noqa: UP045


@dataclass(kw_only=True)
class Probe:
    """Write a model and a batch for a port of your own to compute with, to find its mistakes.

    The README.txt in the directory says what the port dumps, and how.

    Parameters
    ----------
    out
        Directory to write. It must not exist; an empty directory is replaced.
    model
        A run directory, weights in any supported format, or gpt2-small to gpt2-xl once downloaded.
    seed
        Seed of the tiny model's weights, and of the batch.
    tied
        Use the tiny model's token embedding as its output head.
    ignored
        Ignore some targets of the tiny model's batch (-100). llm.c cannot.
    """

    out: Path
    model: ProbeModel = None
    seed: int = 123
    tied: bool = True
    ignored: bool = True

    def run(self) -> int:
        """Write the directory; return the exit status."""
        from npgpt.loading import load
        from npgpt.parity import probe

        require_new(self.out)
        if self.model is None:
            made = probe.make(self.seed, tied=self.tied, ignored=self.ignored)
        elif not self.tied:
            raise InputError("--no-tied is of the tiny model: leave it out, or --model")
        else:
            model = load(self.model, weights="float32", ops="numpy")
            made = probe.of_model(model, self.seed)
        probe.write(self.out, made)
        print(printable_line(str(self.out)))
        print(
            f"Now let your port compute with it: see {printable_line(str(self.out / 'README.txt'))}"
        )
        return 0
