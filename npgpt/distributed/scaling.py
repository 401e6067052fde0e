"""The speed of training on N machines, by a model of their network.

One machine computes `rate` tokens per second. N of them share the tokens of a step, and exchange
the gradients and the parameters afterwards. Nothing overlaps:

    step = tokens / (N rate) + exchange
    exchange = (N - 1) / N * ((g + p) / bandwidth + numbers / sum_rate) + messages * latency
    efficiency = tokens / (N rate) / step

g are the bytes of the gradients, 4 or 2 per parameter, p those of the parameters, 4 each. Gradients
are added between messages, which matters on fast networks and within a machine. The messages
follow one another: those of recursive halving and of a ring, in buckets (sums.py).
DiLoCo's workers make H steps of their own between two exchanges.
"""

import math
from dataclasses import dataclass

from npgpt.distributed import sums

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
    if gradient_bytes == BFLOAT16:
        first = direct_messages
    else:
        first = halving_messages if math.log2(N).is_integer() else ring_messages
    messages = first(parameters, N) + ring_messages(parameters, N)
    return sent / cluster.bandwidth + numbers / cluster.sum_rate + messages * cluster.latency


def halving_messages(numbers: int, ranks: int) -> int:
    """Return how many buckets a rank sends one after another in a recursive halving."""
    rounds = range(1, ranks.bit_length())
    return sum(math.ceil(numbers / 2**k / (sums.BUCKET // FLOAT32)) for k in rounds)


def ring_messages(numbers: int, ranks: int) -> int:
    """Return how many buckets a rank sends one after another in a ring."""
    return (ranks - 1) * math.ceil(numbers / ranks / (sums.BUCKET // FLOAT32))


def direct_messages(numbers: int, ranks: int) -> int:
    """Return how many parts of buckets a rank sends to all others, each to its owner."""
    piece = sums.most(sums.BUCKET // FLOAT32, ranks) // ranks
    return (ranks - 1) * math.ceil(numbers / ranks / piece)


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
