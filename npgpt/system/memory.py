"""Recognize a lack of memory in any library's error, and look at what is left before it aborts.

LLVM, OpenBLAS and OpenMP end the process if memory runs out, without an error that could be
handled. They are used after a look at what the process may still take.
"""

import errno
import os
import re
from collections.abc import Iterator

from npgpt.errors import InputError, RunError

# Needed in bytes of address space, with a margin (python -m parity_tests.support.memory_limits)
TO_START = 150 << 20  # with NumPy, whose OpenBLAS starts its threads
TO_IMPORT_NUMPY = 150 << 20
TO_IMPORT_NUMBA = 240 << 20  # without NumPy
TO_LOAD = 16 << 20  # a kernel
TO_COMPILE = 100 << 20
TO_MULTIPLY = 48 << 20  # with OpenBLAS
TO_TOKENIZE = 48 << 20
TO_DRAW = 128 << 20

SAYS = re.compile(
    r"cannot allocate memory(?! in static TLS)|failed to map segment|out of memory|bad_alloc|"
    r"cannot apply additional memory protection|memory allocation|can't start new thread",
    re.IGNORECASE,
)


class MemoryShortage(MemoryError):
    """Raised before a library would end the process for lack of memory."""


# Released by `describe`, so that the process can end in order. No page of it is ever touched.
reserve = [bytearray(8 << 20)]


def left() -> int | None:
    """Return the bytes of address space that this process may still take; None if all."""
    try:
        import resource

        limits = [
            resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)
        ]
        if limits == [resource.RLIM_INFINITY] * 2:
            return None
        with open("/proc/self/statm") as file:
            pages = [int(number) for number in file.read().split()]
    except (ImportError, OSError, ValueError):
        return None
    size = resource.getpagesize()
    used = pages[0] * size, pages[5] * size  # all, and data with the stack
    return min(
        limit - taken
        for limit, taken in zip(limits, used, strict=True)
        if limit != resource.RLIM_INFINITY
    )


def available() -> int | None:
    """Return the bytes of memory that this process may still take, None if unknown.

    The least of what its limits, the machine's memory and its control group leave.
    """
    from npgpt.system import machine

    sizes = left(), machine.memory()[1], group_left()
    found = [size for size in sizes if size is not None]
    return min(found, default=None)


def group_left(root: str = "/sys/fs/cgroup") -> int | None:
    """Return the bytes that the control group of this process (version 2) may still take."""
    try:
        with open("/proc/self/cgroup") as file:
            group = file.readline().strip().split("::", 1)[1]
        folder = next(d for d in (f"{root}{group}", root) if os.path.exists(f"{d}/memory.max"))
        with open(f"{folder}/memory.max") as limit, open(f"{folder}/memory.current") as current:
            taken = int(limit.read()), int(current.read())  # without a limit, it says "max"
        with open(f"{folder}/memory.stat") as file:
            cached = int(dict(line.split() for line in file)["inactive_file"])
        return taken[0] - taken[1] + cached
    except (OSError, ValueError, KeyError, IndexError, StopIteration):
        return None


def require(size: int, action: str) -> None:
    """Raise MemoryShortage if less than `size` bytes of address space are left to do something."""
    found = left()
    if found is not None and found < size:
        raise MemoryShortage(
            f"{size >> 20} MiB are needed to {action}, and {max(found, 0) >> 20} MiB are left of "
            "the limit of this process (ulimit -v)"
        )


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and all errors under which it was raised."""
    seen, pending = set(), [error]
    while pending:
        one = pending.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            pending += [other for other in (one.__cause__, one.__context__) if other is not None]


def is_shortage(error: BaseException) -> bool:
    """Return True if this error itself reports a lack of memory."""
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    kinds = OSError | ImportError | RuntimeError
    may = isinstance(error, kinds) or not isinstance(error, Exception)  # Rust's panics are none
    return isinstance(error, MemoryError) or bool(may and SAYS.search(str(error)))


def find_cause(error: BaseException) -> BaseException:
    """Return the lack of memory, or npgpt's own error, that another error reports.

    Numba compiles while kernels start, and wraps every error. A reader may take a lack of memory
    for a damaged file.
    """
    if isinstance(error, RunError):
        return error
    found = list(causes(error))
    for one in found:
        if is_shortage(one):
            return one
    return next((one for one in found if isinstance(one, InputError | RunError)), error)


def describe(shortage: BaseException) -> str:
    """Return the line that reports a lack of memory, and release the reserve."""
    reserve.clear()
    said = getattr(shortage, "strerror", None) or str(shortage) or "smaller numbers need less"
    return f"not enough memory: {said}"
