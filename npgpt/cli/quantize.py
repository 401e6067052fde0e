"""npgpt quantize."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from npgpt.cli.common import OptionalTokenizer
from npgpt.download.resolve import resolve
from npgpt.errors import InputError
from npgpt.system.terminal import printable_line


@dataclass(kw_only=True)
class Quantize:
    """Write a model with int8 or bfloat16 matrices: for generation, not for training.

    Parameters
    ----------
    model
        A run directory, weights in any supported format, or gpt2-small to gpt2-xl once downloaded.
    to
        File to write. It must not exist.
    weights
        int8 takes a quarter of the bytes of float32, bfloat16 half. docs/precision.md shows the
        loss of accuracy.
    tokenizer
        "byte", "gpt2", or the path of a tokenizer.json, of its directory, or of a model. Needed if
        the tokenizer is neither recorded with the model nor beside the weights.
    """

    model: tyro.conf.Positional[Path]
    to: Path
    weights: Literal["int8", "bfloat16"] = "int8"
    tokenizer: OptionalTokenizer = None

    def run(self) -> int:
        """Write the file; return the exit status."""
        from npgpt.data.tokenizer_choice import choose
        from npgpt.weights import formats, quantized_file

        source = formats.open_weights(resolve(self.model))
        source = dataclasses.replace(source, tokenizer=choose(source, self.tokenizer).tokenizer)
        if os.path.lexists(self.to):
            raise InputError(f"{self.to} already exists: choose another --to")
        quantized_file.write_quantized(self.to, source, self.weights)
        print(f"{printable_line(str(self.to))}: {os.path.getsize(self.to):,} bytes")
        return 0
