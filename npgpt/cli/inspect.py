"""npgpt inspect."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from npgpt.download.resolve import resolve
from npgpt.system.console import track_progress
from npgpt.system.terminal import number_of, printable_line

if TYPE_CHECKING:
    from npgpt.weights.mapped import MappedTensor
    from npgpt.weights.weight_file import WeightFile

MAX_NAME = 200  # characters of a name shown
COLUMNS = ("mean", "std", "min", "max")


@dataclass(kw_only=True)
class Inspect:
    """Show the format and config of a weight file, and each tensor with its statistics.

    Of a directory of token files, it shows the format and the number of tokens.

    Parameters
    ----------
    path
        A file or directory in any supported format, or gpt2-small to gpt2-xl once downloaded; or a
        directory of token files.
    json
        Print one JSON object.
    verify
        Verify the checksums of all numbers first. OpenAI's format and npgpt's own have them. Of
        token files, compare every hash with the index, and every id with the vocabulary.
    """

    path: tyro.conf.Positional[Path]
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    verify: tyro.conf.FlagCreatePairsOff[bool] = False

    def run(self) -> int:
        """Print the report; return the exit status.

        The tensors are also shown if they are not a model that npgpt computes.
        """
        from npgpt.data.token_files import is_token_directory
        from npgpt.errors import WeightFileError
        from npgpt.model.params import size
        from npgpt.weights import formats

        if is_token_directory(self.path):
            return self.show_tokens()
        path = resolve(self.path)
        try:
            source = formats.open_weights(path, verify=self.verify)
        except WeightFileError as error:
            try:
                tensors = formats.open_tensors(path, verify=self.verify)
            except (WeightFileError, OSError):
                raise error from None
            self.show({"path": str(path), "error": str(error)}, tensors)
            raise
        report = {
            "format": source.format,
            "path": str(source.path),
            "config": asdict(source.config),
            **describe_tokenizer(source),
            "parameters": size(source.config),
            "ignored": list(source.ignored),
        }
        if self.verify:
            report["checksums"] = "verified" if source.format in formats.CHECKSUMMED else "none"
        self.show(report, source.tensors)
        return 0

    def show_tokens(self) -> int:
        """Print the report on token files; return the exit status."""
        from npgpt.data.token_files import open_token_files

        files = open_token_files(self.path)
        sizes = {split: [len(s.tokens) for s in shards] for split, shards in files.shards.items()}
        tokenizer, vocab_size = files.index.get("tokenizer"), files.index.get("vocab_size", 1 << 32)
        if self.verify:
            for _ in files.verify(vocab_size):
                pass
        tokens = {split: sum(counts) for split, counts in sizes.items()}
        report = {"format": files.format, "path": str(self.path), "tokenizer": tokenizer}
        if self.verify:
            report["checksums"] = "verified" if files.index else "none"
        if self.json:
            print(json.dumps(report | {"tokens": tokens}, indent=2))
            return 0
        name = printable_line(tokenizer or "unknown", MAX_NAME)
        path = printable_line(str(self.path))
        print(f"{path}: token files, {files.format}; tokenizer {name}{checksums_of(report)}")
        for split, counts in sizes.items():
            where = number_of(len(counts), "file")
            print(f"{split}: {number_of(sum(counts), 'token')} in {where}")
        return 0

    def show(self, report: dict[str, Any], stored: "dict[str, MappedTensor]") -> None:
        """Print the report and the statistics of the tensors."""
        from npgpt.weights.statistics import statistics

        tensors = {}
        for name, tensor in track_progress(stored.items(), len(stored)):
            layout = {"shape": list(tensor.shape), "dtype": tensor.dtype}
            tensors[name] = layout | statistics(tensor)._asdict()
        if self.json:
            text = json.dumps(replace_nan(report | {"tensors": tensors}), indent=2)
            print(text.replace("\x7f", "\\u007f"))  # the only control character JSON may contain
        else:
            print_report(report)
            print_tensors(tensors)


def describe_tokenizer(source: "WeightFile") -> dict[str, str | None]:
    """Return the name of the model's tokenizer, or the path of its files; and where it was found.

    The files are not parsed. If they cannot be read, the error is in place of where.
    """
    from npgpt.data.tokenizer import describe
    from npgpt.data.tokenizer_choice import choose
    from npgpt.errors import InputError

    try:
        name, found = choose(source)
    except InputError as error:
        name, found = None, str(error)
    return {"tokenizer": None if name is None else describe(name), "tokenizer_found": found}


def print_report(report: dict[str, Any]) -> None:
    """Print the lines above the table."""
    path = printable_line(report["path"])
    if "error" in report:
        print(f"{path}: not a model that npgpt reads; its tensors are\n")
        return
    config = ", ".join(f"{name} {value}" for name, value in report["config"].items())
    tokenizer = printable_line(report["tokenizer"] or "unknown", MAX_NAME)
    found = printable_line(report["tokenizer_found"], MAX_NAME)
    parameters = f"{report['parameters']:,} parameters"
    print(f"{path}: {report['format']}, {parameters}{checksums_of(report)}")
    print(f"config: {config}; tokenizer {tokenizer} ({found})\n")


def checksums_of(report: dict[str, Any]) -> str:
    """Return the end of a report's first line, "" without --verify."""
    return f"; checksums: {report['checksums']}" if "checksums" in report else ""


def print_tensors(tensors: dict[str, dict[str, Any]]) -> None:
    """Print the tensors as a table."""
    names = {name: printable_line(name, MAX_NAME) for name in tensors}
    shapes = {name: " x ".join(map(str, tensor["shape"])) for name, tensor in tensors.items()}
    name_width = max(map(len, names.values()), default=0)
    shape_width = max(map(len, shapes.values()), default=0)
    head = "".join(f"{name:>11}" for name in COLUMNS)
    print(f"{'tensor':<{name_width}}  {'shape':<{shape_width}}  {'dtype':<8} {head}")
    for name, tensor in tensors.items():
        numbers = "".join(f"{tensor[key]:>11.4g}" for key in COLUMNS)
        marks = "".join(f"  {tensor[key]:,} {key}!" for key in ("nan", "inf") if tensor[key])
        layout = f"{shapes[name]:<{shape_width}}  {tensor['dtype']:<8}"
        print(f"{names[name]:<{name_width}}  {layout} {numbers}{marks}")
    bad = [names[name] for name, tensor in tensors.items() if tensor["nan"] or tensor["inf"]]
    print(f"\n{len(tensors)} tensors, " + (f"{len(bad)} of them with nan or inf: {', '.join(bad)}"
                                           if bad else "all numbers finite"))  # fmt: skip


def replace_nan(value: Any) -> Any:
    """Replace nan and infinity by None: JSON has neither."""
    if isinstance(value, dict):
        return {key: replace_nan(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
