"""Presets: a model's shape and how to train it, by name."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from npgpt.config import (
    VOCABULARIES,
    Config,
    PresetName,
    RunConfig,
    TokenizerName,
    TrainingConfig,
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model and how to train it: a value of `npgpt.presets`.

    Parameters
    ----------
    config : Config
        Shape of the model.
    training : TrainingConfig
        Hyperparameters.
    tokenizer : {"gpt2", "byte"}, default "gpt2"
        Name of the tokenizer.
    init : {"gpt2", "book"}, default "gpt2"
        Distribution of the initial parameters, the `scheme` of `GPT`.
    """

    config: Config
    training: TrainingConfig
    tokenizer: TokenizerName = "gpt2"
    init: Literal["book", "gpt2"] = "gpt2"


def gpt2(n_layer: int, n_head: int, n_embd: int) -> Preset:
    """Return the preset of one of OpenAI's four models, to train it from scratch."""
    config = Config(n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    training = TrainingConfig(
        lr=6e-4,
        min_lr=6e-5,
        warmup_steps=100,
        beta2=0.95,
        decay="matrices",
        grad_clip=1.0,
        eval_every=100,
        eval_tokens=65_536,
    )
    return Preset(config=config, training=training)


BOOK = Config(context_length=256, dropout=0.1, qkv_bias=False, tied=False)

PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        config=Config(
            vocab_size=257, context_length=64, n_layer=4, n_head=4, n_embd=128, dropout=0.1,
            tied=False,
        ),
        training=TrainingConfig(epochs=7, batch_size=12, stride=16, lr=5e-3, min_lr=5e-4,
                          warmup_steps=30, beta2=0.99, decay="matrices", grad_clip=1.0,
                          eval_every=50, eval_tokens=24_576, prompt="The lighthouse",
                          sample_tokens=160),
        tokenizer="byte",
        init="book",
    ),
    "book": Preset(
        config=BOOK,
        training=TrainingConfig(),
        init="book",
    ),
    "book-appendix-d": Preset(
        config=BOOK,
        training=TrainingConfig(
            epochs=15, warmup_steps=27, lr=1e-3, initial_lr=1e-5, min_lr=1e-5, grad_clip=1.0,
            eval_batches=1,
        ),
        init="book",
    ),
    "gpt2-small": gpt2(12, 12, 768),
    "gpt2-medium": gpt2(24, 16, 1024),
    "gpt2-large": gpt2(36, 20, 1280),
    "gpt2-xl": gpt2(48, 25, 1600),
}  # fmt: skip

# Training that starts from a model, whose shape it has. The batch and the warmup are upper limits:
# npgpt train fits them to the memory and to the text.
FINE_TUNING = RunConfig(
    preset="fine-tuning",
    config=Config(dropout=0.1),
    training=TrainingConfig(
        epochs=3, batch_size=8, lr=5e-5, initial_lr=5e-6, min_lr=5e-6, warmup_steps=100,
        decay="matrices", grad_clip=1.0, eval_every=20, eval_tokens=40_960,
    ),
)  # fmt: skip

presets: Mapping[str, Preset] = MappingProxyType(PRESETS)  # the public name


def defaults(preset: PresetName, *, tokenizer_name: str | None = None) -> RunConfig:
    """Return the settings of a preset, with the vocabulary of another tokenizer if one is named."""
    chosen = PRESETS[preset]
    name, config = tokenizer_name or chosen.tokenizer, chosen.config
    if name != chosen.tokenizer:
        config = dataclasses.replace(config, vocab_size=VOCABULARIES[name])
    return RunConfig(
        preset=preset, tokenizer=name, init=chosen.init, config=config, training=chosen.training
    )
