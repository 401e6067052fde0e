"""A caching allocator for large arrays.

Allocating a large array costs one page fault per page, tens of milliseconds in every training step.
When the last view of a large array is deleted, its pages return to the pool. The next array of that
size gets them, as with PyTorch's caching allocator. Callers use `empty` as they would use
`np.empty`: no buffer is passed around, and none is freed by hand.
"""

import math
import mmap
import threading
import weakref
from collections import deque
from contextlib import suppress

import numpy as np

from npgpt.arrays import HUGE, LINE, Array, reused, zeros

LARGE = 1 << 18  # bytes: below, malloc keeps pages by itself
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class Pool:
    """Pages and workspaces that can be used again.

    Attributes
    ----------
    free : dict of int to deque of mmap
        Unused pages by their size in bytes.
    size : int
        Bytes of all pages, used and unused.
    peak : int
        The most bytes that were in use when pages were allocated.
    allocations : int
        How many times memory was requested from the system.
    workspaces : list of Array
        Unused workspaces of kernels: one for each kernel that runs at the same time.
    """

    def __init__(self):
        self.free: dict[int, deque[mmap.mmap]] = {}
        self.workspaces: list[Array] = []
        self.size = self.peak = self.allocations = 0
        self.lock = threading.RLock()  # reentrant: a finalizer may run anywhere

    def empty(self, shape: tuple[int, ...], dtype) -> Array:
        """Like np.empty; large arrays begin at a page."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < LARGE:
            return np.empty(shape, dtype)
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        pages, free = self.take(size)
        lease = np.frombuffer(pages, np.uint8)  # all views refer to it, and not to the pages
        # the deque is named, not the pool: a deque may be appended to without the lock
        weakref.finalize(lease, free.append, pages).atexit = False
        return np.ndarray(shape, dtype, lease)

    def take(self, size: int) -> tuple[mmap.mmap, deque[mmap.mmap]]:
        """Return pages of `size` bytes, and the deque to which they return."""
        with self.lock:
            free = self.free.setdefault(size, deque())
            try:
                return free.pop(), free
            except IndexError:
                pass
            self.release_unused(size)
            free = self.free.setdefault(size, free)
            pages = self.map(size)
            if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
                with suppress(OSError):  # a kernel may have none
                    pages.madvise(mmap.MADV_HUGEPAGE)
            self.size += size
            self.allocations += 1
            return pages, free

    def map(self, size: int) -> mmap.mmap:
        """Return new pages. If the system has none left, release the unused ones first.

        Raises MemoryError, as np.empty does, where mmap raises OSError.
        """
        try:
            return mmap.mmap(-1, size, **PRIVATE)
        except OSError:
            self.release_all()
        try:
            return mmap.mmap(-1, size, **PRIVATE)
        except OSError:
            raise MemoryError(f"an array of {size:,} bytes") from None

    def release_unused(self, more: int) -> None:
        """Release unused pages before allocating `more` bytes if the pool would exceed twice its
        peak usage: the sizes of arrays have changed."""
        unused = sum(size * len(pages) for size, pages in self.free.items())
        used = self.size - unused
        self.peak = max(self.peak, used + more)
        if unused + more > 2 * self.peak:
            self.release_all()

    def release_all(self) -> None:
        """Release all unused pages."""
        for size, pages in self.free.items():
            while pages:
                pages.pop()
                self.size -= size

    def acquire(self, size: int, dtype) -> Array:
        """Return a workspace of at least `size` elements, to be passed to `release`.

        For kernels that need one in every call: quicker than `empty`.
        """
        size *= np.dtype(dtype).itemsize
        with self.lock:
            workspace = self.workspaces.pop() if self.workspaces else None
            if workspace is None or len(workspace) < size:
                workspace = zeros(-(-size // LINE) * LINE, np.uint8)
                self.allocations += 1
        return workspace.view(dtype)

    def release(self, workspace: Array) -> None:
        """Return a workspace to the pool."""
        self.workspaces.append(workspace.view(np.uint8))


pool = Pool()
empty, acquire, release = pool.empty, pool.acquire, pool.release


def temporary(shape: tuple[int, ...], dtype) -> Array:
    """Return an array to which no result of the op refers: in memory of `arrays.reuse`, if any."""
    found = reused(shape, dtype)
    return empty(shape, dtype) if found is None else found


def empty_like(x: Array) -> Array:
    """Return an array of x's shape and dtype, C-contiguous."""
    return empty(x.shape, x.dtype)
