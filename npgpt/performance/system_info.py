"""Report the versions, the libraries and the machine that npgpt runs on, and warn of slow ones."""

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

import npgpt
from npgpt.download.cache_dir import cache_dir
from npgpt.model.params import size
from npgpt.preset import PRESETS
from npgpt.system import env_vars
from npgpt.system.machine import cores, cpu, format_gib, memory

PACKAGES = ("numpy", "numba", "h5py", "tiktoken")
FAST_BLAS = ("openblas", "mkl", "accelerate", "blis", "armpl", "nvpl")

NO_BFLOAT16 = "this CPU has no AVX512_BF16, or the kernels may not use it"


@dataclass(frozen=True)
class SystemReport:
    """Facts by name, and a sentence for each of them that makes npgpt slow."""

    facts: dict[str, str]
    warnings: list[str]


@dataclass(frozen=True)
class BlasPool:
    """The thread pool of a BLAS library. The NumPy backend multiplies matrices on it."""

    name: str
    text: str  # name, version and architecture
    threads: int


def gather() -> SystemReport:
    """Return a report on this process and its machine. It starts Numba, which takes a second."""
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
    facts["memory"] = f"{format_gib(available)} available of {format_gib(total)}"
    facts["idle threads"] = ", ".join(f"{k}={v}" for k, v in idle_settings().items())
    facts["tokenizer cache"] = tokenizer_cache()
    facts["npgpt's cache"] = directory_state(cache_dir())
    return SystemReport(
        facts,
        [
            *blas_warnings(pools, cores()),
            *thread_warnings(numba_threads, cores()),
            *setting_warnings(idle_settings()),
            *kernel_warnings(os.environ.get("OPENBLAS_CORETYPE"), features),
            *memory_warnings(available),
            *feature_warnings(platform.machine(), features),
            *cache_warnings(facts["Numba's cache"]),
            *compiler_warnings(),
        ],
    )


# Facts


def blas_pools() -> list[BlasPool]:
    """Return the BLAS libraries in this process: NumPy's, and those of other packages."""
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    found = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    pools = []
    for lib in found:
        words = (lib["internal_api"], lib.get("version"), lib.get("architecture"))
        text = " ".join(str(word) for word in words if word)
        pools.append(BlasPool(lib["internal_api"], text, lib["num_threads"]))
    if not pools:  # Accelerate and the reference BLAS do not report their threads
        name = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
        pools.append(BlasPool(name, name, cores() if "accelerate" in name else 1))
    return pools


def jit_disabled() -> bool:
    """Return True if Numba compiles nothing in this process."""
    import numba

    return bool(numba.config.DISABLE_JIT)


def numba_pool() -> tuple[int, str]:
    """Return Numba's number of threads and its threading layer, after a first parallel loop."""
    import numba

    from npgpt import fused
    from npgpt.ops.linear import Params

    one = np.ones((1, 1), np.float32)
    fused.linear.forward(one, Params(one, one[0]))
    return numba.get_num_threads(), numba.threading_layer()


def numba_cache() -> str:
    """Return the directory in which Numba caches compiled kernels, as text."""
    from npgpt.kernels import cache

    directory = cache.directory()
    return NOWHERE if directory is None else directory_state(directory)


def multiplies_bfloat16() -> bool:
    """Return True if the CPU multiplies bfloat16 numbers and the kernels may use it."""
    from npgpt.kernels import cpu

    return cpu.BFLOAT16


HALF = "generate --weights bfloat16 reads half the memory"


def bfloat16(multiplied: bool) -> str:
    """Return how --dtype bfloat16 and --weights are computed, as text."""
    if multiplied:
        return f"products of bfloat16 numbers by AVX512_BF16; {HALF}"
    return f"{NO_BFLOAT16}: float32 products of rounded numbers; {HALF}"


def idle_settings() -> dict[str, str]:
    """Return the environment variables of idle threads (npgpt/system/env_vars.py)."""
    return {name: os.environ.get(name, "not set") for name in env_vars.IDLE}


def tokenizer_cache() -> str:
    """Return the directory in which tiktoken caches GPT-2's files, as text."""
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if os.environ.get(name):
            return directory_state(Path(os.environ[name]))
    return "a temporary directory (set TIKTOKEN_CACHE_DIR to keep downloads)"


def directory_state(path: Path) -> str:
    """Return a directory and whether it is writable, as text."""
    if not path.exists():
        return f"{path} (not created yet)"
    return f"{path} ({'writable' if os.access(path, os.W_OK) else 'not writable'})"


NOWHERE = "nowhere"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 thread, 2 threads."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


# Warnings


def blas_warnings(pools: list[BlasPool], available: int) -> list[str]:
    """Warn of a slow BLAS, or one thread for several cores. Both slow down the NumPy backend."""
    warnings = []
    for pool in pools:
        if not any(name in pool.name.lower() for name in FAST_BLAS):
            warnings.append(
                f"NumPy's BLAS is {pool.text}, many times slower than OpenBLAS, MKL or Accelerate, "
                "and slows down --ops numpy: pip install numpy brings OpenBLAS"
            )
        elif pool.threads == 1 < available:
            warnings.append(
                f"BLAS has 1 thread for {available} cores, which slows down --ops numpy: "
                "unset OPENBLAS_NUM_THREADS, MKL_NUM_THREADS or OMP_NUM_THREADS"
            )
    return warnings


def thread_warnings(numba_threads: int, available: int) -> list[str]:
    """Warn if Numba has fewer threads than there are cores. Every kernel runs on them."""
    if numba_threads >= available:
        return []
    return [
        f"Numba has {counted(numba_threads, 'thread')} for {available} cores: "
        "unset NUMBA_NUM_THREADS"
    ]


def setting_warnings(found: dict[str, str]) -> list[str]:
    """Warn if idle threads spin, which takes cores from the other thread pool."""
    return [
        f"{name} is {found[name]}, not {value}: idle threads of one pool keep cores from the other"
        for name, value in env_vars.IDLE.items()
        if found[name] != value
    ]


def kernel_warnings(coretype: str | None, features: list[str]) -> list[str]:
    """Warn if OPENBLAS_CORETYPE names an older CPU than this one."""
    if not coretype or "avx512f" not in features or coretype.lower() not in ("haswell", "zen"):
        return []
    return [
        f"OPENBLAS_CORETYPE={coretype} keeps the products of --ops numpy from AVX-512, which this "
        "CPU has: unset it"
    ]


def memory_warnings(available: int | None) -> list[str]:
    """Warn if a training step of the smallest GPT-2 does not fit into memory."""
    parameters = size(PRESETS["gpt2-small"].config)
    needed = 4 * 4 * parameters + 700 * 2**20  # float32; gradients, two moments; activations
    if available is None or available >= needed:
        return []
    return [
        f"{format_gib(available)} of memory are available: training gpt2-small takes about "
        f"{format_gib(needed)} and will swap, or be killed"
    ]


def feature_warnings(machine: str, features: list[str]) -> list[str]:
    """Warn of an x86 CPU without AVX2, whose vectors are half as long."""
    if machine.lower() in ("x86_64", "amd64") and "avx2" not in features:
        return ["this CPU has no AVX2, or the virtual machine hides it: half the speed"]
    return []


def cache_warnings(directory: str) -> list[str]:
    """Warn if every process must compile the kernels again."""
    if directory != NOWHERE:
        return []
    return ["Numba has no cache directory: set NUMBA_CACHE_DIR to a writable one"]


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
