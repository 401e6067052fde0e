"""The settings of a run: everything that decides what it computes. Its flags are made from them."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal, get_args, get_origin, get_type_hints

from npgpt.config import PRESETS, Config, Preset, Training
from npgpt.errors import InputError
from npgpt.tokens import VOCABULARIES

PresetName = Literal[
    "tiny", "book", "book-appendix-d", "gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl"
]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides what a run computes."""

    preset: PresetName = "tiny"
    """Where the defaults of everything else come from: see them with --preset NAME --help."""
    data: str = "bundled"
    """"bundled", "verdict" (fetched once), a text file, or a folder of .txt files."""
    tokenizer: Literal["byte", "gpt2"] = "byte"
    """One token per byte, or GPT-2's byte-pair encoding (downloaded once)."""
    init: Literal["gpt2", "book"] = "gpt2"
    """Which distribution the parameters start from: GPT-2's own, or PyTorch's defaults."""
    init_from: str | None = None
    """Start from the model in this checkpoint instead; its shape is taken over."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Of parameters and everything computed from them; bfloat16 is of products alone, all else
    stays float32."""
    ops: Literal["fused", "numpy"] = "fused"
    """The shelf: Numba kernels, or the plain NumPy that is there to be read."""
    config: Config = field(default_factory=Config)
    training: Training = field(default_factory=Training)

    def __post_init__(self):
        for name, kind in get_type_hints(type(self)).items():
            value, allowed = getattr(self, name), get_args(kind) or (kind,)
            fits = value in allowed if get_origin(kind) is Literal else isinstance(value, allowed)
            if not fits:
                names = " or ".join(getattr(one, "__name__", one) for one in allowed)
                raise InputError(f"{name} is {value!r}, but has to be {names}")
        if (self.dtype, self.ops) == ("bfloat16", "numpy"):
            raise InputError("dtype is 'bfloat16', which NumPy does not multiply: leave out --ops")

    @property
    def parameter_dtype(self) -> str:
        """NumPy's name of what the parameters are."""
        return "float32" if self.dtype == "bfloat16" else self.dtype


def defaults(preset: str, *, tokenizer_name: str | None = None) -> Settings:
    """The settings of a preset, with the vocabulary of another tokenizer if one is named."""
    chosen: Preset = PRESETS[preset]
    name, config = tokenizer_name or chosen.tokenizer, chosen.config
    if name != chosen.tokenizer:
        config = dataclasses.replace(config, vocab_size=VOCABULARIES[name])
    return Settings(
        preset=preset, tokenizer=name, init=chosen.init, config=config, training=chosen.training
    )
