"""GPT-2 with every gradient written out by hand: NumPy to read, Numba to run.

>>> import npgpt
>>> config = npgpt.Config(vocab_size=257, context_length=64, n_layer=2, n_head=2, n_embd=32)
>>> model = npgpt.GPT(config, seed=123)
>>> loss, cache = model.loss([[1, 2, 3]], [[2, 3, 4]])
>>> gradients = model.backward(cache)
>>> {name: array.shape for name, array in npgpt.named(gradients)}["h.0.attn.c_attn.weight"]
(32, 96)
"""

from importlib import import_module

__version__ = "0.1.0"

# Where each public name lives. They are imported when first used, so that `import npgpt` and
# `npgpt --help` do not wait for Numba.
_HOMES = {
    "AdamW": "npgpt.training.optim",
    "Config": "npgpt.config",
    "GPT": "npgpt.gpt",
    "Generator": "npgpt.rng",
    "InputError": "npgpt.errors",
    "RunError": "npgpt.errors",
    "generate": "npgpt.inference.generate",
    "load": "npgpt.gpt",
    "named": "npgpt.model.params",
    "tokenizer": "npgpt.data.tokenizer",
}

__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'npgpt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__():
    return sorted({*globals(), *__all__})
