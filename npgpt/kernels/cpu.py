"""CPU features and the SIMD width that the kernels are compiled for."""

import os
import re
import tempfile

import numba
from llvmlite import binding

from npgpt.errors import InputError


def cpu_features() -> frozenset[str]:
    """Return the features that kernels may use: this CPU's, or those in NUMBA_CPU_FEATURES."""
    check_chosen(numba.config.CPU_NAME, numba.config.CPU_FEATURES)
    chosen = numba.config.CPU_FEATURES
    text = binding.get_host_cpu_features().flatten() if chosen is None else chosen
    return frozenset(name[1:] for name in text.split(",") if name.startswith("+"))


def check_chosen(name: str | None, features: str | None) -> None:
    """Raise InputError if LLVM does not know a CPU or a feature, or this CPU lacks the feature.

    LLVM ignores unknown names with a message for each kernel, and aborts for one without + or -.
    """
    host = binding.get_host_cpu_features()
    for feature in (features or "").split(","):
        if not re.fullmatch(r"([+-][\w.-]+)?", feature):
            wrong = "every feature must begin with + or -"
        elif feature.startswith("+") and host.get(feature[1:]) is False:
            wrong = f"this CPU has no {feature[1:]}"
        else:
            continue
        raise InputError(f"NUMBA_CPU_FEATURES is {features!r}, but {wrong}")
    for variable, value, options in (
        ("NUMBA_CPU_NAME", name, {"cpu": name}),
        ("NUMBA_CPU_FEATURES", features, {"features": features}),
    ):
        if value and "is not a recognized" in llvm_says(**options):
            raise InputError(f"{variable} is {value!r}, which this LLVM does not know")


def llvm_says(**options) -> str:
    """Return what LLVM writes to standard error when it makes code for these options."""
    binding.initialize_native_target()
    target = binding.Target.from_default_triple()
    with tempfile.TemporaryFile() as said:
        before = os.dup(2)
        try:
            os.dup2(said.fileno(), 2)
            target.create_target_machine(**options)
        finally:
            os.dup2(before, 2)
            os.close(before)
        said.seek(0)
        return said.read().decode(errors="replace")


FEATURES = cpu_features()

BYTES = 64 if "avx512f" in FEATURES else 32 if "avx" in FEATURES else 16  # of a vector register

REGISTERS = 32 if FEATURES & {"avx512f", "neon"} else 16  # vector registers

BFLOAT16 = FEATURES >= {"avx512f", "avx512bf16"}  # multiplies pairs of bfloat16 numbers

# multiplies quads of int8 numbers
VNNI = {64: "avx512vnni", 32: "avxvnni", 16: ""}[BYTES] in FEATURES

FMA = bool(FEATURES & {"fma", "neon"})  # without it, LLVM would call a function for each one
