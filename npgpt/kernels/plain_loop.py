"""`in_parallel` in Numba's public words, for a Numba that parallel_loop.py does not know.

Each body gets a prange loop of its own, which takes longer to compile.
"""

import numba
import numpy as np
from numba import prange, types
from numba.extending import intrinsic

from npgpt.errors import RunError
from npgpt.kernels.launch import FAILED, FORKED, acquire, release

OPTIONS = {"nogil": True, "error_model": "numpy"}
SOURCE = """
def flag():  # a function of its own: in `loop`, np.zeros would be a parallel loop
    return np.zeros(1, np.int64)

def guarded(task, failed, {names}):
    try:
        run(task, {values})
    except Exception:
        failed[0] = 1

def loop(tasks, args):
    {wholes}, = args
    {unpacked}
    failed = flag()
    if tasks == 1:
        guarded(0, failed, {names})
    elif tasks > 1:
        if not acquire():
            raise RunError(FORKED)
        for task in prange(tasks):
            guarded(task, failed, {names})
        release()
    if failed[0]:
        raise RunError(FAILED)
"""


@intrinsic
def in_parallel(context, tasks, body, args):
    """Call body(task, *args) for every task < tasks, as parallel_loop.py does."""
    loop = loop_of(body.dispatcher, args.types)

    def generate(context, builder, signature, values):
        # `body` is no argument of it: machine code with an object in it cannot be cached
        tasks, _, args = values
        called = types.void(types.intp, signature.args[2])
        context.compile_internal(builder, lambda tasks, args: loop(tasks, args), called,
                                 [tasks, args])  # fmt: skip
        return context.get_dummy_value()

    return types.void(types.intp, body, args), generate


def loop_of(run, kinds):
    """Return a kernel: run(task, *args) for every task, with arguments of these types."""
    known = {
        "np": np,
        "prange": prange,
        "run": run,
        "acquire": acquire,
        "release": release,
        "RunError": RunError,
        "FORKED": FORKED,
        "FAILED": FAILED,
    }
    exec(source_of(kinds, known), known)
    for name in ("flag", "guarded"):
        known[name] = numba.njit(**OPTIONS)(known[name])
    return numba.njit(parallel=True, **OPTIONS)(known["loop"])


def source_of(kinds, known) -> str:
    """Return the loop over tasks with arguments of these types.

    A prange loop cannot pass a named tuple to its tasks, so its fields are passed one by one.
    `known` receives the names of the classes that put them together again.
    """
    names, values, wholes, unpacked = [], [], [], []
    for i, kind in enumerate(kinds):
        if not isinstance(kind, types.BaseNamedTuple):
            names.append(f"a{i}")
            values.append(f"a{i}")
            wholes.append(f"a{i}")
            continue
        fields = [f"a{i}_{field}" for field in kind.fields]
        known[f"A{i}"] = kind.instance_class
        names += fields
        values.append(f"A{i}({', '.join(fields)})")
        wholes.append(f"a{i}")
        unpacked.append(f"{', '.join(fields)}, = a{i}")
    return SOURCE.format(
        names=", ".join(names), values=", ".join(values), wholes=", ".join(wholes),
        unpacked="; ".join(unpacked),
    )  # fmt: skip
