"""Cross-entropy with ignored targets: the loss, and the gradient of the logits.

Forward, for the targets that count:

    loss = mean of  log(sum over j of exp(logits[b, t, j])) - logits[b, t, targets[b, t]]

    logits   (B, T, V)
    targets  (B, T)        integers below V, or -100: such a position does not count
    loss     a number

The mean is over the positions that count. Return `loss` and `dlogits`, the gradient of the loss
with respect to the logits, of shape (B, T, V). Large logits must not overflow, and the
loss of an unlikely target must stay finite.

At a position that counts, the slope of log(sum of exp) along logits[j] is softmax(logits)[j].
"""

import numpy as np


def cross_entropy(logits, targets):
    """(B, T, V), (B, T) -> loss, dlogits (B, T, V)"""
    counts = targets != -100
    N = counts.sum()
    safe = np.where(counts, targets, 0)[..., None]
    shifted = logits - logits.max(-1, keepdims=True)
    norm = np.exp(shifted).sum(-1, keepdims=True)
    losses = np.log(norm) - np.take_along_axis(shifted, safe, -1)
    loss = losses[..., 0][counts].sum() / N
    onehot = np.zeros_like(logits)
    np.put_along_axis(onehot, safe, 1, -1)
    dlogits = (np.exp(shifted) / norm - onehot) * counts[..., None] / float(N)
    return loss, dlogits
