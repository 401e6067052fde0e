"""npgpt export."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from npgpt.cli.common import ModelPath, OptionalTokenizer, model_path, require_new
from npgpt.download.resolve import resolve
from npgpt.errors import ConfigError
from npgpt.system.terminal import printable_line

NO_TOKENIZER = (
    "The tokenizer of this model is unknown, so none is written, and transformers cannot encode a "
    "text: give --tokenizer"
)


@dataclass(kw_only=True)
class Export:
    """Write the weights of a model in a format that other programs read.

    Parameters
    ----------
    model
        A run directory, weights in any supported format, or gpt2-small to gpt2-xl once downloaded.
    to
        huggingface: a directory with safetensors, the tokenizer and a model card, for transformers
        and others. gguf: a file with the tokenizer, for llama.cpp; it needs the extra [gguf].
        llm.c: a file such as gpt2_124M.bin, for tied models. npgpt: a checkpoint without the
        training state.
    out
        File or directory to write. It must not exist; an empty directory is replaced.
    tokenizer
        "byte", "gpt2", or the path of a tokenizer.json, of its directory, or of a model. Needed if
        the tokenizer is neither recorded with the model nor beside the weights.
    dtype
        Data type of the numbers written. float16 and bfloat16 halve the file and round. int8, for
        gguf only, is llama.cpp's Q8_0: a quarter of the size.
    """

    model: ModelPath = None
    to: Literal["huggingface", "gguf", "llm.c", "npgpt"] = "huggingface"
    out: Path
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    tokenizer: OptionalTokenizer = None

    def run(self) -> int:
        """Write the weights; return the exit status."""
        from npgpt.data.tokenizer import check_size, tokenizer
        from npgpt.data.tokenizer_choice import KINDS, choose
        from npgpt.export import gguf_file, huggingface
        from npgpt.export.read_back import require_written
        from npgpt.weights import checkpoint, formats, llmc

        if self.dtype == "int8" and self.to != "gguf":
            raise ConfigError(
                f"{self.to} has no int8: use --to gguf, or npgpt quantize for a file of npgpt's"
            )
        source = formats.open_weights(resolve(model_path(self.model)))
        config, name = source.config, choose(source, self.tokenizer).tokenizer
        require_new(self.out, directory=self.to == "huggingface")
        found = None if name is None else tokenizer(name)
        if found is not None:
            check_size(found, config)
            name = found.origin  # files that have GPT-2's vocabulary and merges are "gpt2"
        if self.to == "huggingface":
            huggingface.write(self.out, config, source.params("float32"), found, dtype=self.dtype)
            if found is None:
                print(NO_TOKENIZER, file=sys.stderr)
        elif self.to == "gguf":
            if found is None:
                raise ConfigError(f"a GGUF file has a tokenizer: give --tokenizer {KINDS}")
            gguf_file.write(self.out, config, source.params("float32"), found, dtype=self.dtype)
        elif self.to == "llm.c":
            tree = source.params("float32")
            llmc.write_llmc(
                self.out, config, tree, dtype=self.dtype,
                check=lambda written: require_written(written, config, tree),
            )  # fmt: skip
        elif self.dtype != "float32":
            raise ConfigError(f"a checkpoint of npgpt holds float32, not {self.dtype}")
        else:
            contents = checkpoint.Contents(config, source.params("float32"), name)
            checkpoint.write(
                self.out, contents,
                check=lambda written: require_written(written, config, contents.params),
            )  # fmt: skip
        print(printable_line(str(self.out)))
        return 0
