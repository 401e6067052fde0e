"""Dropout masks as a function of (seed, step, micro-batch, position), for any number of ranks.

Each micro-batch of each step has a generator of its own. Its 624 words of state are those of
`init_by_array` (Matsumoto and Nishimura 2002) for the key

    [seed mod 2^32, seed / 2^32, step mod 2^32, step / 2^32, micro-batch]

in unsigned 32-bit words. Two keys never have the same state, unlike two seeds of PyTorch's stream,
of which it uses 32 bits. The position is that in the generator's stream: masks are drawn in the
order of the forward pass.
"""

import numpy as np

from npgpt.backends import Backend
from npgpt.model.inputs import check_integer
from npgpt.rng import Generator
from npgpt.system import rng_state

WORD = 1 << 32


def micro_batch_rng(
    seed: int, step: int, micro_batch: int, *, ops: Backend | str | None = None
) -> Generator:
    """Return the generator of the dropout masks of one micro-batch.

    Parameters
    ----------
    seed : int
        The run's seed, in [0, 2**64).
    step : int
        Index of the step, counted from 0.
    micro_batch : int
        Index of the micro-batch in the global batch, counted from 0.
    ops : Backend or str or None, default None
        The backend that computes. None: npgpt.fused. All give the same numbers.

    Returns
    -------
    Generator

    Raises
    ------
    InputError
        If a number is negative or no integer.

    Source
    ------
    mt19937ar.c, init_by_array: also in NumPy's RandomState and Python's random.
    """
    numbers = {"seed": seed, "step": step, "micro_batch": micro_batch}
    seed, step, index = (check_integer(k, number, least=0) for k, number in numbers.items())
    key = [*reversed(divmod(seed, WORD)), *reversed(divmod(step, WORD)), index]
    state = np.random.RandomState(np.array(key, np.uint32)).get_state(legacy=False)
    words = state["state"]["key"]
    nothing = np.zeros(3, np.uint32)
    return Generator.from_state(rng_state.build(seed, words, 0, np.nan, nothing), ops=ops)
