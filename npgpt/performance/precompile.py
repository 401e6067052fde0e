"""Compile the kernels in two processes when the Numba cache is empty.

Numba compiles on one core, and compilation dominates a first run. Each process runs one step of a
tiny model, or generates one token. It uses compiled kernels for its share of the ops and NumPy for
the rest. The results meet in the cache.
"""

import contextlib
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from npgpt import backends
from npgpt.config import Config, TrainingConfig
from npgpt.model import kv_cache, params, quantize, transformer
from npgpt.model.backend import OPS
from npgpt.model.initializers import SCHEMES
from npgpt.model.kv_cache import BFLOAT16
from npgpt.quantized_matrix import KINDS as QUANTIZED
from npgpt.rng import Generator
from npgpt.system import machine
from npgpt.training import optim, schedule

TRAINING = (
    "embedding", "layernorm", "gelu", "dropout", "adam", "adamw", "rmsprop", "sgd", "random",
)  # fmt: skip
# The ops that the second process compiles: a little less than half of the time, as it starts a
# second later. The inner kernels of the matrix product are in the share of the first one.
SHARES = {
    "train": TRAINING,
    "fine-tune": TRAINING,
    "generate": ("decode",),
    "batches": ("decode",),
}
VOCABULARY = 1 << 14  # of the tiny model: embeddings are drawn on all threads, as larger ones are
# Sequences and positions. Other kernels multiply more than 32 rows, and decode more than 4.
SHAPES, BATCHES = ((1, 15), (1, 40), (1, 1)), ((8, 1),)
# Positions and n_embd of training: the rows of its products. Only adapters and classes have few.
ROWS = {"train": 40, "fine-tune": 16}


def compile_kernels(
    work: str,
    kind: str,
    scheme: str | None = None,
    dropout: float = 0.0,
    optimizer: str = "adamw",
    cache_dtype: str | None = None,
) -> None:
    """Compile what the first step or token needs, unless that has been done before.

    Nothing happens without a directory for the cache, or with a single core: then kernels are
    compiled when they are called.

    Parameters
    ----------
    work : {"train", "fine-tune", "generate", "batches"}
        "fine-tune" is "train" with products of few rows. "batches" is "generate" with several
        rows: continuations, prompts, clients or guesses.
    kind : str
        The dtype of training (--dtype), or of the weights to generate with (--weights).
    scheme : str or None
        How parameters will be drawn (npgpt/model/initializers.py); None if they will be read.
    dropout : float
        The dropout rate of training.
    optimizer : {"adam", "adamw", "muon", "rmsprop", "sgd"}
        The optimizer of training.
    cache_dtype : {"bfloat16", "float32"} or None
        The dtype of keys and values (--cache-dtype); None for the model's own.
    """
    cache_dtype = BFLOAT16 if cache_dtype == BFLOAT16 else None  # float32 is the model's own
    variant = kind if optimizer == "adamw" else f"{kind}-{optimizer}"
    done = marker(work, variant if cache_dtype is None else f"{variant}-cache-{cache_dtype}")
    if machine.cores() < 2 or done is None or done.exists():
        return
    if work not in ROWS and kind in QUANTIZED:  # the NumPy ops take no quantized matrices
        with gc_paused():
            warm_up(work, kind, OPS, cache_dtype=cache_dtype)
        mark_done(done)
        return
    others = SHARES[work]
    command = second_process(work, kind, scheme, dropout, optimizer, cache_dtype)
    null = subprocess.DEVNULL
    second = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
    with second:  # leaving the block waits for its end
        try:
            with gc_paused():
                names = [name for name in OPS if name not in others]
                warm_up(work, kind, names, optimizer=optimizer, cache_dtype=cache_dtype)
        except BaseException:
            second.kill()
            raise
    if second.returncode == 0:
        mark_done(done)


def mark_done(path: Path) -> None:
    """Create the file that says that this work has been compiled, if the cache can be written."""
    with contextlib.suppress(OSError):
        path.touch()


def marker(work: str, kind: str) -> Path | None:
    """Return the file that says that this work has been compiled; None without a cache."""
    from npgpt.kernels import cache  # here, because importing Numba takes most of a second

    directory = cache.directory()
    return directory and directory / f"{work}-{kind}"


def second_process(
    work: str, kind: str, scheme: str | None, dropout: float, optimizer: str,
    cache_dtype: str | None,
) -> list[str]:  # fmt: skip
    """Return the command of the process that compiles the other share."""
    module = "npgpt.performance.precompile"
    options = scheme or "", str(dropout), optimizer, cache_dtype or ""
    return [sys.executable, "-m", module, work, kind, *options]


def warm_up(
    work: str,
    kind: str,
    names,
    scheme: str | None = None,
    dropout: float = 0.0,
    optimizer: Any = "adamw",
    cache_dtype: str | None = None,
) -> None:
    """Run a tiny model with these ops compiled. Its parameters are zero, or drawn by `scheme`."""
    fast, plain = backends.get("mixed" if kind in QUANTIZED else "fused"), backends.get("numpy")
    backend = SimpleNamespace(
        **{name: getattr(fast if name in names else plain, name) for name in OPS}
    )
    size = ROWS.get(work, 16)
    config = Config(
        vocab_size=VOCABULARY, context_length=40, n_layer=1, n_head=1, n_embd=size, dropout=dropout
    )
    tree = params.zeros(config, np.float64 if kind == "float64" else np.float32)
    if work in ROWS:
        tokens = np.arange(size)[None]
        rng, gradients = Generator(0, ops=backend), params.zeros_like(tree)
        if scheme is not None:
            SCHEMES[scheme](tree, config, rng)
        Generator(rng.random64(), ops=backend).randperm(2)  # the order of windows
        _, cache = transformer.loss(tree, tokens, tokens, config, rng=rng, g=gradients, ops=backend)
        transformer.backward(cache, gradients, ops=backend)
        scale = schedule.global_norm(gradients, ops=backend)
        training = TrainingConfig(optimizer=optimizer)
        optim.make(tree, training, ops=backend).step(gradients, scale=min(scale, 1.0))
        transformer.evaluate(tree, tokens, tokens, config, ops=backend)
        return
    tree = quantize.quantize(tree, kind) if kind in QUANTIZED else tree
    for shape in SHAPES + BATCHES * (work == "batches"):
        past = kv_cache.empty_cache(shape[0], config, cache_dtype or tree.wpe.weight.dtype)
        transformer.next_logits(tree, np.zeros(shape, int), config, past=past, ops=backend)
    Generator(0, ops=backend).multinomial(np.ones(VOCABULARY, np.float32))


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector while Numba compiles: it takes 3 % of the time, and would find
    45 MB at the end."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


if __name__ == "__main__":
    work, kind, scheme, dropout, optimizer, cache_dtype = sys.argv[1:]
    with gc_paused():
        warm_up(
            work, kind, SHARES[work], scheme or None, float(dropout), optimizer, cache_dtype or None
        )  # fmt: skip
