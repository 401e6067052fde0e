"""The learning rate of a step: a linear warm-up, then half a cosine.

    step     0, 1, 2, ...
    warmup   number of warm-up steps; it may be 0. Before it, the rate rises in a straight line:
             `initial` at step 0, and `peak` at step `warmup`, the first step after the warm-up
    total    number of steps. From step `warmup` to step `total`, the rate falls from `peak` to
             `lowest` along half a period of a cosine: flat at both ends

Return the rate of `step`, a number.
"""

import numpy as np


def learning_rate(step, total, warmup, peak, initial, lowest):
    """numbers -> number"""
    if step < warmup:
        return initial + step * (peak - initial) / warmup
    progress = (step - warmup) / (total - warmup)
    return lowest + (peak - lowest) * 0.5 * (1 + np.cos(np.pi * progress))
