"""Environments of the programs that npgpt is compared with, each in one of its own.

    python -m benchmarks.peers           # which are found
    NPGPT_PEERS=DIR make bench           # DIR/openvino/bin/python, DIR/jax/bin/python, ...

A program without an environment runs in this interpreter if its packages are installed here.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Environment(NamedTuple):
    """`package`: the module that must be importable. `requirements`: pip's arguments."""

    package: str
    requirements: str


ENVIRONMENTS = {
    "openvino": Environment("openvino_genai", "numpy openvino-genai"),
    "onnxruntime": Environment("onnxruntime", "numpy onnx onnxruntime"),
    "ctranslate2": Environment("ctranslate2", "numpy ctranslate2"),
    "llamacpp": Environment("llama_cpp", "numpy llama-cpp-python"),
    "jax": Environment("jax", '"jax[cpu]"'),
    "transformers": Environment("transformers", "torch==2.13.0 transformers"),
    "torch": Environment("torch", "torch==2.13.0"),
}


def python_of(name: str) -> str:
    """Return the interpreter for an environment: its own, else this one."""
    folder = os.environ.get("NPGPT_PEERS")
    own = Path(folder or "", name, "bin", "python")
    return str(own.absolute()) if folder and own.exists() else sys.executable


def missing(name: str) -> str | None:
    """Return why a program is skipped, or None if its package is installed."""
    package, python = ENVIRONMENTS[name].package, python_of(name)
    if python == sys.executable:
        found = importlib.util.find_spec(package) is not None
    else:
        code = (
            f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
        )
        found = subprocess.run([python, "-c", code]).returncode == 0
    if found:
        return None
    return f"{python} has no package {package}: set NPGPT_PEERS (docs/performance.md)"


def main() -> None:
    for name in ENVIRONMENTS:
        print(f"{name}: {missing(name) or python_of(name)}")


if __name__ == "__main__":
    main()
