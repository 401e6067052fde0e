"""npgpt diagnose."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated

import tyro

from npgpt.errors import InputError, show

MIN_WIDTH = 40  # characters of a terminal


@dataclass(kw_only=True)
class Diagnose:
    """Find the first wrong tensor of a port of GPT-2, and the mistake that explains all of them.

    Exit status: 0 if the port agrees with GPT-2, 1 if it differs, 2 for invalid input.

    Parameters
    ----------
    probe
        The directory that npgpt probe wrote; or weights in any format, or gpt2-small to gpt2-xl
        once downloaded.
    dump
        The numbers that the port computed: .npz, .safetensors, a directory of .npy files, or
        llm.c's debug_state.bin.
    map
        The port's name of a tensor or layer, and npgpt's, where matching cannot decide:
        blocks.{i}.foo=h.{i}.attn.c_proj. Repeat the flag for several. An empty name of npgpt leaves
        the tensor out.
    json
        Print one JSON object.
    """

    probe: tyro.conf.Positional[Path]
    dump: tyro.conf.Positional[Path]
    map: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="MINE=THEIRS")
    ] = ()
    json: tyro.conf.FlagCreatePairsOff[bool] = False

    def run(self) -> int:
        """Print the report; return 0 if the port agrees, else 1."""
        from npgpt.parity import diagnosis, pairing, progress, report

        renames = dict(parse_pair(pair) for pair in self.map)
        asked, dump = pairing.read(self.probe, self.dump)
        with progress.shown():
            found = diagnosis.diagnose(dump, asked, renames)
        if self.json:
            print(json.dumps(report.as_json(found), indent=2).replace("\x7f", "\\u007f"))
        else:
            width = max(MIN_WIDTH, get_terminal_size().columns) if sys.stdout.isatty() else None
            print(report.text(found, width))
        return 0 if found.agrees else 1


def parse_pair(pair: str) -> tuple[str, str]:
    """Return the two names in "mine=theirs"."""
    mine, equals, theirs = pair.partition("=")
    if not (mine and equals):
        raise InputError(f"--map is {show(pair)}, but must be two names, mine=theirs")
    return mine, theirs
