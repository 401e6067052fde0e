"""npgpt compare."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from npgpt.cli.common import OptionalWeights, announce_compilation
from npgpt.errors import InputError
from npgpt.system.console import track_progress
from npgpt.system.terminal import printable_line

if TYPE_CHECKING:
    from npgpt.arrays import Array
    from npgpt.gpt import GPT
    from npgpt.parity.compare import Difference

WEIGHTS_ONLY = (
    "Only weights were compared: npgpt computed both models. To find a mistake in what a program "
    "computes: npgpt probe, then npgpt diagnose."
)


@dataclass(kw_only=True)
class Compare:
    """Show where two models first differ, by parameter and by layer.

    Compares weights only: npgpt computes both models. To test what a program of your own computes,
    see npgpt probe and npgpt diagnose. Exit status: 0 if the models are equal, bit for bit or
    within rounding; 1 if they differ or cannot be computed; 2 for invalid input.

    Parameters
    ----------
    first
        A run directory, weights in any supported format, or gpt2-small to gpt2-xl once downloaded.
    second
        The model to compare it with. For example the weights that a port of your own has saved in
        npz or safetensors, by its own names and in its own layout.
    prompt
        Text that both models read, to compare the outputs of each layer.
    weights
        Storage type of the second model's matrices. A model compared with itself shows the effect
        of quantization.
    ops
        Backend of both models: compiled Numba kernels, or plain NumPy.
    map
        The port's name of a tensor or layer, and npgpt's, if the two cannot be matched without it:
        blocks.{i}.foo=h.{i}.attn.c_proj. Repeat the flag for several.
    """

    first: tyro.conf.Positional[Path]
    second: tyro.conf.Positional[Path]
    prompt: str = "Every effort moves you"
    weights: OptionalWeights = None
    ops: Literal["fused", "numpy"] = "fused"
    map: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="MINE=THEIRS")
    ] = ()

    def run(self) -> int:
        """Print the differences; return 0 if there are none but rounding, else 1."""
        with announce_compilation(self.ops):
            return self.compare()

    def compare(self) -> int:
        """Print the differences; return the exit status."""
        from npgpt.model.finite import ignore_overflow
        from npgpt.model.params import named
        from npgpt.parity import compare

        a, b, notes = self.load()
        tokens = encode_prompt(a, self.prompt)
        count = len(list(named(a.params)))
        parameters = list(track_progress(compare.compare_parameters(a, b), count))
        different = [one for one in parameters if one.largest != 0 and not one.is_rounding]
        print(printable_line(f"{self.first} and {self.second}"))
        for note in notes:
            print(printable_line(note))
        print(f"{count_equal(parameters)} parameters are bit-identical"
              f"{count_rounding(parameters)}\n")  # fmt: skip
        print_table("parameter", different)
        with ignore_overflow():
            layers = list(compare.compare_layers(a, b, tokens))
            if any(one.largest != 0 for one in layers):
                layers = compare.with_budgets(layers, a, tokens)
        wrong = [one for one in layers if one.largest != 0 and not one.is_rounding]
        print(f"on {tokens.shape[1]} tokens, the outputs of {count_equal(layers)} layers are "
              f"bit-identical{count_rounding(layers)}\n")  # fmt: skip
        print_table("layer", layers[layers.index(wrong[0]) :] if wrong else [])
        if different:
            print(f"First parameter that differs: {sentence(different[0])}")
        if wrong:
            print(f"First layer that differs: {sentence(wrong[0])}")
        elif different:
            print("The outputs of all layers are equal on this prompt.")
        else:
            exact = all(one.largest == 0 for one in (*parameters, *layers))
            print(f"The two models are equal{'' if exact else ' within rounding'}.")
        print(WEIGHTS_ONLY)
        return int(bool(different or wrong))

    def load(self) -> "tuple[GPT, GPT, list[str]]":
        """Return both models, and notes about the layout of the second one."""
        from npgpt.cli.diagnose import parse_pair
        from npgpt.loading import load
        from npgpt.parity.port_weights import load_like

        numpy = "numpy" if self.ops == "numpy" else None
        first = load(self.first, ops=numpy)
        renames = dict(parse_pair(pair) for pair in self.map)
        second, notes = load_like(first, self.second, renames, weights=self.weights, ops=numpy)
        return first, second, notes


def count_equal(differences: Sequence["Difference"]) -> str:
    """Return how many of all are bit-identical."""
    return f"{sum(one.largest == 0 for one in differences)} of {len(differences)}"


def count_rounding(differences: Sequence["Difference"]) -> str:
    """Return how many more are equal within rounding, or nothing."""
    found = sum(one.largest != 0 and one.is_rounding for one in differences)
    return f", {found} more {'is' if found == 1 else 'are'} equal within rounding" if found else ""


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
