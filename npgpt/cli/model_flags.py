"""The flags that choose a model and a batch: a preset, and values that replace the preset's."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, TypeVar

from npgpt.cli.common import OptimizerFlag, default
from npgpt.config import Config, PresetName, RunConfig, TrainingConfig
from npgpt.preset import defaults

FromPreset = Annotated[int | None, default("the preset's", "INT")]
Part = TypeVar("Part", Config, TrainingConfig)


@dataclass(kw_only=True)
class ModelFlags:
    """A preset, and values that replace the preset's.

    Parameters
    ----------
    preset
        Preset that gives the values of all other flags.
    batch_size
        Number of windows per batch. A window is a sequence of context_length tokens.
    context_length
        Maximum number of tokens in a sequence.
    vocab_size
        Number of tokens in the vocabulary.
    n_layer
        Number of blocks.
    n_head
        Number of attention heads per block.
    n_embd
        Embedding size: a multiple of n_head.
    dropout
        Dropout rate, in [0, 1).
    tied
        Use the token embedding as the output head.
    optimizer
        Optimizer, whose moments take memory and time.
    dtype
        Data type of parameters and activations. With bfloat16, only the operands of matrix products
        are rounded; everything else is float32.
    ops
        Backend: compiled Numba kernels, or plain NumPy.
    """

    preset: PresetName = "tiny"
    batch_size: FromPreset = None
    context_length: FromPreset = None
    vocab_size: FromPreset = None
    n_layer: FromPreset = None
    n_head: FromPreset = None
    n_embd: FromPreset = None
    dropout: Annotated[float | None, default("the preset's", "FLOAT")] = None
    tied: Annotated[bool | None, default("the preset's", "{True,False}")] = None
    optimizer: OptimizerFlag = "adamw"
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    ops: Literal["fused", "numpy"] = "fused"

    def settings(self) -> RunConfig:
        """Return the settings. Raise ConfigError if they are invalid."""
        chosen = defaults(self.preset)
        return replace(
            chosen,
            config=self.override(chosen.config),
            training=self.override(chosen.training),
            dtype=self.dtype,
            ops=self.ops,
        )

    def override(self, part: Part) -> Part:
        """Return a part of the settings with the values that were given."""
        values: dict[str, Any] = {f.name: getattr(self, f.name, None) for f in fields(part)}
        return replace(part, **{name: value for name, value in values.items() if value is not None})
