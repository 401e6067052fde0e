"""Kernels compiled before they are needed, by two processes, where Numba's cache has none yet.

Numba compiles on one core, and most of a first run is that. The ops of one backend work among those
of another: each process lets a tiny model take a step or generate a token, its own share of the ops
compiled and all others plain NumPy. What one has compiled, the other finds in the cache.
"""

import contextlib
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from npgpt import backends
from npgpt.config import Config
from npgpt.model import kv_cache, params, quantize, transformer
from npgpt.model.backend import OPS
from npgpt.model.initializers import SCHEMES
from npgpt.quantized_matrix import KINDS as NARROW
from npgpt.rng import Generator
from npgpt.system import machine
from npgpt.training import optim

# What the second process compiles for a piece of work: a little less than half of the time, as it
# begins a second later. The matrix product's inner kernels are in what the first one has.
SHARES = {
    "train": ("embedding", "layernorm", "gelu", "dropout", "adamw", "random"),
    "generate": ("decode",),
}
MANY = 1 << 14  # tokens of the tiny model: drawn on all threads, as those of larger ones are


def compile_kernels(work: str, kind: str, scheme: str | None = None, dropout: float = 0.0) -> None:
    """What has to be compiled before the first step or token of npgpt.fused or npgpt.mixed.

    `work`: "train" or "generate". `kind`: as --dtype of the one, as --weights of the other.
    `scheme`: how parameters will be drawn (npgpt/model/initializers.py), unless they are there.
    `dropout`: the rate of training. Nothing happens where some of it is in the cache, where there
    is no room for one, or with a single core: then kernels are compiled when they are called.
    """
    from npgpt import fused

    others = SHARES[work]
    if machine.cores() < 2 or not missing(getattr(fused, others[0])._forward):
        return
    command = second_process(work, kind, scheme, dropout)
    silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    with subprocess.Popen(command, **silent) as second:  # its end is waited for
        try:
            with gc_paused():
                warm_up(work, kind, [name for name in fused.__all__ if name not in others])
        except BaseException:
            second.kill()
            raise


def second_process(work: str, kind: str, scheme: str | None, dropout: float) -> list[str]:
    """The command that compiles its share."""
    return [
        sys.executable,
        "-m",
        "npgpt.performance.precompile",
        work,
        kind,
        scheme or "",
        str(dropout),
    ]


def missing(kernel) -> bool:
    """Is there a cache, and nothing of this kernel in it?"""
    folder, name = kernel.stats.cache_path, kernel.py_func.__qualname__
    module = kernel.py_func.__module__.rpartition(".")[2]
    return folder is not None and not any(Path(folder).glob(f"{module}.{name}-*.nbi"))


def warm_up(work: str, kind: str, names, scheme: str | None = None, dropout: float = 0.0) -> None:
    """Lets a tiny model work, with these ops of the backend compiled; its parameters zero, or drawn
    by `scheme`."""
    fast, plain = backends.get("mixed" if kind in NARROW else "fused"), backends.get("numpy")
    backend = SimpleNamespace(
        **{name: getattr(fast if name in names else plain, name) for name in OPS}
    )
    config = Config(
        vocab_size=MANY, context_length=16, n_layer=1, n_head=1, n_embd=16, dropout=dropout
    )
    tree = params.zeros(config, np.float64 if kind == "float64" else np.float32)
    tokens = np.arange(16)[None]
    if work == "train":
        rng, gradients = Generator(0, ops=backend), params.zeros_like(tree)
        if scheme is not None:
            SCHEMES[scheme](tree, config, rng)
        Generator(rng.random64(), ops=backend).randperm(2)  # the order of windows
        _, cache = transformer.loss(tree, tokens, tokens, config, rng=rng, g=gradients, ops=backend)
        transformer.backward(cache, gradients, ops=backend)
        scale = optim.global_norm(gradients, ops=backend)
        optim.AdamW(tree, ops=backend).step(gradients, scale=min(scale, 1.0))
        transformer.evaluate(tree, tokens, tokens, config, ops=backend)
        return
    tree = quantize.quantize(tree, kind) if kind in NARROW else tree
    past = kv_cache.empty_cache(1, config, tree.wpe.weight.dtype)
    for some in tokens[:, :15], tokens[:, 15:]:  # a prompt, and a token after it
        transformer.next_logits(tree, some, config, past=past, ops=backend)


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """No search for objects that refer to each other: what Numba leaves of those is 45 MB in the
    end, and looking for them is 3 % of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


if __name__ == "__main__":
    work, kind, scheme, dropout = sys.argv[1:]
    with gc_paused():
        warm_up(work, kind, SHARES[work], scheme or None, float(dropout))
