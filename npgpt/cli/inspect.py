"""npgpt inspect."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from npgpt.cli.common import track_progress
from npgpt.download.resolve import resolve

NUMBERS = ("mean", "std", "min", "max")


@dataclass(kw_only=True)
class Inspect:
    """What is in a weight file: format, config, and every tensor with its statistics."""

    path: tyro.conf.Positional[Path]
    """A file or folder of any format, or gpt2-small to gpt2-xl once downloaded."""
    json: bool = False
    """Print one JSON object, for programs."""
    verify: bool = False
    """Compare the checksums of all numbers first: OpenAI's format has them, and npgpt's own."""

    def run(self) -> int:
        """The exit code."""
        from npgpt.model.params import size
        from npgpt.weights import formats
        from npgpt.weights.statistics import statistics

        source = formats.open_weights(resolve(self.path), verify=self.verify)
        tensors = {}
        for name, tensor in track_progress(source.tensors.items(), len(source.tensors)):
            about = {"shape": list(tensor.shape), "dtype": tensor.dtype}
            tensors[name] = about | statistics(tensor)._asdict()
        about = {
            "format": source.format,
            "path": str(source.path),
            "config": asdict(source.config),
            "tokenizer": source.tokenizer,
            "parameters": size(source.config),
        }
        if self.json:
            print(json.dumps(without_nan(about | {"tensors": tensors}), indent=2))
        else:
            show(about, tensors)
        return 0


def show(about: dict, tensors: dict[str, dict]) -> None:
    """Prints it as a table."""
    config = ", ".join(f"{name} {value}" for name, value in about["config"].items())
    print(f"{about['path']}: {about['format']}, {about['parameters']:,} parameters")
    print(f"config: {config}; tokenizer {about['tokenizer'] or 'unknown'}\n")
    shapes = {name: " x ".join(map(str, tensor["shape"])) for name, tensor in tensors.items()}
    wide, broad = (max(map(len, texts), default=0) for texts in (tensors, shapes.values()))
    head = "".join(f"{name:>11}" for name in NUMBERS)
    print(f"{'tensor':<{wide}}  {'shape':<{broad}}  {'dtype':<8} {head}")
    for name, tensor in tensors.items():
        numbers = "".join(f"{tensor[key]:>11.4g}" for key in NUMBERS)
        odd = "".join(f"  {tensor[key]:,} {key}!" for key in ("nan", "inf") if tensor[key])
        print(f"{name:<{wide}}  {shapes[name]:<{broad}}  {tensor['dtype']:<8} {numbers}{odd}")
    odd = [name for name, tensor in tensors.items() if tensor["nan"] or tensor["inf"]]
    print(f"\n{len(tensors)} tensors, " + (f"{len(odd)} of them with nan or inf: {', '.join(odd)}"
                                           if odd else "all numbers finite"))  # fmt: skip


def without_nan(value):
    """The same with None for nan, which JSON has not."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
