"""The source of each window of a run on several sources: shares that are exact at any point.

Let c_s(g) be the number of windows from source s among the first g of a run, and w_s its weight:

    c_0(g) = round(g * w_0 / (w_0 + w_1 + ...))
    c_1(g) = round((g - c_0(g)) * w_1 / (w_1 + w_2 + ...))   and so on; the last one has the rest

The counts add up to g. One of them grows by 1 with each window: that window is from this source.
No count is stored, and none is rounded twice.
"""

from collections.abc import Sequence
from fractions import Fraction


class Mixture:
    """The counts of the sources with these weights. They are exact: nothing is a float."""

    def __init__(self, weights: Sequence[float]):
        exact = [Fraction(str(weight)) for weight in weights]  # 0.1 is a tenth
        self.total = sum(exact)
        self.shares = [weight / self.total for weight in exact]  # of all windows
        self.ratios = [w / sum(exact[s:]) for s, w in enumerate(exact[:-1])]  # of what is left

    def counts(self, windows: int) -> list[int]:
        """Return how many of the first `windows` windows of a run are from each source."""
        found, left = list[int](), windows
        for ratio in self.ratios:
            a, b = ratio.numerator, ratio.denominator
            found.append((2 * left * a + b) // (2 * b))
            left -= found[-1]
        return [*found, left]
