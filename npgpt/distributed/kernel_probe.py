"""The bits of the kernels: one training step of a small model, whose result is compared.

Kernels are compiled for the CPU of their machine, and another width of vectors adds in another
order. Two machines with equal bits here have the same kernels.
"""

import numpy as np

from npgpt.arrays import Array
from npgpt.backends import Backend
from npgpt.config import Config, TrainingConfig
from npgpt.distributed.partition import flat_of
from npgpt.gpt import GPT
from npgpt.rng import Generator
from npgpt.training import optim

# wide enough that products are tiled and loops are vectors with a remainder
CONFIG = Config(vocab_size=257, context_length=48, n_layer=1, n_head=2, n_embd=72, dropout=0.1)


def probe(ops: Backend | str, dtype: str, training: TrainingConfig) -> Array:
    """Return the gradients and the parameters of one step of a small model, as (n,).

    It takes milliseconds once the kernels are compiled.

    Parameters
    ----------
    ops : Backend or str
        The backend.
    dtype : {"float32", "float64"}
        The dtype of the parameters.
    training : TrainingConfig
        Its optimizer is used.
    """
    rng = Generator(0, ops=ops)
    model = GPT(CONFIG, seed=rng, ops=ops, dtype=dtype)
    windows = np.arange(4 * (CONFIG.context_length + 1)).reshape(4, -1) * 7 % CONFIG.vocab_size
    _, gradients = model.loss_and_gradients(windows[:, :-1], windows[:, 1:], rng)
    optim.make(model.params, training, ops=model.ops).step(gradients, lr=1e-3)
    return np.concatenate([flat_of(gradients), flat_of(model.params)])  # a first step hides bits
