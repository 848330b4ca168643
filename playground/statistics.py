"""Small pure functions for honest numbers: intervals beside rates, correlation, calibration, thinning for plots."""

import math
import statistics as _statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Rate(NamedTuple):
    """A share of successes with its 95% interval."""

    rate: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.rate:.0%} ({self.low:.0%} to {self.high:.0%}, n = {self.n})"


def wilson(successes: float, n: int, z: float = 1.959964) -> Rate:
    """Wilson score interval of a proportion (Wilson 1927); ties may count half; with n = 0 nothing is known: 0 to 1."""
    if n == 0:
        return Rate(0.0, 0.0, 1.0, 0)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Rate(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), n)


def wins(margins: Iterable[float], tie: float = 1e-4) -> float:
    """How many margins are positive; one within `tie` of 0 counts half: the same text in another batch scores that
    closely."""
    return sum(0.5 if abs(margin) <= tie else float(margin > 0) for margin in margins)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie (nearest rank); values must not be empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def percentile(value: float, values: Sequence[float]) -> float:
    """Share of `values` below `value`, ties counted half; between 0 and 1."""
    below = sum(other < value for other in values) + 0.5 * sum(other == value for other in values)
    return below / len(values) if values else 0.5


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Pearson's r; 0 where one side does not vary."""
    if len(xs) < 2 or len(set(xs)) == 1 or len(set(ys)) == 1:
        return 0.0
    return _statistics.correlation(xs, ys)


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def bradley_terry(margins: Sequence[float]) -> float:
    """Mean of -log σ(margin), in nats: the loss of a reward model whose chosen answers score `margin` higher
    (Bradley & Terry 1952; Ouyang et al. 2022, eq. 1)."""
    return sum(max(-m, 0.0) + math.log1p(math.exp(-abs(m))) for m in margins) / len(margins)


class Bin(NamedTuple):
    """One bar of a reliability curve: mean confidence and accuracy of `n` judgements."""

    confidence: float
    accuracy: float
    n: int


def reliability(margins: Sequence[float], bins: int = 5) -> list[Bin]:
    """Reliability curve of pairwise judgements: how sure σ(|margin|) is against how often the sign is right.

    Bins of equal width over 0.5 to 1; empty ones are left out. A margin of 0 is half right (Guo et al. 2017).
    """
    found: dict[int, list[tuple[float, float]]] = {}
    for margin in margins:
        sure = sigmoid(abs(margin))
        right = 0.5 if margin == 0 else float(margin > 0)
        found.setdefault(min(int((sure - 0.5) * 2 * bins), bins - 1), []).append((sure, right))
    means = (
        [sum(column) / len(column) for column in zip(*members, strict=True)] for _, members in sorted(found.items())
    )
    return [Bin(sure, right, len(found[key])) for (sure, right), key in zip(means, sorted(found), strict=True)]


def calibration_error(margins: Sequence[float], bins: int = 5) -> float:
    """Expected calibration error: mean |accuracy - confidence| over the bins, weighted by their size."""
    return sum(b.n * abs(b.accuracy - b.confidence) for b in reliability(margins, bins)) / max(len(margins), 1)


def temperature(margins: Sequence[float], low: float = 0.05, high: float = 20.0) -> float:
    """The T that minimises the mean of -log σ(margin / T): above 1 the scores are too sure of themselves, below 1 too
    timid. Golden-section search in log T, where the loss has one minimum; kept within low and high."""
    if not margins:
        return 1.0

    def loss(log_t: float) -> float:
        return bradley_terry([margin / math.exp(log_t) for margin in margins])

    left, right, ratio = math.log(low), math.log(high), (math.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = right - ratio * (right - left), left + ratio * (right - left)
        left, right = (left, b) if loss(a) <= loss(b) else (a, right)
    return math.exp((left + right) / 2)


def thin(count: int, most: int) -> list[int]:
    """At most `most` indexes of `count` points, evenly spread, first and last kept."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
