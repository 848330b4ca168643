"""Intervals, quantiles and thinning, against slow or known answers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.statistics import quantile, thin, wilson


def slow_wilson(successes: int, n: int, z: float) -> tuple[float, float]:
    """The p for which |share - p| = z·sqrt(p(1-p)/n), found by bisection on each side of the share."""
    share = successes / n

    def outside(p: float) -> bool:
        return abs(share - p) > z * math.sqrt(p * (1 - p) / n)

    def edge(inner: float, outer: float) -> float:
        if not outside(outer):
            return outer
        for _ in range(200):
            middle = (inner + outer) / 2
            inner, outer = (inner, middle) if outside(middle) else (middle, outer)
        return inner

    return edge(share, 0.0), edge(share, 1.0)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(1, n) if n > 1 else st.just(1), st.just(n))))
def test_wilson_solves_its_defining_equation(case):
    successes, n = case
    rate = wilson(successes, n)
    low, high = slow_wilson(successes, n, 1.959964)
    assert rate.low == pytest.approx(low, abs=1e-9)
    if successes < n:
        assert rate.high == pytest.approx(high, abs=1e-9)
    assert 0 <= rate.low <= rate.rate <= rate.high + 1e-12
    assert rate.high <= 1


@pytest.mark.parametrize(("successes", "n", "low", "high"), [
    (5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662),
])  # fmt: skip
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    rate = wilson(successes, n)
    assert (rate.low, rate.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_wilson_of_nothing_knows_nothing():
    assert wilson(0, 0) == (0.0, 0.0, 1.0, 0)


def test_a_rate_reads_as_a_sentence():
    assert str(wilson(5, 10)) == "50% (24% to 76%, n = 10)"


def test_quantiles_of_a_hundred_values():
    values = list(range(100, 0, -1))
    assert [quantile(values, share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 51, 96, 100]
    assert quantile([7], 0.5) == 7


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_is_one_of_the_values_and_about_the_share_lies_below_it(values, share):
    found = quantile(values, share)
    assert found in values
    assert sum(value < found for value in values) <= share * len(values) + 1e-9


@given(st.integers(0, 5000), st.integers(2, 500))
def test_thinning_keeps_both_ends_and_at_most_so_many(count, most):
    kept = thin(count, most)
    assert len(kept) == min(count, most)
    assert kept == sorted(set(kept))
    if count:
        assert (kept[0], kept[-1]) == (0, count - 1)
