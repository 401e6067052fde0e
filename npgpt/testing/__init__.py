"""Test a port of GPT-2: record what it computes, and compare it with npgpt.

Names are imported when they are first used, because pytest imports this package for its plugin. No
module here has the name of a function: importing it would replace the function.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npgpt.testing.hooks import capture
    from npgpt.testing.parity import assert_parity
    from npgpt.testing.probes import probe

_MODULES = {
    "assert_parity": "npgpt.testing.parity",
    "capture": "npgpt.testing.hooks",
    "probe": "npgpt.testing.probes",
}

__all__ = ["assert_parity", "capture", "probe"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'npgpt.testing' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
