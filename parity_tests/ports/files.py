"""Files of the two ports: the probe's directory is read, and a dump is written.

A port runs with the planted bugs that `--bug` names (parity_tests/ports/bugs.py).
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

KINDS = ("loss", "grad", "param", "act", "dact", "logits", "logits_again", "cached_logits",
         "after", "mask")  # fmt: skip


@dataclass(frozen=True)
class Probe:
    config: dict
    settings: dict
    weights: dict
    tokens: np.ndarray
    targets: np.ndarray


def read(directory) -> Probe:
    """Return the model, the batch and the settings of a probe's directory."""
    directory = Path(directory)
    about = json.loads((directory / "settings.json").read_text())
    batch, weights = np.load(directory / "batch.npz"), dict(np.load(directory / "weights.npz"))
    return Probe(about["config"], about["settings"], weights, batch["tokens"], batch["targets"])


def keep(dump, kinds, probe):
    """Return the tensors of these kinds, and the meta data."""
    kinds = {"tokens", "targets", *kinds}
    kept = {name: x for name, x in dump.items() if name.split("/")[0].rstrip("0123456789") in kinds}
    return kept | {"meta": np.array(json.dumps({"n_head": probe.config["n_head"]}))}


def main(port):
    """Run a port by the command line."""
    from parity_tests.ports import bugs

    parser = argparse.ArgumentParser(prog=f"python -m parity_tests.ports.{port}")
    parser.add_argument("probe", help="directory of the probe")
    parser.add_argument("dump", help=".npz to write")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds of tensors to dump")
    parser.add_argument("--bug", default="", help="names of planted bugs, separated by commas")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    args = parser.parse_args()
    module = bugs.plant(port, *filter(None, args.bug.split(",")))
    np.savez(args.dump, **module.run(read(args.probe), args.only.split(","), args.dtype))
