"""Guards of a parallel loop's start: against a fork that lost the threads, and two callers at once.

Machine code reads `state`, so that a loop that may start costs one comparison. state[0] is 1 in a
process in which no parallel loop can run. state[1] is a lock of Python's, or 0: with the threading
layer `workqueue`, only one loop of a process may run at a time.
"""

import ctypes
import os
import sys
import threading
from functools import cache

import numba
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from npgpt.errors import InputError, RunError

# Two words that machine code finds by the name of a symbol, also when it comes from the cache.
state = (ctypes.c_int64 * 2)()
SYMBOLS = "npgpt_launch_state", "npgpt_acquire_lock", "npgpt_release_lock"
FORKED = (
    "a parallel loop cannot run in a forked process: the threads of OpenMP stay in its parent. "
    "Start processes with multiprocessing.get_context('spawn')"
)
FAILED = "a task of a parallel loop has failed, probably for lack of memory"
WORD, INT = ir.IntType(64), ir.IntType(32)


def new_lock() -> int:
    """Return the address of a lock. PyThread's need no GIL, and sleep while they wait."""
    allocate = ctypes.pythonapi.PyThread_allocate_lock
    allocate.restype = ctypes.c_void_p
    return allocate()


@cache
def probe_threads() -> None:
    """Raise RunError unless threads can be started: OpenMP would end the process."""
    hold, started, count = threading.Event(), [], numba.config.NUMBA_NUM_THREADS
    try:
        for _ in range(count - 1):
            thread = threading.Thread(target=hold.wait, daemon=True)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError):
        raise RunError(
            f"not enough memory, or too low a limit of processes, for {count} threads: "
            "set NUMBA_NUM_THREADS to a lower number"
        ) from None
    finally:
        hold.set()
        for thread in started:
            thread.join()


def num_threads() -> int:
    """Return the number of threads of a parallel loop; start them if they do not run."""
    probe_threads()
    try:
        return numba.get_num_threads()
    except ValueError:  # Numba finds no library
        layer = numba.config.THREADING_LAYER
        raise InputError(
            f"NUMBA_THREADING_LAYER is {layer!r}, but this Numba has no such threading layer: "
            "unset it, or choose omp or workqueue"
        ) from None


def start_threads() -> None:
    """Start Numba's threads, unless they run; a kernel from Numba's cache needs them, too."""
    num_threads()
    if numba.threading_layer() != "workqueue":  # the others are safe with several callers
        state[1] = 0


def after_fork() -> None:
    """Forbid parallel loops in the child if its threads are lost: GNU's OpenMP starts no others."""
    if state[1]:
        state[1] = new_lock()  # another thread of the parent may have held the old one
    try:
        layer = numba.threading_layer()
    except ValueError:
        return  # no threads have been started yet
    state[0] = layer == "omp" and sys.platform == "linux"


state[1] = new_lock()  # until the layer is known
for symbol, address in zip(
    SYMBOLS,
    (
        ctypes.addressof(state),
        ctypes.cast(ctypes.pythonapi.PyThread_acquire_lock, ctypes.c_void_p).value,
        ctypes.cast(ctypes.pythonapi.PyThread_release_lock, ctypes.c_void_p).value,
    ),
    strict=True,
):
    binding.add_symbol(symbol, address)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)


@intrinsic
def acquire(context):
    """Return True once this thread may start a parallel loop, False if it never may."""

    def generate(context, builder, signature, values):
        return acquire_in(builder)

    return types.boolean(), generate


@intrinsic
def release(context):
    """Let another thread start a parallel loop."""

    def generate(context, builder, signature, values):
        release_in(builder)
        return context.get_dummy_value()

    return types.void(), generate


def acquire_in(builder):
    """Write the instructions of `acquire`; the value is an i1."""
    allowed = builder.icmp_signed("==", read(builder, 0), ir.Constant(WORD, 0))
    lock = read(builder, 1)
    locks = builder.and_(allowed, builder.icmp_signed("!=", lock, ir.Constant(WORD, 0)))
    with builder.if_then(locks, likely=False):
        function = symbol_of(builder, ir.FunctionType(INT, [WORD, INT]), SYMBOLS[1])
        builder.call(function, [lock, ir.Constant(INT, 1)])
    return allowed


def release_in(builder):
    """Write the instructions of `release`."""
    lock = read(builder, 1)
    with builder.if_then(builder.icmp_signed("!=", lock, ir.Constant(WORD, 0)), likely=False):
        builder.call(symbol_of(builder, ir.FunctionType(ir.VoidType(), [WORD]), SYMBOLS[2]), [lock])


def read(builder, i: int):
    """state[i]"""
    array = ir.ArrayType(WORD, 2)
    known = builder.module.globals.get(SYMBOLS[0])
    array = known or ir.GlobalVariable(builder.module, array, SYMBOLS[0])
    zero, index = ir.Constant(INT, 0), ir.Constant(INT, i)
    return builder.load(builder.gep(array, [zero, index]))


def symbol_of(builder, kind, name: str):
    """The external function of this name."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
