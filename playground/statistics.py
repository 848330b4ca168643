"""Small pure functions for honest numbers: intervals beside rates, smoothing for plots."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Rate(NamedTuple):
    """A share of successes with its 95% interval."""

    rate: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.rate:.0%} ({self.low:.0%} to {self.high:.0%}, n = {self.n})"


def wilson(successes: int, n: int, z: float = 1.959964) -> Rate:
    """Wilson score interval of a proportion (Wilson 1927); with n = 0 nothing is known: 0 to 1."""
    if n == 0:
        return Rate(0.0, 0.0, 1.0, 0)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Rate(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), n)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie (nearest rank); values must not be empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def thin(count: int, most: int) -> list[int]:
    """At most `most` indexes of `count` points, evenly spread, first and last kept."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
