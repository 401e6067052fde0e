"""npgpt compare."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from npgpt.cli.common import Weights, announce_compilation, track_progress
from npgpt.errors import InputError


@dataclass(kw_only=True)
class Compare:
    """Where do two models differ first? Parameter by parameter, then layer by layer on a prompt."""

    first: tyro.conf.Positional[Path]
    """A run's folder, weights of any format, or gpt2-small to gpt2-xl once downloaded."""
    second: tyro.conf.Positional[Path]
    """Another, for example what a port of your own has saved."""
    prompt: str = "Every effort moves you"
    """What both read, to compare what comes out of each layer."""

    weights: Weights | None = None
    """What the second's matrices are kept as: a model beside itself shows what fewer bits change
    [default: as npgpt quantize wrote them, else float32]."""

    @announce_compilation()
    def run(self) -> int:
        """The exit code: 0 if they are the same, 1 if not."""
        from npgpt import gpt
        from npgpt.model.params import named
        from npgpt.parity import compare

        a, b = gpt.load(self.first), gpt.load(self.second, weights=self.weights)
        tokens = read_prompt(a, self.prompt)
        found = list(track_progress(compare.parameters(a, b), len(list(named(a.params)))))
        print(f"{self.first} and {self.second}")
        differing = [one for one in found if one.largest != 0]
        print(f"{len(found) - len(differing)} of {len(found)} parameters are the same to the bit\n")
        show("parameter", differing)
        layers = list(compare.layers(a, b, tokens))
        apart = [one for one in layers if one.largest != 0]
        same = layers.index(apart[0]) if apart else len(layers)
        print(f"on {tokens.shape[1]} tokens, what comes out of the first {same} of {len(layers)} "
              "layers is the same to the bit\n")  # fmt: skip
        show("layer", layers[same:])
        if not differing and not apart:
            print("The two models are the same.")
            return 0
        if differing:
            print(f"First parameter that differs: {sentence(differing[0])}")
        print(f"First layer that differs: {sentence(apart[0])}" if apart else
              "No layer's output differs on this prompt.")  # fmt: skip
        return 1


def show(what: str, found) -> None:
    """A table of differences."""
    if not found:
        return
    wide = max(len(what), *(len(one.name) for one in found))
    print(f"{what:<{wide}}  {'largest':>9}  {'relative':>9}")
    for one in found:
        print(f"{one.name:<{wide}}  {one.largest:>9.2g}  {one.relative:>9.2g}  {one.note}".rstrip())
    print()


def sentence(found) -> str:
    """A difference in words."""
    note = f" ({found.note})" if found.note else ""
    return f"{found.name}, by {found.largest:.2g} or {found.relative:.2g} of its size{note}"


def read_prompt(model, prompt: str):
    """The prompt (1, T) in the model's tokens; whatever it knows where its tokenizer is unknown."""
    import numpy as np

    from npgpt.data.tokenizer import encode, tokenizer

    ids = encode(tokenizer(model.tokenizer), prompt) if model.tokenizer else list(prompt.encode())
    if not ids:
        raise InputError("the prompt is empty: give --prompt at least one character")
    ids = np.asarray(ids, np.int64)[: model.config.context_length]
    return ids[None] % model.config.vocab_size
