"""GPT-2 with every gradient written out by hand: NumPy to read, Numba to run.

>>> import npgpt
>>> config = npgpt.Config(vocab_size=257, context_length=64, n_layer=2, n_head=2, n_embd=32)
>>> model = npgpt.GPT(config, seed=123)
>>> loss, gradients = model.loss_and_gradients([[1, 2, 3]], [[2, 3, 4]])
>>> {name: array.shape for name, array in npgpt.named(gradients)}["h.0.attn.c_attn.weight"]
(32, 96)

Names are imported when they are first used: `import npgpt` waits for neither NumPy nor Numba.
"""

import sys
from importlib import import_module

__version__ = "0.1.0"

# The module of each public name. npgpt/__init__.pyi lists the same names for type checkers.
_MODULES = {
    "Adam": "npgpt.training.optim",
    "AdamW": "npgpt.training.optim",
    "Batch": "npgpt.inference.batch",
    "Config": "npgpt.config",
    "ConfigError": "npgpt.errors",
    "DownloadError": "npgpt.errors",
    "DropoutWarning": "npgpt.errors",
    "GPT": "npgpt.gpt",
    "Generator": "npgpt.rng",
    "IgnoredTensorsWarning": "npgpt.errors",
    "InputError": "npgpt.errors",
    "KernelCacheWarning": "npgpt.errors",
    "Loader": "npgpt.data.loader",
    "Muon": "npgpt.training.optim",
    "Preset": "npgpt.preset",
    "RMSprop": "npgpt.training.optim",
    "RunError": "npgpt.errors",
    "SGD": "npgpt.training.optim",
    "Sampling": "npgpt.inference.sampling",
    "Speculation": "npgpt.inference.speculation",
    "Trainer": "npgpt.training.trainer",
    "TrainingConfig": "npgpt.config",
    "WeightFileError": "npgpt.errors",
    "WeightFileWarning": "npgpt.errors",
    "beam_search": "npgpt.inference.beams",
    "clip_gradients": "npgpt.training.schedule",
    "evaluate": "npgpt.inference.evaluate",
    "generate": "npgpt.inference.generate",
    "global_norm": "npgpt.training.schedule",
    "learning_rate": "npgpt.training.schedule",
    "load": "npgpt.loading",
    "named": "npgpt.model.params",
    "presets": "npgpt.preset",
    "tokenizer": "npgpt.data.tokenizer",
    "zeros_like": "npgpt.model.params",
}
_PACKAGES = "fused", "mixed", "ops", "show"

__all__ = list(_MODULES)


def __getattr__(name):
    if name in _PACKAGES:
        return _lazy(f"npgpt.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'npgpt' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def _lazy(name):
    """Return a module that is executed when an attribute of it is first used."""
    if name in sys.modules:
        return sys.modules[name]
    from importlib.util import LazyLoader, find_spec, module_from_spec

    spec = find_spec(name)
    spec.loader = LazyLoader(spec.loader)
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)  # only notes what to do later
    return module


def __dir__():
    return sorted({*globals(), *__all__, *_PACKAGES})
