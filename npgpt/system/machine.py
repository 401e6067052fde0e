"""Cores, memory and processor of this machine."""

import mmap
import os
from pathlib import Path

# CPU features that speed up matrix products and the kernels, on x86 and on ARM
FEATURES = ("avx2", "fma", "avx512f", "avx512bf16", "amx-bf16", "neon", "sve", "bf16")


def cpu() -> tuple[str, list[str]]:
    """Return the CPU's name in LLVM, and those of FEATURES that it has."""
    from llvmlite import binding

    flags = binding.get_host_cpu_features()
    return binding.get_host_cpu_name(), [name for name in FEATURES if flags.get(name)]


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> tuple[int | None, int | None]:
    """Return the total and the available memory in bytes; None if the platform does not tell."""
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


def resident_memory() -> int | None:
    """Return the bytes of physical memory of this process; None if the system is not Linux."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return None


def format_gib(count: int | None) -> str:
    """Return a number of bytes as text in GiB, or "unknown" for None."""
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"
