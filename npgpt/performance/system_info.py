"""What npgpt runs on, and what of it makes it slow."""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

import npgpt
from npgpt.config import PRESETS
from npgpt.download.cache_dir import cache_dir
from npgpt.model.params import size
from npgpt.system import env_vars
from npgpt.system.machine import cores, cpu, gib, memory

PACKAGES = ("numpy", "numba", "h5py", "tiktoken")
FAST_BLAS = ("openblas", "mkl", "accelerate", "blis", "armpl", "nvpl")

NO_BFLOAT16 = "no AVX512_BF16 in this CPU, or not for the kernels"


class Found(NamedTuple):
    """What `gather` found: facts by name, and a sentence for whatever will make npgpt slow."""

    facts: dict[str, str]
    warnings: list[str]


class Pool(NamedTuple):
    """The threads of a BLAS, on which the NumPy backend multiplies matrices."""

    name: str
    text: str  # name, version and architecture
    threads: int


def gather() -> Found:
    """Looks at this process and its machine. Starts Numba, so it takes a second or two."""
    pools = blas_pools()
    facts = {"npgpt": npgpt.__version__, "Python": f"{sys.version.split()[0]} ({sys.platform})"}
    facts |= {name: version(name) for name in PACKAGES}
    for pool in pools:
        facts["BLAS"] = f"{pool.text}, {counted(pool.threads, 'thread')}"
    if jit_disabled():
        numba_threads = cores()
        facts["Numba's threads"] = "none: NUMBA_DISABLE_JIT is set"
    else:
        numba_threads, layer = numba_pool()
        facts["Numba's threads"] = f"{numba_threads}, layer {layer}"
    facts["Numba's cache"] = numba_cache()
    name, features = cpu()
    facts["CPU"] = f"{name} ({', '.join(features) or 'no features known'})"
    facts["bfloat16"] = bfloat16(multiplies_bfloat16())
    facts["cores"] = f"{cores()} available of {os.cpu_count()}"
    total, available = memory()
    facts["memory"] = f"{gib(available)} available of {gib(total)}"
    facts["idle threads"] = ", ".join(f"{k}={v}" for k, v in settings().items())
    facts["tokenizer cache"] = tokenizer_cache()
    facts["npgpt's cache"] = folder_state(cache_dir())
    return Found(
        facts,
        [
            *blas_warnings(pools, cores()),
            *thread_warnings(numba_threads, cores()),
            *setting_warnings(settings()),
            *kernel_warnings(os.environ.get("OPENBLAS_CORETYPE"), features),
            *memory_warnings(available),
            *feature_warnings(platform.machine(), features),
            *cache_warnings(facts["Numba's cache"]),
            *compiler_warnings(),
        ],
    )


# Facts


def blas_pools() -> list[Pool]:
    """The BLAS that NumPy calls; more than one where another package brings its own."""
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    found = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    pools = []
    for lib in found:
        words = (lib["internal_api"], lib.get("version"), lib.get("architecture"))
        text = " ".join(str(word) for word in words if word)
        pools.append(Pool(lib["internal_api"], text, lib["num_threads"]))
    if not pools:  # Accelerate and reference BLAS have no threads that could be asked
        name = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
        pools.append(Pool(name, name, cores() if "accelerate" in name else 1))
    return pools


def jit_disabled() -> bool:
    """Return True if Numba compiles nothing in this process."""
    import numba

    return bool(numba.config.DISABLE_JIT)


def numba_pool() -> tuple[int, str]:
    """Numba's threads, and what starts them: known once a parallel loop has run."""
    import numba

    from npgpt import fused
    from npgpt.ops.linear import Params

    one = np.ones((1, 1), np.float32)
    fused.linear.forward(one, Params(one, one[0]))
    return numba.get_num_threads(), numba.threading_layer()


def numba_cache() -> str:
    """Where compiled kernels are kept, so that the next process need not compile them."""
    from npgpt.kernels import cache

    directory = cache.directory()
    return NOWHERE if directory is None else folder_state(directory)


def multiplies_bfloat16() -> bool:
    """Has the CPU products of bfloat16 numbers, and may the kernels use them?"""
    from npgpt.kernels import cpu

    return cpu.BFLOAT16


def bfloat16(multiplied: bool) -> str:
    """Which path --dtype bfloat16 and --weights take, and why."""
    if multiplied:
        return "products of bfloat16 numbers by AVX512_BF16; --weights reads fewer bits"
    return f"{NO_BFLOAT16}: float32 products of rounded numbers; --weights reads fewer bits"


def settings() -> dict[str, str]:
    """What npgpt/system/env_vars.py sets, as it is now."""
    return {name: os.environ.get(name, "not set") for name in env_vars.IDLE}


def tokenizer_cache() -> str:
    """Where tiktoken keeps GPT-2's files."""
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if os.environ.get(name):
            return folder_state(Path(os.environ[name]))
    return "a temporary folder (set TIKTOKEN_CACHE_DIR to keep what is downloaded)"


def folder_state(folder: Path) -> str:
    """A folder, and what can be done with it."""
    if not folder.exists():
        return f"{folder} (not made yet)"
    return f"{folder} ({'writable' if os.access(folder, os.W_OK) else 'not writable'})"


NOWHERE = "nowhere"


def counted(count: int, what: str) -> str:
    """1 thread, 2 threads."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


# Warnings


def blas_warnings(pools: list[Pool], available: int) -> list[str]:
    """What slows the NumPy backend down: a plain BLAS, or one thread for many cores."""
    said = []
    for pool in pools:
        if not any(name in pool.name.lower() for name in FAST_BLAS):
            said.append(
                f"NumPy's BLAS is {pool.text}, many times slower than OpenBLAS, MKL or Accelerate, "
                "which --ops numpy feels: pip install numpy brings OpenBLAS"
            )
        elif pool.threads == 1 < available:
            said.append(
                f"BLAS has 1 thread for {available} cores, which --ops numpy feels: "
                "look for OPENBLAS_NUM_THREADS, MKL_NUM_THREADS or OMP_NUM_THREADS"
            )
    return said


def thread_warnings(numba_threads: int, available: int) -> list[str]:
    """Every step runs on Numba's threads."""
    if numba_threads >= available:
        return []
    return [
        f"Numba has {counted(numba_threads, 'thread')} for {available} cores: "
        "look for NUMBA_NUM_THREADS"
    ]


def setting_warnings(found: dict[str, str]) -> list[str]:
    """Idle threads that spin take the cores from the other pool: see npgpt/system/env_vars.py."""
    return [
        f"{name} is {found[name]}, not {value}: idle threads of one pool keep the other's waiting"
        for name, value in env_vars.IDLE.items()
        if found[name] != value
    ]


def kernel_warnings(asked: str | None, features: list[str]) -> list[str]:
    """OpenBLAS looks at the CPU, unless it is told which one to believe in."""
    if not asked or "avx512f" not in features or asked.lower() not in ("haswell", "zen"):
        return []
    return [
        f"OPENBLAS_CORETYPE={asked} keeps the products of --ops numpy from AVX-512, which this CPU "
        "has: unset it"
    ]


def memory_warnings(available: int | None) -> list[str]:
    """Room for one training step of the smallest GPT-2."""
    parameters = size(PRESETS["gpt2-small"].config)
    needed = 4 * 4 * parameters + 700 * 2**20  # float32; gradients, two moments; activations
    if available is None or available >= needed:
        return []
    return [
        f"{gib(available)} of memory are available: training gpt2-small takes about {gib(needed)} "
        "and will swap, or be killed"
    ]


def feature_warnings(machine: str, features: list[str]) -> list[str]:
    """On x86, eight numbers at once or four."""
    if machine.lower() in ("x86_64", "amd64") and "avx2" not in features:
        return ["this CPU has no AVX2, or does not show it to this machine: half the speed"]
    return []


def cache_warnings(folder: str) -> list[str]:
    """Compiled again in every process."""
    if folder != NOWHERE:
        return []
    return ["Numba has no folder to keep what it compiles: set NUMBA_CACHE_DIR to one"]


def compiler_warnings() -> list[str]:
    """Warn if kernels are not compiled, or in the slower way."""
    if jit_disabled():
        return ["NUMBA_DISABLE_JIT is set: only --ops numpy works; unset it to use the kernels"]
    from npgpt.kernels import jit

    if jit.is_fast():
        return []
    return [
        f"npgpt does not know the inner workings of Numba {version('numba')}: kernels compile "
        "several times as long; the results are the same"
    ]
