"""Print environment variables by which the programs use AVX2 alone, on a CPU that has more.

    env $(python -m benchmarks.avx2) NPGPT_RESULTS=DIR make bench

npgpt takes no feature of AVX-512, nor one that is younger. OpenBLAS, PyTorch (MKL, oneDNN, compiled
code), JAX and CTranslate2 have a variable of their own. llama.cpp takes what it was compiled for:
CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON" pip install ... in an
environment for this purpose. Of OpenVINO, the variable restricts oneDNN's part alone, and of ONNX
Runtime nothing: where they are measured, they may use AVX-512.
"""

import sys

from llvmlite import binding

YOUNGER = "avx512", "avxvnni", "avxneconvert", "avxifma", "avx10", "amx"  # beginnings of names
OTHERS = {
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    "CT2_FORCE_CPU_ISA": "AVX2",
}


def variables(features: dict[str, bool]) -> dict[str, str]:
    """Return the environment variables for a CPU with these features, by LLVM's names."""
    signs = {
        name: "-" if name.startswith(YOUNGER) else "+" for name, has in features.items() if has
    }
    given = ",".join(sign + name for name, sign in sorted(signs.items()))
    return {"NUMBA_CPU_FEATURES": given, **OTHERS}


def main() -> None:
    features = binding.get_host_cpu_features()
    if not features.get("avx2"):
        sys.exit("this CPU has no AVX2")
    print("\n".join(f"{name}={value}" for name, value in variables(features).items()))


if __name__ == "__main__":
    main()
