"""Token and position embeddings: the gradients of the two tables.

Forward:

    out[b, t] = wte[tokens[b, t]] + wpe[t]

    tokens  (B, T)         integers below V; tokens repeat
    wte     (V, C)         one row per token of the vocabulary
    wpe     (T_max, C)     one row per position; T <= T_max
    out     (B, T, C)

`dout` is the gradient of the loss with respect to `out`. Nothing is returned. Instead:

    dwte  (V, C)       add the gradient of wte to what is in it. GPT-2's output head is the same
                       matrix, and its gradient is in dwte already
    dwpe  (T_max, C)   overwrite: the gradient of wpe, and 0 for the positions that are not used
"""

import numpy as np


def embedding_backward(dout, tokens, dwte, dwpe):
    """(B, T, C), (B, T), (V, C), (T_max, C) -> None"""
    T = tokens.shape[1]
    np.add.at(dwte, tokens, dout)
    dwpe[:T] = dout.sum(0)
    dwpe[T:] = 0
