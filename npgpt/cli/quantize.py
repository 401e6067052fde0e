"""npgpt quantize."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from npgpt.download.resolve import resolve
from npgpt.errors import InputError, RunError


@dataclass(kw_only=True)
class Quantize:
    """Write a model with its matrices in fewer bits: a file to generate from, not to train."""

    model: tyro.conf.Positional[Path]
    """A run's folder, weights of any format, or gpt2-small to gpt2-xl once downloaded."""
    to: Path
    """The file to write; it may not be there yet."""
    weights: Literal["int8", "bfloat16"] = "int8"
    """int8 takes a quarter of float32's bytes, bfloat16 half: docs/precision.md says what it
    costs."""

    def run(self) -> int:
        """The exit code."""
        from npgpt.weights import formats, quantized_file

        source = formats.open_weights(resolve(self.model))
        try:
            if self.to.exists():
                raise InputError(f"{self.to} is there already: choose another --to")
            quantized_file.write_quantized(self.to, source, self.weights)
            written = self.to.stat().st_size
        except OSError as error:
            raise RunError(f"{self.to} could not be written: {error.strerror or error}") from None
        print(f"{self.to}: {written:,} bytes")
        return 0
