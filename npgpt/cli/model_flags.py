"""The flags that name a model and a batch: a preset, and what of it is to be otherwise."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from npgpt.config import PresetName, RunConfig, defaults


@dataclass(kw_only=True)
class ModelFlags:
    """A preset, and what of it is to be otherwise."""

    preset: PresetName = "tiny"
    """Where everything that is not given comes from."""
    batch_size: int | None = None
    """Windows that go through the model together [default: the preset's]."""
    context_length: int | None = None
    """Tokens in a window [default: the preset's]."""
    vocab_size: int | None = None
    """How many different tokens there are [default: the preset's]."""
    n_layer: int | None = None
    """How many blocks [default: the preset's]."""
    n_head: int | None = None
    """Attention heads in each block [default: the preset's]."""
    n_embd: int | None = None
    """How wide: a multiple of n_head [default: the preset's]."""
    dropout: float | None = None
    """The rate [default: the preset's]."""
    tied: bool | None = None
    """Is the output head the token embedding? [default: the preset's]"""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Of parameters and everything computed from them; bfloat16 is of products alone, all else
    stays float32."""
    ops: Literal["fused", "numpy"] = "fused"
    """The backend: Numba kernels, or the plain NumPy that is there to be read."""

    def settings(self) -> RunConfig:
        """The settings of the run that is meant. Raises InputError where they make no sense."""
        chosen = defaults(self.preset)
        return replace(
            chosen,
            config=self.changed(chosen.config),
            training=self.changed(chosen.training),
            dtype=self.dtype,
            ops=self.ops,
        )

    def changed(self, part):
        """A part of the preset's settings, with the values that were given."""
        given = {field.name: getattr(self, field.name, None) for field in fields(part)}
        return replace(part, **{name: value for name, value in given.items() if value is not None})
