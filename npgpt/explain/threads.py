"""The number of threads that multiply small matrices in NumPy."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from npgpt.gpt import GPT

SMALL = 1 << 24  # parameters


def limit(model: GPT) -> AbstractContextManager[Any]:
    """Return a context in which BLAS has one thread if the model is small.

    A thread that another program keeps waiting delays every product, and gains little.
    """
    return controller().limit(limits=1, user_api="blas") if model.size < SMALL else nullcontext()


@cache
def controller() -> Any:
    """Return the controller of the BLAS that NumPy has loaded."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
