"""Cores, memory and processor of this machine."""

import os
from pathlib import Path

# what matrix products and the loops of npgpt.fused get faster by, on x86 and on ARM
FEATURES = ("avx2", "fma", "avx512f", "avx512bf16", "amx-bf16", "neon", "sve", "bf16")


def cpu() -> tuple[str, list[str]]:
    """The processor as LLVM names it, and which of FEATURES it has."""
    from llvmlite import binding

    flags = binding.get_host_cpu_features()
    return binding.get_host_cpu_name(), [name for name in FEATURES if flags.get(name)]


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> tuple[int | None, int | None]:
    """Bytes in all, and bytes available; None where the platform does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        table = {key: int(rest.split()[0]) << 10 for key, rest in (x.split(":") for x in lines)}
        return table["MemTotal"], table["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    except (AttributeError, ValueError, OSError):
        return None, None


def gib(count: int | None) -> str:
    """Bytes, for people."""
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"
