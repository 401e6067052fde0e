"""Pictures of a model for a notebook: what `npgpt play` shows in the browser, with matplotlib.

>>> npgpt.show.attention(model, "The lighthouse keeper")
"""

from importlib import import_module
from typing import Any

# The module of each picture
_MODULES = {
    "attention": "reading",
    "backward": "gradients",
    "gradients": "gradients",
    "logit_lens": "reading",
    "muon": "optimizers",
    "next_token": "reading",
    "nudge": "gradients",
    "outer": "gradients",
    "ravine": "optimizers",
    "step": "optimizers",
    "surprise": "reading",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'npgpt.show' has no attribute {name!r}")
    return getattr(import_module(f"npgpt.show.draw_{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
