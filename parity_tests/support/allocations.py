"""Memory that runs out: the n-th large array of a command cannot be allocated.

    python -m parity_tests.support.allocations [SCENARIO ...]

lets every large allocation of every scenario fail, once and for good, and checks that the command
ends with one line and exit status 1, or does without. Then the command runs again, and must end
with the same bits as one that never failed. parity_tests/cli/test_allocations.py runs a part of it.

NumPy asks one function for the memory of every array (NEP 49), which is replaced by one that can
fail. The pool of the Numba backend asks for pages.
"""

import contextlib
import ctypes
import errno
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numba
import numpy as np
from numba import carray, types

import npgpt
from npgpt.kernels import buffer_pool
from parity_tests.support import faults
from parity_tests.support.failing_disk import contents
from parity_tests.support.time_left import with_time_left

LARGE = 1 << 11  # bytes: the models are small
SET_HANDLER = 304  # in the table of NumPy's C interface

# Machine code, because NumPy frees arrays while an exception is raised, and Python could not run.
ADDRESS, SIZE = types.uintp, types.uintp
malloc = types.ExternalFunction("malloc", ADDRESS(SIZE))
calloc = types.ExternalFunction("calloc", ADDRESS(SIZE, SIZE))
realloc = types.ExternalFunction("realloc", ADDRESS(ADDRESS, SIZE))
free = types.ExternalFunction("free", types.void(ADDRESS))
# the allocation that fails, whether all later ones do, how many there were, how many failed
state = np.zeros(4, np.int64)
NUMBER, FOREVER, COUNT, FAILED = range(4)


@numba.njit
def refuses(state, size):
    """Count an allocation. Return True if it is to fail."""
    if size < LARGE:
        return False
    state[COUNT] += 1
    fails = state[COUNT] == state[NUMBER]
    fails |= state[FOREVER] and 0 < state[NUMBER] < state[COUNT]
    state[FAILED] += fails
    return fails


@numba.cfunc(ADDRESS(types.voidptr, SIZE))
def failing_malloc(context, size):
    return np.uint64(0) if refuses(carray(context, 4, np.int64), size) else malloc(size)


@numba.cfunc(ADDRESS(types.voidptr, SIZE, SIZE))
def failing_calloc(context, count, size):
    known = carray(context, 4, np.int64)
    return np.uint64(0) if refuses(known, count * size) else calloc(count, size)


@numba.cfunc(ADDRESS(types.voidptr, ADDRESS, SIZE))
def failing_realloc(context, old, size):
    return np.uint64(0) if refuses(carray(context, 4, np.int64), size) else realloc(old, size)


@numba.cfunc(types.void(types.voidptr, ADDRESS, SIZE))
def plain_free(context, old, size):
    free(old)


class Handler(ctypes.Structure):
    """PyDataMem_Handler."""

    _fields_ = (
        ("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("context", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p), ("calloc", ctypes.c_void_p), ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )  # fmt: skip


# Arrays that outlive the block are freed by these: they are never deleted.
HANDLER = Handler(
    b"failing", 1, state.ctypes.data, failing_malloc.address, failing_calloc.address,
    failing_realloc.address, plain_free.address,
)  # fmt: skip
NAME = b"mem_handler"
new_capsule, pointer_of = ctypes.pythonapi.PyCapsule_New, ctypes.pythonapi.PyCapsule_GetPointer
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
CAPSULE = new_capsule(ctypes.addressof(HANDLER), NAME, None)
MMAP = buffer_pool.mmap


def set_handler(capsule: Any) -> Any:
    """Let NumPy allocate by these functions. Return the ones before."""
    table = pointer_of(np._core._multiarray_umath._ARRAY_API, None)
    address = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))[SET_HANDLER]
    return ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(address)(capsule)


@dataclass
class Allocations:
    """Let the `number`-th large allocation fail, and all later ones if `forever`.

    It stands in for Faults, which let a disk fail.
    """

    root: Path
    number: int = 0
    forever: bool = False
    kind: str = "allocation"
    code: int = errno.ENOMEM

    @property
    def count(self) -> int:
        """Return the number of large allocations so far."""
        return int(state[COUNT])

    @property
    def before(self) -> dict[str, bytes] | None:
        """Return None if none has failed."""
        return {} if state[FAILED] else None

    def map_pages(self, handle: int, size: int, **options: Any) -> Any:
        """`mmap.mmap` that may fail."""
        if refuses(state, size):
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return MMAP.mmap(handle, size, **options)

    @contextlib.contextmanager
    def installed(self) -> Iterator["Allocations"]:
        """Replace NumPy's allocator and the pages of an empty pool for the length of the block."""
        names = {name: getattr(MMAP, name) for name in dir(MMAP)}
        pages = SimpleNamespace(**names | {"mmap": self.map_pages})
        state[:] = self.number, self.forever, 0, 0
        before = set_handler(CAPSULE)
        try:
            with (
                mock.patch.object(buffer_pool, "mmap", pages),
                mock.patch.object(buffer_pool, "LARGE", LARGE),
                mock.patch.multiple(buffer_pool.pool, free={}, workspaces=[], size=0, peak=0),
            ):
                yield self
        finally:
            set_handler(before)


# The scenarios


def write_model() -> None:
    """Write a model of the byte tokenizer, and a text."""
    config = npgpt.Config(vocab_size=257, context_length=16, n_layer=1, n_head=2, n_embd=16)
    model = npgpt.GPT(config, seed=1, ops="numpy", tokenizer="byte")
    model.save("model.h5")
    faults.write_text()


def shown(command: str) -> faults.Scenario:
    """Return the scenario of a command that writes no file."""
    return faults.Scenario(write_model, command, lambda: command, lambda: contents(Path.cwd()))


def fused(command: str) -> str:
    """Return a command with the Numba backend."""
    return command.replace("--ops numpy", "--ops fused")


SCENARIOS = {
    "train": faults.SCENARIOS["train"],
    "train fused": replace(
        faults.SCENARIOS["train"],
        command=fused(faults.TRAIN),
        again=lambda: fused(faults.train_again()),
    ),
    "generate": shown("generate --model model.h5 --prompt The --max-new-tokens 3 --top-k 5"),
    "evaluate": shown("evaluate --model model.h5 --data text.txt"),
    "quantize": replace(faults.SCENARIOS["quantize"], prepare=write_model),
    "export": replace(faults.SCENARIOS["export"], prepare=write_model),
    "export llm.c": replace(faults.SCENARIOS["export llm.c"], prepare=write_model),
}


def measure(name: str) -> tuple[int, Any]:
    """Run a scenario. Return its number of large allocations, and its result."""
    for first in (True, False):  # which compiles kernels and imports modules
        with faults.elsewhere() as root:
            SCENARIOS[name].prepare()
            found = Allocations(root)
            with found.installed():
                status, said = faults.run(SCENARIOS[name].command)
            assert status == 0, said
            assert first or not said, said
            result = SCENARIOS[name].result()
    return found.count, result


def fail(name: str, number: int, forever: bool, expected: Any) -> int:
    """Run a scenario with one failure and check it. Return the exit status."""
    said: list[str] = []

    def heard(line: str, _: Any) -> None:
        said.append(line)

    try:
        with faults.elsewhere() as root, mock.patch.object(faults, "check_message", heard):
            failing = Allocations(root, number, forever)
            status = faults.attempt(SCENARIOS[name], failing, expected)
        assert failing.before is not None, "it did not fail"
        assert len(said) == 1 or not status
        assert all("memory" in line for line in said), said
        return status
    except BaseException as error:
        how = "for good" if forever else "once"
        error.add_note(f"{name}: allocation {number} fails {how}")
        raise


def main(names: list[str]) -> int:
    """Run every case of the scenarios. Print how often each ended how."""
    failed = 0
    with faults.fixtures(real_plot=False):
        for name in names or SCENARIOS:
            started = time.process_time()
            count, expected = measure(name)
            ended: Counter = Counter()
            cases = list(itertools.product(range(1, count + 1), (False, True)))
            for number, forever in with_time_left(cases, len(cases), name):
                try:
                    ended[f"status {fail(name, number, forever, expected)}"] += 1
                except Exception as error:
                    ended["WRONG"] += 1
                    notes = "\n".join(error.__notes__)
                    print(f"{notes}\n  {type(error).__name__}: {error}"[:700], flush=True)
            failed += ended["WRONG"]
            seconds = time.process_time() - started
            print(f"{name}: {count} allocations, {dict(ended)}, {seconds:.0f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
