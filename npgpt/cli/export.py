"""npgpt export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from npgpt.cli.common import latest_or
from npgpt.download.resolve import resolve
from npgpt.errors import InputError, RunError


@dataclass(kw_only=True)
class Export:
    """Write a model's weights in a format that others read."""

    model: Path | None = None
    """A run's folder, weights of any format, or gpt2-small to gpt2-xl once downloaded
    [default: the newest under ./runs]."""
    to: Literal["huggingface", "llm.c", "npgpt"] = "huggingface"
    """huggingface: a folder for transformers, or whoever reads safetensors. llm.c: a file such as
    gpt2_124M.bin, for tied models. npgpt: a checkpoint without what its training needs."""
    out: Path
    """The folder, or the file, to write; it may not be there yet."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of the numbers written: the shorter ones halve the file and round."""

    def run(self) -> int:
        """The exit code."""
        from npgpt.weights import checkpoint, formats, huggingface, llmc

        source = formats.open_weights(resolve(latest_or(self.model)))
        config, tokenizer = source.config, source.tokenizer
        try:
            if self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
                raise InputError(f"{self.out} is there already: choose another --out")
            if self.to == "huggingface":
                tree = source.params("float32")
                huggingface.write_huggingface(self.out, config, tree, tokenizer, dtype=self.dtype)
            elif self.to == "llm.c":
                llmc.write_llmc(self.out, config, source.params("float32"), dtype=self.dtype)
            elif self.dtype != "float32":
                raise InputError(f"a checkpoint of npgpt holds float32, not {self.dtype}")
            else:
                checkpoint.write(
                    self.out, checkpoint.Contents(config, source.params("float32"), tokenizer)
                )
        except OSError as error:
            raise RunError(f"{self.out} could not be written: {error.strerror or error}") from None
        print(self.out)
        return 0
