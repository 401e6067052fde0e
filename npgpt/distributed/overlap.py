"""The exchange of gradients during backward: a thread that calls MPI, and when it is used.

Backward finishes the last block first. The final gradients are therefore the upper part of the flat
array, which grows by one block at a time:

    wte  wpe  h.0 ... h.10 | h.11  ln_f        after the first block of backward

The thread sums them over the ranks, block by block, in the same order on all ranks. wte and wpe are
final at the end of backward. Sums are elementwise: a cut between two blocks changes no bits.

Most of MPI progresses only within its calls, and a call that waits uses a core. While backward
computes, the thread therefore makes short calls and sleeps between them.

MPI must allow calls of a second thread; no two threads call it at once (MPI_THREAD_SERIALIZED).
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from npgpt.model import finite, params
from npgpt.model.params import Params

LEAST = 0.1  # share of the exchange in a step from which overlap is tried
TRIALS = 3  # steps with overlap, and as many without
PAUSE = 2e-3  # seconds between two calls of MPI during backward


def slices_of_blocks(shapes: Params) -> list[slice]:
    """Return the parts of the flat array in the order in which backward finishes them.

    What follows the blocks belongs to the last one. What precedes them is left out.
    """
    sizes = [params.total(part) for part in (shapes.wte, shapes.wpe, *shapes.h)]
    starts = [*itertools.accumulate(sizes)][1:-1]
    ends = [*starts[1:], params.total(shapes)]
    return [slice(*bounds) for bounds in reversed([*zip(starts, ends, strict=True)])]


class Background:
    """A task for one part of an array after the other, in a second thread.

    Parameters
    ----------
    task : callable
        `task(part)` is called for each part in turn.
    parts : sequence of slice
        The parts. If there are none, no thread is started.
    """

    def __init__(self, task: Callable[[slice], object], parts: Sequence[slice]):
        self.task, self.parts = task, parts
        self.final, self.is_awaited = threading.Semaphore(0), threading.Event()
        self.error: BaseException | None = None
        # a daemon: an error elsewhere must end the process while MPI waits
        self.thread = threading.Thread(target=self.run, daemon=True, name="npgpt exchange")
        if parts:
            self.thread.start()

    def run(self) -> None:
        """Do the task for each part as soon as it is final, in the thread."""
        try:
            with finite.ignore_overflow():
                for part in self.parts:
                    self.final.acquire()
                    self.task(part)
        except BaseException as error:
            self.error = error

    def release(self) -> None:
        """Declare the next part final."""
        self.final.release()

    def wait_for(self, request: Any) -> None:
        """Return when a request of MPI is complete; in the thread."""
        while not (self.is_awaited.is_set() or request.Test()):
            self.is_awaited.wait(PAUSE)
        request.Wait()

    def wait(self) -> None:
        """Declare all parts final, wait for the thread, and raise its error."""
        if self.parts:
            self.is_awaited.set()
            self.final.release(len(self.parts))
            self.thread.join()
        if self.error is not None:
            raise self.error


class Choice:
    """Whether the next step overlaps: as it is set, or as a trial has shown.

    The first step compiles. Then TRIALS steps without overlap and as many with it take turns, and
    the quicker way is kept. The trial ends early if the exchange takes less than LEAST of a step.
    All ranks choose alike, because all are told the same times.

    Attributes
    ----------
    is_on : bool
        True if the next step overlaps.
    """

    def __init__(self, setting: str, is_possible: bool):
        self.is_on = is_possible and setting == "on"
        self.is_open = is_possible and setting == "auto"
        self.times: list[float] = []  # seconds of the steps so far: without, without, with, ...

    def observe(self, seconds: float, exchange: float) -> None:
        """Learn the times of the step before the current one. `seconds`: 0 if there was none."""
        if not (self.is_open and seconds):
            return
        self.times.append(seconds)
        without, overlapped = self.times[1::2], self.times[2::2]
        if len(overlapped) == TRIALS:
            self.is_on, self.is_open = min(overlapped) < min(without), False
        elif len(self.times) == 2 and exchange < LEAST * seconds:
            self.is_on, self.is_open = False, False
        else:
            self.is_on = len(self.times) % 2 == 1
