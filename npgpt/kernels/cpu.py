"""CPU features and the SIMD width that the kernels are compiled for."""

import numba
from llvmlite import binding


def cpu_features() -> frozenset[str]:
    """Return the features that kernels may use: this CPU's, or those in NUMBA_CPU_FEATURES."""
    chosen = numba.config.CPU_FEATURES
    text = binding.get_host_cpu_features().flatten() if chosen is None else chosen
    return frozenset(name[1:] for name in text.split(",") if name.startswith("+"))


FEATURES = cpu_features()

BYTES = 64 if "avx512f" in FEATURES else 32 if "avx" in FEATURES else 16  # of a vector register

REGISTERS = 32 if FEATURES & {"avx512f", "neon"} else 16  # vector registers

BFLOAT16 = FEATURES >= {"avx512f", "avx512bf16"}  # multiplies pairs of bfloat16 numbers

FMA = bool(FEATURES & {"fma", "neon"})  # without it, LLVM would call a function for each one
