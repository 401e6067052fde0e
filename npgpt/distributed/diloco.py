"""DiLoCo's outer optimizer, for slow networks (Douillard et al. 2023, arXiv:2311.08105).

Algorithm 1, with its letters. k workers start from theta^(0) and repeat T rounds. In round t, each
worker i makes H inner steps from theta^(t-1), by AdamW on its own data, to theta_i^(t). Then

    Delta^(t) = 1/k sum over i of (theta^(t-1) - theta_i^(t))        the outer gradient
    theta^(t) = OuterOpt(theta^(t-1), Delta^(t))

OuterOpt is SGD with Nesterov's momentum, as in PyTorch:

    b = mu b + Delta        theta = theta - eta (Delta + mu b)

The inner optimizers keep their moments. One exchange in H steps takes the place of H exchanges.
With H = 1, inner SGD, eta = 1 and mu = 0 it is data-parallel SGD.
"""

from collections.abc import Sequence

import numpy as np

from npgpt.arrays import Array


def outer_gradient(theta: Array, thetas: Sequence[Array]) -> Array:
    """(n,), k of (n,) -> (n,). Return Delta, the mean way back from the workers' parameters."""
    Delta = theta - thetas[0]
    for theta_i in thetas[1:]:
        Delta += theta - theta_i
    Delta /= len(thetas)
    return Delta


class OuterOpt:
    """SGD with Nesterov's momentum on flat parameters.

    Parameters
    ----------
    theta : (n,) array
        The parameters, for their shape and dtype.
    eta : float, default 0.7
        The outer learning rate.
    mu : float, default 0.9
        The outer momentum.

    Attributes
    ----------
    b : (n,) array
        The momentum's buffer, zero before the first step.
    """

    def __init__(self, theta: Array, eta: float = 0.7, mu: float = 0.9):
        self.eta, self.mu, self.b = eta, mu, np.zeros_like(theta)

    def step(self, theta: Array, Delta: Array) -> None:
        """Update `theta` (n,) in place by the outer gradient `Delta` (n,)."""
        self.b *= self.mu
        self.b += Delta
        theta -= self.eta * (Delta + self.mu * self.b)
