"""Large arrays that are used again: what `np.empty` is for small ones.

A fresh array of some megabytes costs a page fault for every page of it, at every step of a training
run anew: tens of milliseconds. Here, an array whose last view is gone leaves its pages behind for
the next one of its size, as PyTorch's caching allocator does. Nobody sees the difference, and
nobody has to hand buffers around.
"""

import math
import mmap
import threading
from sys import getrefcount

import numpy as np

from npgpt.arrays import HUGE, LINE, Array, zeros

LARGE = 1 << 18  # bytes: below, malloc keeps pages by itself
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class Pool:
    """`pages`: by their size, whether they are in use or not; those that nobody refers to are not.
    `next`: where to look first, since what is asked for in turns becomes free in turns. `made`: how
    many times pages were asked of the system; `most`: bytes in use at any of them. `rooms`: what
    kernels work in, one for each that runs at the same time, as large as the largest that was asked
    for."""

    def __init__(self):
        self.pages: dict[int, list[Array]] = {}
        self.next: dict[int, int] = {}
        self.rooms: list[Array] = []
        self.made = self.most = 0
        alone = [np.empty(0)]
        self.unused = getrefcount(alone[0])  # references, as this interpreter counts them
        self.lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype) -> Array:
        """Like np.empty; large arrays begin at a page."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < LARGE:
            return np.empty(shape, dtype)
        with self.lock:  # the new array refers to the pages before anybody else looks
            return np.ndarray(shape, dtype, self.take(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE))

    def take(self, size: int) -> Array:
        """So many bytes of pages that are not in use."""
        some, first = self.pages.get(size, ()), self.next.get(size, 0)
        for i in (*range(first, len(some)), *range(first)):
            if getrefcount(some[i]) == self.unused:
                self.next[size] = i + 1
                return some[i]
        self.tidy(size)
        self.made += 1
        pages = mmap.mmap(-1, size, **PRIVATE)
        if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        self.pages.setdefault(size, []).append(np.frombuffer(pages, np.uint8))
        return self.pages[size][-1]

    def tidy(self, more: int) -> None:
        """Before there are so many bytes more: if sizes have changed, and twice as much as was ever
        in use will not be, nobody asks for that any more, and it goes back to the system."""
        used = {size: [some[i] for i in range(len(some)) if getrefcount(some[i]) > self.unused]
                for size, some in self.pages.items()}  # fmt: skip
        now, all_there = (sum(size * len(some) for size, some in pages.items())
                          for pages in (used, self.pages))  # fmt: skip
        self.most = max(self.most, now + more)
        if all_there - now + more > 2 * self.most:
            self.pages, self.next = used, {}

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


pool = Pool()
empty, acquire, release = pool.empty, pool.lend, pool.restore


def empty_like(x: Array) -> Array:
    """An array of x's shape and dtype, C-contiguous."""
    return empty(x.shape, x.dtype)
