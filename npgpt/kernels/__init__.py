"""Numba building blocks of the ops: matrix products, SIMD in LLVM, parallel loops, buffers."""
