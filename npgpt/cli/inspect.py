"""npgpt inspect."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from npgpt.cli.common import track_progress
from npgpt.download.resolve import resolve
from npgpt.system.terminal import printable_line

MAX_NAME = 200  # characters of a name shown
COLUMNS = ("mean", "std", "min", "max")


@dataclass(kw_only=True)
class Inspect:
    """Show the format and config of a weight file, and each tensor with its statistics.

    Parameters
    ----------
    path
        A file or directory in any supported format, or gpt2-small to gpt2-xl once downloaded.
    json
        Print one JSON object.
    verify
        Verify the checksums of all numbers first. OpenAI's format and npgpt's own have them.
    """

    path: tyro.conf.Positional[Path]
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    verify: tyro.conf.FlagCreatePairsOff[bool] = False

    def run(self) -> int:
        """Print the report; return the exit status."""
        from npgpt.model.params import size
        from npgpt.weights import formats
        from npgpt.weights.statistics import statistics

        source = formats.open_weights(resolve(self.path), verify=self.verify)
        tensors = {}
        for name, tensor in track_progress(source.tensors.items(), len(source.tensors)):
            layout = {"shape": list(tensor.shape), "dtype": tensor.dtype}
            tensors[name] = layout | statistics(tensor)._asdict()
        report = {
            "format": source.format,
            "path": str(source.path),
            "config": asdict(source.config),
            "tokenizer": source.tokenizer,
            "parameters": size(source.config),
            "ignored": list(source.ignored),
        }
        if self.json:
            text = json.dumps(replace_nan(report | {"tensors": tensors}), indent=2)
            print(text.replace("\x7f", "\\u007f"))  # the only control character JSON may contain
        else:
            print_report(report, tensors)
        return 0


def print_report(report: dict[str, Any], tensors: dict[str, dict[str, Any]]) -> None:
    """Print the report as text and a table."""
    config = ", ".join(f"{name} {value}" for name, value in report["config"].items())
    tokenizer = printable_line(report["tokenizer"] or "unknown", MAX_NAME)
    tensors = {printable_line(name, MAX_NAME): tensor for name, tensor in tensors.items()}
    print(
        f"{printable_line(report['path'])}: {report['format']}, {report['parameters']:,} parameters"
    )
    print(f"config: {config}; tokenizer {tokenizer}\n")
    shapes = {name: " x ".join(map(str, tensor["shape"])) for name, tensor in tensors.items()}
    name_width = max(map(len, tensors), default=0)
    shape_width = max(map(len, shapes.values()), default=0)
    head = "".join(f"{name:>11}" for name in COLUMNS)
    print(f"{'tensor':<{name_width}}  {'shape':<{shape_width}}  {'dtype':<8} {head}")
    for name, tensor in tensors.items():
        numbers = "".join(f"{tensor[key]:>11.4g}" for key in COLUMNS)
        marks = "".join(f"  {tensor[key]:,} {key}!" for key in ("nan", "inf") if tensor[key])
        layout = f"{shapes[name]:<{shape_width}}  {tensor['dtype']:<8}"
        print(f"{name:<{name_width}}  {layout} {numbers}{marks}")
    bad = [name for name, tensor in tensors.items() if tensor["nan"] or tensor["inf"]]
    print(f"\n{len(tensors)} tensors, " + (f"{len(bad)} of them with nan or inf: {', '.join(bad)}"
                                           if bad else "all numbers finite"))  # fmt: skip


def replace_nan(value: Any) -> Any:
    """Replace nan and infinity by None: JSON has neither."""
    if isinstance(value, dict):
        return {key: replace_nan(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
