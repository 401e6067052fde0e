"""npgpt compare."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from npgpt.cli.common import OptionalWeights, announce_compilation
from npgpt.errors import InputError
from npgpt.system.console import track_progress
from npgpt.system.terminal import printable_line

if TYPE_CHECKING:
    from npgpt.arrays import Array
    from npgpt.gpt import GPT
    from npgpt.parity.compare import Difference


@dataclass(kw_only=True)
class Compare:
    """Show where two models first differ, by parameter and by layer.

    Exit status: 0 if they are equal, 1 if they differ or cannot be computed, 2 for invalid input.

    Parameters
    ----------
    first
        A run directory, weights in any supported format, or gpt2-small to gpt2-xl once downloaded.
    second
        The model to compare it with, for example the weights that a port of your own has saved.
    prompt
        Text that both models read, to compare the outputs of each layer.
    weights
        Storage type of the second model's matrices. A model compared with itself shows the effect
        of quantization.
    """

    first: tyro.conf.Positional[Path]
    second: tyro.conf.Positional[Path]
    prompt: str = "Every effort moves you"
    weights: OptionalWeights = None

    @announce_compilation()
    def run(self) -> int:
        """Print the differences; return 0 if there are none, else 1."""
        from npgpt.loading import load as load_model
        from npgpt.model.finite import ignore_overflow
        from npgpt.model.params import named
        from npgpt.parity import compare

        a, b = load_model(self.first), load_model(self.second, weights=self.weights)
        tokens = encode_prompt(a, self.prompt)
        count = len(list(named(a.params)))
        parameters = list(track_progress(compare.compare_parameters(a, b), count))
        print(printable_line(f"{self.first} and {self.second}"))
        different = [one for one in parameters if one.largest != 0]
        equal = len(parameters) - len(different)
        print(f"{equal} of {len(parameters)} parameters are bit-identical\n")
        print_table("parameter", different)
        with ignore_overflow():
            layers = list(compare.compare_layers(a, b, tokens))
        first = next((i for i, one in enumerate(layers) if one.largest != 0), len(layers))
        print(f"on {tokens.shape[1]} tokens, the outputs of the first {first} of {len(layers)} "
              "layers are bit-identical\n")  # fmt: skip
        print_table("layer", layers[first:])
        if not different and first == len(layers):
            print("The two models are equal.")
            return 0
        if different:
            print(f"First parameter that differs: {sentence(different[0])}")
        print("The outputs of all layers are equal on this prompt." if first == len(layers) else
              f"First layer that differs: {sentence(layers[first])}")  # fmt: skip
        return 1


def print_table(kind: str, differences: Sequence["Difference"]) -> None:
    """Print a table of differences, if there are any."""
    if not differences:
        return
    width = max(len(kind), *(len(one.name) for one in differences))
    print(f"{kind:<{width}}  {'largest':>9}  {'relative':>9}")
    for one in differences:
        line = f"{one.name:<{width}}  {one.largest:>9.2g}  {one.relative:>9.2g}  {one.note}"
        print(line.rstrip())
    print()


def sentence(difference: "Difference") -> str:
    """Return a difference in words."""
    note = f" ({difference.note})" if difference.note else ""
    return (
        f"{difference.name}, by {difference.largest:.2g}, "
        f"which is {difference.relative:.2g} of its largest value{note}"
    )


def encode_prompt(model: "GPT", prompt: str) -> "Array":
    """Return the prompt as tokens (1, T), or its bytes if the model's tokenizer is unknown."""
    import numpy as np

    from npgpt.data.tokenizer import tokenizer_of

    encoded = tokenizer_of(model).encode(prompt) if model.tokenizer else prompt.encode()
    if not encoded:
        raise InputError("the prompt is empty: give --prompt at least one character")
    ids = np.asarray(list(encoded), np.int64)[: model.config.context_length]
    return ids[None] % model.config.vocab_size
