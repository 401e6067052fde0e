"""Large arrays that are used again: what `np.empty` is for small ones.

A fresh array of some megabytes costs a page fault for every page of it, at every step of a training
run anew: tens of milliseconds. Here, an array whose last view is gone leaves its pages behind for
the next one of its size, as PyTorch's caching allocator does. Nobody sees the difference, and
nobody has to hand buffers around.
"""

import math
import mmap
import threading
import weakref

import numpy as np

from npgpt.arrays import HUGE, LINE, Array, zeros

LARGE = 1 << 18  # bytes: below, malloc keeps pages by itself
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class Pool:
    """`idle`: pages by their size. `used`: bytes of arrays that somebody holds, `most` at any time.
    `made`: how many times pages were asked of the system. `rooms`: what kernels work in, one for
    each that runs at the same time, as large as the largest that was asked for."""

    def __init__(self):
        self.idle: dict[int, list[mmap.mmap]] = {}
        self.rooms: list[Array] = []
        self.used = self.most = self.made = 0
        self.lock = threading.RLock()  # a finalizer may run while its own thread is in here

    def empty(self, shape: tuple[int, ...], dtype) -> Array:
        """Like np.empty; large arrays begin at a page."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < LARGE:
            return np.empty(shape, dtype)
        pages = self.take(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        lease = np.frombuffer(pages, np.uint8)  # all views of it keep it; when it goes, they did
        weakref.finalize(lease, self.give_back, pages).atexit = False
        return lease[:size].view(dtype).reshape(shape)

    def lend(self, size: int, dtype) -> Array:
        """Room for `size` numbers or more, to be handed to `restore`: quicker than noticing when it
        is gone, for what is needed at every product."""
        size *= np.dtype(dtype).itemsize
        with self.lock:
            room = self.rooms.pop() if self.rooms else None
            if room is None or len(room) < size:
                room = zeros(-(-size // LINE) * LINE, np.uint8)
                self.made += 1
        return room.view(dtype)

    def restore(self, room: Array) -> None:
        """What was lent, whole, can be lent again."""
        self.rooms.append(room.view(np.uint8))

    def take(self, size: int) -> mmap.mmap:
        """So many bytes of pages, idle ones if there are any."""
        with self.lock:
            self.used += size
            self.most = max(self.most, self.used)
            if self.idle.get(size):
                return self.idle[size].pop()
            if sum(len(pages) for some in self.idle.values() for pages in some) > 2 * self.most:
                self.idle.clear()  # sizes have changed: what nobody asks for any more goes back
            self.made += 1
        pages = mmap.mmap(-1, size, **PRIVATE)
        if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        return pages

    def give_back(self, pages: mmap.mmap) -> None:
        """They are idle from now on."""
        with self.lock:
            self.used -= len(pages)
            self.idle.setdefault(len(pages), []).append(pages)


pool = Pool()
empty, lend, restore = pool.empty, pool.lend, pool.restore


def empty_like(x: Array) -> Array:
    """An array of x's shape and dtype, C-contiguous."""
    return empty(x.shape, x.dtype)
