"""The output head, tied to the token embedding: two gradients.

Forward: GPT-2's last layer multiplies with the embedding matrix, transposed.

    logits = x @ wte.T

    x       (B, T, C)
    wte     (V, C)         the token embedding, here as the output head
    logits  (B, T, V)

`dlogits` is the gradient of the loss with respect to the logits. Return the gradient of `x`, and
add that of `wte` to `dwte`, which holds the gradient of the matrix's other use.
"""


def head_backward(dlogits, x, wte, dwte):
    """(B, T, V), (B, T, C), (V, C), (V, C) -> (B, T, C)"""
    V, C = wte.shape
    dwte += dlogits.reshape(-1, V).T @ x.reshape(-1, C)
    return dlogits @ wte
