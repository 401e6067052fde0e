"""Clipping: scale all gradients to a global norm.

    norm = sqrt(sum of the squares of all numbers of all gradients)

If norm is larger than max_norm, every gradient is multiplied with the same factor, so that the norm
becomes max_norm. Else nothing changes.

    gradients  a list of arrays of any shapes
    max_norm   a number

Return the new gradients as a list of arrays. The given arrays must stay as they are. (PyTorch adds
1e-6 to norm before it divides. Both ways are accepted.)
"""


def clip(gradients, max_norm):
    """list of arrays, number -> list of arrays"""
    norm = sum((grad**2).sum() for grad in gradients) ** 0.5
    scale = min(1.0, float(max_norm / (norm + 1e-6)))
    return [grad * scale for grad in gradients]
