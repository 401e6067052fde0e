"""The stages of a block and the queue of their tasks, for both decode kernels.

A stage needs all tasks of the one before it. A thread takes its own tasks first, then those of
others (kernels/work_queue.py), and spins until a stage is complete.
"""

import numpy as np

from npgpt.arrays import LINE
from npgpt.kernels.bfloat16 import as_stored
from npgpt.kernels.jit import inner
from npgpt.kernels.pointers import array_at, prefetch_at
from npgpt.kernels.row_ops import attend_cached, layernorm_row
from npgpt.kernels.work_queue import has_reached, take

C_ATTN, ATTN_PROJ, C_FC, MLP_PROJ, ATTENTION = range(5)  # matrices first
STAGES = C_ATTN, ATTENTION, ATTN_PROJ, C_FC, MLP_PROJ
WEIGHT, BIAS, FACTOR = range(3)  # of a matrix; the first two of a LayerNorm


@inner
def copy_rows(x, out):
    """out = x. Numba's out[:] = x can report shapes that differ, which takes long to compile."""
    for n in range(len(x)):
        for c in range(x.shape[1]):
            out[n, c] = x[n, c]


@inner
def shape_of(stage, C):
    """Return (I, O) of a stage's matrix."""
    if stage == C_FC:
        return C, 4 * C
    if stage == MLP_PROJ:
        return 4 * C, C
    return C, C if stage == ATTN_PROJ else 3 * C


@inner
def next_matrix(layer, stage, layers):
    """Return the layer and the stage of the matrix that is read after this one."""
    if stage >= MLP_PROJ:
        return min(layer + 1, layers - 1), C_ATTN
    return layer, stage + 1


@inner
def normalise(x, p, eps, out):
    """Apply LayerNorm. Every thread does all of it: waiting for another thread takes longer."""
    N, C = x.shape
    weight, bias = array_at(p[WEIGHT], (C,), x), array_at(p[BIAS], (C,), x)
    for n in range(N):
        layernorm_row(x[n], weight, bias, eps, out[n])


@inner
def attend(new, cache, stored, capacity, start, h, scale, out):
    """Append the new key and value of head h to its cache, and attend to all of them.

    new: (3, D), query, key and value; stored: an array of the cache's dtype; out: (D,).
    """
    D, S = len(out), start + 1
    size = capacity * D * stored.itemsize  # of a head
    k, v = (
        array_at(cache[0] + h * size, (capacity, D), stored),
        array_at(cache[1] + h * size, (capacity, D), stored),
    )
    for d in range(D):
        k[start, d], v[start, d] = as_stored(new[1, d], k), as_stored(new[2, d], v)
    attend_cached(new[0], k[:S], v[:S], size, scale, np.empty(S, out.dtype), out)


# The queue. Every step has a counter per thread, of the taken ones of its own tasks, and one of the
# finished tasks.


@inner
def own_tasks(thread, threads, tasks):
    """Return the first and the end of the tasks with which a thread starts: a contiguous range."""
    return thread * tasks // threads, (thread + 1) * tasks // threads


@inner
def next_task(counters, step, thread, threads, tasks):
    """Return a task that no thread has taken, this thread's own ones first; -1 if none is left."""
    flat = counters.reshape(-1)
    for i in range(thread, thread + threads):
        i %= threads
        first, last = own_tasks(i, threads, tasks)
        if first < last:
            task = first + take(flat, counter_of(counters, step, threads, i))
            if task < last:
                return task
    return -1


@inner
def counter_of(counters, step, threads, i):
    """Return the index of a counter in the flat array; each counter has its own cache line."""
    return (step * (threads + 1) + i) * counters.shape[1]


@inner
def wait_and_prefetch(counters, step, threads, tasks, address, lines, row, rows):
    """Spin until all tasks of the previous step are done. Meanwhile prefetch cache lines: the first
    `lines` of `rows` rows of `row` bytes."""
    if step == 0:
        return
    flat, done = counters.reshape(-1), 0
    finished = counter_of(counters, step - 1, threads, threads)
    while not has_reached(flat, finished, tasks):
        if done < lines * rows:
            prefetch_at(address + done // lines * row + done % lines * LINE)
            done += 1
