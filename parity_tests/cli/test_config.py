"""The numbers: presets, defaults, and what is refused."""

import ast
import dataclasses
import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from npgpt.arrays import LINE, PAGE, zeros
from npgpt.config import VOCABULARIES, Config, RunConfig, TrainingConfig
from npgpt.errors import InputError
from npgpt.model import params
from npgpt.preset import PRESETS, defaults

SIZES = {
    "gpt2-small": (12, 12, 768, 124_439_808),
    "gpt2-medium": (24, 16, 1024, 354_823_168),
    "gpt2-large": (36, 20, 1280, 774_030_080),
    "gpt2-xl": (48, 25, 1600, 1_557_611_200),
}


@pytest.mark.parametrize("name", SIZES)
def test_openais_four_shapes(name):
    config = PRESETS[name].config
    assert (config.n_layer, config.n_head, config.n_embd, params.size(config)) == SIZES[name]
    assert (config.vocab_size, config.context_length) == (50257, 1024)
    assert config.tied
    assert config.qkv_bias
    assert config.n_embd // config.n_head == 64


def test_the_books_model():
    preset = PRESETS["book"]
    config, training = preset.config, preset.training
    assert (config.context_length, config.dropout) == (256, 0.1)
    assert (config.tied, config.qkv_bias, preset.init) == (False, False, "book")
    assert params.size(config) == 162_419_712
    longer = dataclasses.replace(config, context_length=1024)
    assert params.size(longer) == 163_009_536  # 621.83 MB in float32
    assert params.size(longer) - 50257 * 768 == 124_412_160  # without the head
    assert (training.lr, training.weight_decay, training.decay) == (4e-4, 0.1, "all")
    assert (training.beta1, training.beta2, training.eps) == (0.9, 0.999, 1e-8)
    assert (training.epochs, training.batch_size, training.seed) == (10, 2, 123)
    assert (training.eval_every, training.eval_batches, training.sample_tokens) == (5, 5, 50)
    assert (training.grad_clip, training.warmup_steps, training.min_lr) == (None, 0, None)
    assert training.prompt == "Every effort moves you"


def test_every_preset_is_complete():
    assert {"tiny", "book", *SIZES} <= set(PRESETS)
    for name, preset in PRESETS.items():
        settings = defaults(name)
        assert settings.preset == name
        assert (settings.config, settings.training) == (preset.config, preset.training)
        assert preset.config.vocab_size == VOCABULARIES[preset.tokenizer]
    assert PRESETS["tiny"].tokenizer == "byte"  # which needs no download
    assert params.size(PRESETS["tiny"].config) < 1_000_000


def test_the_size_is_that_of_the_arrays():
    for tied in (True, False):
        for qkv_bias in (True, False):
            config = Config(vocab_size=7, context_length=5, n_layer=2, n_head=2, n_embd=6,
                            tied=tied, qkv_bias=qkv_bias)  # fmt: skip
            tree = params.zeros(config)
            assert sum(array.size for _, array in params.named(tree)) == params.size(config)


def test_parameters_are_one_flat_array_that_begins_at_a_cache_line():
    config = Config(vocab_size=100, context_length=16, n_layer=2, n_head=2, n_embd=16)
    for dtype in (np.float32, np.float64):
        tree = params.zeros(config, dtype)
        for some in (tree, params.zeros_like(tree)):
            leaves = [array for _, array in params.named(some)]
            assert all(array.dtype == dtype and not array.any() for array in leaves)
            assert all(array.ctypes.data % LINE == 0 for array in leaves)  # 16 divides their sizes
            ends = [array.ctypes.data + array.nbytes for array in leaves]
            assert ends[:-1] == [array.ctypes.data for array in leaves[1:]]
    shapes = [(name, array.shape) for name, array in params.named(tree)]
    assert shapes == [(name, array.shape) for name, array in params.named(some)]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say")
def test_zeros_take_no_memory_before_they_are_written():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before, large = resident(), zeros((1 << 25,), np.float32)
    some = params.zeros_like(params.zeros(PRESETS["gpt2-small"].config))
    assert large.ctypes.data % PAGE == 0 and some.wte.weight.ctypes.data % PAGE == 0
    assert resident() - before < 1 << 24


def test_another_tokenizer_brings_its_vocabulary():
    assert defaults("book", tokenizer_name="byte").config.vocab_size == 257
    assert defaults("tiny", tokenizer_name="gpt2").config.vocab_size == 50257
    assert defaults("tiny", tokenizer_name="byte") == defaults("tiny")
    larger = defaults("tiny", tokenizer_name="gpt2")
    assert dataclasses.replace(larger.config, vocab_size=257) == defaults("tiny").config


AT_LEAST = {
    Config: dict(vocab_size=1, context_length=1, n_layer=1, n_head=1, n_embd=1),
    TrainingConfig: dict(epochs=1, batch_size=1, grad_accumulation=1, eval_every=1, steps=1,
                         max_tokens=1,
                         stride=1,
                   eval_batches=1, checkpoint_every=1, log_every=1, warmup_steps=0,
                         sample_tokens=0),
}  # fmt: skip
BOUNDS = [(kind, name, least) for kind, names in AT_LEAST.items() for name, least in names.items()]


@pytest.mark.parametrize(("kind", "name", "least"), BOUNDS)
def test_whole_numbers_have_a_least(kind, name, least):
    one_head = {"n_head": 1} if name == "n_embd" else {}
    assert getattr(kind(**one_head | {name: least}), name) == least
    with pytest.raises(InputError) as caught:
        kind(**{name: least - 1})
    assert str(caught.value) == f"{name} is {least - 1}, but must be at least {least}"
    for wrong in (1.5, "3", True, np.nan):
        with pytest.raises(InputError, match=f"{name} is .* but must be an integer"):
            kind(**{name: wrong})


@pytest.mark.parametrize("value", [10**20, 10**400, -(10**5000), 1 << 65], ids="abcd")
@pytest.mark.parametrize("name", ["n_layer", "vocab_size", "dropout"])
def test_an_integer_that_no_float_holds(name, value):
    with pytest.raises(InputError, match=rf"{name} is an integer of \d+ bits, but must be below 2"):
        Config(**{name: value})


@pytest.mark.parametrize("name", ["lr", "weight_decay", "initial_lr", "eps", "min_lr"])
def test_rates_are_numbers_from_0(name):
    TrainingConfig(**{name: 0})
    TrainingConfig(**{name: 0.5})
    with pytest.raises(InputError, match=f"{name} is -0.1, but must be at least 0"):
        TrainingConfig(**{name: -0.1})
    for wrong in (np.nan, np.inf, "1"):
        with pytest.raises(InputError, match=f"{name} is .* but must be a number"):
            TrainingConfig(**{name: wrong})


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (Config, {"dropout": 1.0}, "dropout is 1.0, but must be in [0, 1)"),
        (Config, {"dropout": -0.1}, "dropout is -0.1, but must be at least 0"),
        (Config, {"n_embd": 10, "n_head": 4}, "n_embd is 10 and n_head is 4: n_embd must be a"),
        (Config, {"tied": 1}, "tied is 1, but must be true or false"),
        (Config, {"qkv_bias": "no"}, "qkv_bias is 'no', but must be true or false"),
        (TrainingConfig, {"train_fraction": 0}, "train_fraction is 0, but must be in (0, 1]"),
        (TrainingConfig, {"train_fraction": 1.1}, "train_fraction is 1.1, but must be in (0, 1]"),
        (TrainingConfig, {"grad_clip": 0}, "grad_clip is 0, but must be above 0"),
        (TrainingConfig, {"grad_clip": np.nan}, "grad_clip is nan, but must be a number"),
        (TrainingConfig, {"beta1": 1.0}, "beta1 is 1.0, but must be in [0, 1)"),
        (TrainingConfig, {"beta2": -1}, "beta2 is -1, but must be at least 0"),
        (
            TrainingConfig,
            {"decay": "some"},
            "decay is 'some', but must be \"all\" or \"matrices\"",
        ),
        (TrainingConfig, {"seed": -1}, "seed is -1, but must be in [0, 2**64)"),
        (TrainingConfig, {"seed": 2**64}, "seed is an integer of 65 bits, but must be below 2**64"),
        (
            TrainingConfig,
            {"steps": 3, "max_tokens": 100},
            "steps is 3 and max_tokens is 100: give one of them",
        ),
        (RunConfig, {"ops": "torch"}, "ops is 'torch', but must be fused or numpy"),
        (RunConfig, {"dtype": "float16"}, "dtype is 'float16', but must be float32 or float64"),
        (RunConfig, {"preset": "huge"}, "preset is 'huge', but must be tiny or book or"),
        (RunConfig, {"data": 3}, "data is 3, but must be str"),
        (RunConfig, {"init_from": 3}, "init_from is 3, but must be str or NoneType"),
        (RunConfig, {"config": {}}, "config is {}, but must be Config"),
    ],
)  # fmt: skip
def test_an_error_repeats_the_value_and_says_what_is_allowed(kind, values, says):
    with pytest.raises(InputError) as caught:
        kind(**values)
    assert says in str(caught.value)


@pytest.mark.parametrize("kind", [Config, TrainingConfig, RunConfig])
def test_the_docstring_names_every_field_with_its_default(kind):
    """The help texts are these docstrings, and help shows the value that is used."""
    found = re.findall(r"(?m)^    (\w+) : (.*?)(?:, default (.*))?$", kind.__doc__)
    documented = {name: default for name, _, default in found}
    assert list(documented) == [field.name for field in dataclasses.fields(kind)]
    for name, default in documented.items():
        value = getattr(kind(), name)
        assert dataclasses.is_dataclass(value) or ast.literal_eval(default) == value, name


def test_what_was_chosen_does_not_change():
    for chosen in (Config(), TrainingConfig(), RunConfig()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            chosen.seed = 1
