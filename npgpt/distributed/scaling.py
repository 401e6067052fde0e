"""The speed of training on N machines, by a model of their network.

One machine computes `rate` tokens per second. N of them share the tokens of a step, and exchange
the gradients and the parameters afterwards. Nothing overlaps:

    step = tokens / (N rate) + exchange
    exchange = (N - 1) / N * ((g + p) / bandwidth + numbers / sum_rate) + transfers * latency
    efficiency = tokens / (N rate) / step

g are the bytes of the gradients, 4 or 2 per parameter, p those of the parameters, 4 each. Gradients
are added between messages, which matters on fast networks and within a machine. The transfers
follow one another: those of recursive halving and of a ring. Their buckets overlap (sums.py).
DiLoCo's workers make H steps of their own between two exchanges.
"""

import math
from dataclasses import dataclass

FLOAT32, BFLOAT16 = 4, 2  # bytes of a number


@dataclass(frozen=True)
class Cluster:
    """Equal machines and their network.

    bandwidth : bytes/s of each machine, in both directions at the same time
    latency : seconds of a short message
    sum_rate : gradients/s that a machine adds to its own
    """

    ranks: int
    bandwidth: float
    latency: float
    sum_rate: float


@dataclass(frozen=True)
class Way:
    """A way of exchanging, and the mean times of a step in seconds."""

    name: str
    computing: float
    exchange: float
    tokens: int  # of a step on all machines

    @property
    def seconds(self) -> float:
        """The seconds of a step."""
        return self.computing + self.exchange

    @property
    def efficiency(self) -> float:
        """The share of the time in which the machines compute."""
        return self.computing / self.seconds

    @property
    def tokens_per_s(self) -> float:
        """The tokens per second of all machines."""
        return self.tokens / self.seconds


def exchange(parameters: int, cluster: Cluster, gradient_bytes: int = FLOAT32) -> float:
    """Return the seconds of a reduce-scatter of gradients and an all-gather of parameters."""
    N = cluster.ranks
    numbers = (N - 1) / N * parameters  # which a rank sends, receives, and adds
    sent = numbers * (gradient_bytes + FLOAT32)
    waited = transfers(N, gradient_bytes) * cluster.latency
    return sent / cluster.bandwidth + numbers / cluster.sum_rate + waited


def transfers(ranks: int, gradient_bytes: int = FLOAT32) -> int:
    """Return how many transfers of a rank follow one another: first sums, then copies in a ring.

    Gradients in bfloat16 go to each rank by itself.
    """
    halving = gradient_bytes == FLOAT32 and math.log2(ranks).is_integer()
    return (ranks.bit_length() - 1 if halving else ranks - 1) + ranks - 1


def ways(rate: float, tokens: int, parameters: int, cluster: Cluster, sync_every: int) -> list[Way]:
    """Return one machine alone, and three ways of training on all of them.

    Parameters
    ----------
    rate : float
        Tokens per second of one machine.
    tokens : int
        Tokens of a step on all machines.
    parameters : int
        Number of parameters.
    cluster : Cluster
        The machines.
    sync_every : int
        H, the steps between two exchanges of DiLoCo.
    """
    computing = tokens / rate / cluster.ranks
    wide, half = exchange(parameters, cluster), exchange(parameters, cluster, BFLOAT16)
    return [
        Way("one machine", tokens / rate, 0.0, tokens),
        Way("data parallel", computing, wide, tokens),
        Way("data parallel, bfloat16", computing, half, tokens),
        Way(f"DiLoCo, H = {sync_every}", computing, wide / sync_every, tokens),
    ]
