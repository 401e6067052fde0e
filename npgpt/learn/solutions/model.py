"""The model: from the logits back to the two embeddings.

Forward:

    x = wte[tokens] + wpe[:T]
    for block in blocks:
        x = block(x)
    hidden = ln_f(x)
    logits = hidden @ wte.T         the output head is the token embedding

    tokens  (B, T)         integers below V; tokens repeat
    wte     (V, C)
    wpe     (T_max, C)     T <= T_max
    hidden  (B, T, C)      of the forward pass
    logits  (B, T, V)

`blocks` is a list of functions in the order of the forward pass, and `ln_f` is a function. These
are the backward passes: each takes the gradient of its output and returns that of its input.

`dlogits` is the gradient of the loss with respect to the logits. Return the gradients of wte and of
wpe, in this order. The shape of the second is (T_max, C).
"""

import numpy as np


def model_backward(dlogits, hidden, tokens, wte, T_max, ln_f, blocks):
    """-> dwte (V, C), dwpe (T_max, C)"""
    V, C = wte.shape
    T = tokens.shape[1]
    dwte = dlogits.reshape(-1, V).T @ hidden.reshape(-1, C)
    dx = ln_f(dlogits @ wte)
    for block in reversed(blocks):
        dx = block(dx)
    np.add.at(dwte, tokens, dx)
    dwpe = np.zeros((T_max, C), dx.dtype)
    dwpe[:T] = dx.sum(0)
    return dwte, dwpe
