"""Intervals, quantiles, correlation, calibration and thinning, against slow or known answers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.statistics import (
    bradley_terry,
    calibration_error,
    correlation,
    percentile,
    quantile,
    reliability,
    sigmoid,
    temperature,
    thin,
    wilson,
)

MARGINS = st.lists(st.floats(-12, 12), min_size=1, max_size=60)
WHOLE = st.integers(-50, 50).map(float)


def slow_wilson(successes: float, n: int, z: float) -> tuple[float, float]:
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


@given(st.integers(1, 300), st.data())
def test_wilson_takes_half_wins_and_puts_them_between_their_neighbours(n, data):
    wins = data.draw(st.integers(0, n - 1))
    below, half, above = wilson(wins, n), wilson(wins + 0.5, n), wilson(wins + 1, n)
    assert half.rate == (wins + 0.5) / n
    assert below.low <= half.low <= above.low
    assert below.high <= half.high <= above.high
    low, high = slow_wilson(wins + 0.5, n, 1.959964)
    assert (half.low, half.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_ties_alone_are_a_rate_of_one_half_around_the_middle():
    rate = wilson(4 * 0.5, 4)
    assert rate.rate == 0.5
    assert rate.low + rate.high == pytest.approx(1)


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


@given(WHOLE, st.lists(WHOLE, min_size=1))
def test_a_percentile_counts_what_lies_below_and_half_of_the_ties(value, values):
    points = 0.0
    for other in values:
        points += 1.0 if other < value else 0.5 if other == value else 0.0
    assert percentile(value, values) == pytest.approx(points / len(values))


@given(st.lists(WHOLE, min_size=1), WHOLE, WHOLE)
def test_percentiles_rise_with_the_value_and_mirror_where_the_signs_change(values, a, b):
    low, high = sorted((a, b))
    assert 0 <= percentile(low, values) <= percentile(high, values) <= 1
    assert percentile(a, values) + percentile(-a, [-value for value in values]) == pytest.approx(1)


def test_a_percentile_among_nothing_is_the_middle():
    assert percentile(3.0, []) == 0.5


@given(st.lists(st.tuples(WHOLE, WHOLE), min_size=2, max_size=40))
def test_correlation_is_the_mean_product_of_standard_scores(points):
    xs, ys = zip(*points, strict=True)

    def standard(values):
        mean = math.fsum(values) / len(values)
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        return [(value - mean) / spread if spread else 0.0 for value in values]

    expected = math.fsum(a * b for a, b in zip(standard(xs), standard(ys), strict=True)) / len(xs)
    assert correlation(xs, ys) == pytest.approx(expected, abs=1e-9)
    assert correlation(ys, xs) == pytest.approx(correlation(xs, ys), abs=1e-12)


@pytest.mark.parametrize(("xs", "ys", "expected"), [
    ([1, 2, 3], [2, 4, 6], 1.0), ([1, 2, 3], [6, 4, 2], -1.0), ([1, 2, 3, 4], [1, -1, -1, 1], 0.0),
    ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8), ([1, 1, 1], [1, 2, 3], 0.0), ([1, 2], [7, 7], 0.0), ([1], [2], 0.0),
])  # fmt: skip
def test_correlations_that_can_be_known(xs, ys, expected):
    assert correlation(xs, ys) == pytest.approx(expected, abs=1e-12)


@given(st.floats(-700, 700))
def test_the_sigmoid_is_the_plain_one_and_mirrors(x):
    assert sigmoid(x) == pytest.approx(1 / (1 + math.exp(-x)), rel=1e-12)
    assert sigmoid(x) + sigmoid(-x) == pytest.approx(1)


@given(MARGINS)
def test_bradley_terry_is_the_mean_of_minus_log_sigma(margins):
    assert bradley_terry(margins) == pytest.approx(
        sum(-math.log(1 / (1 + math.exp(-margin))) for margin in margins) / len(margins), abs=1e-9
    )


@pytest.mark.parametrize(("margin", "loss"), [(0, math.log(2)), (1, 0.313262), (-1, 1.313262), (900, 0), (-900, 900)])
def test_bradley_terry_losses_that_are_known_and_do_not_overflow(margin, loss):
    assert bradley_terry([margin]) == pytest.approx(loss, abs=1e-6)


@given(st.floats(-50, 50), st.floats(0, 50))
def test_a_larger_margin_never_costs_more(margin, more):
    assert bradley_terry([margin + more]) <= bradley_terry([margin])


def slow_reliability(margins: list[float], bins: int) -> list[tuple[float, float, int]]:
    """For each bin all margins are looked through anew."""
    found = []
    for i in range(bins):
        low, high = 0.5 + i / (2 * bins), 0.5 + (i + 1) / (2 * bins)
        sure = [1 / (1 + math.exp(-abs(margin))) for margin in margins]
        members = [j for j, share in enumerate(sure) if low <= share < high or (i == bins - 1 and share >= high)]
        if members:
            right = sum(1.0 if margins[j] > 0 else 0.5 if margins[j] == 0 else 0.0 for j in members)
            found.append((sum(sure[j] for j in members) / len(members), right / len(members), len(members)))
    return found


@given(MARGINS, st.integers(1, 10))
def test_reliability_and_calibration_error_equal_the_slow_ones(margins, bins):
    found, expected = reliability(margins, bins), slow_reliability(margins, bins)
    assert len(found) == len(expected)
    for bar, (sure, right, n) in zip(found, expected, strict=True):
        assert (bar.confidence, bar.accuracy, bar.n) == (pytest.approx(sure), pytest.approx(right), n)
    error = sum(n * abs(right - sure) for sure, right, n in expected) / len(margins)
    assert calibration_error(margins, bins) == pytest.approx(error, abs=1e-9)
    assert 0 <= calibration_error(margins, bins) <= 1


def calibrated(spread: float = 1.0) -> list[float]:
    """Judgements of which just as many are right as σ(|margin|) says; spread > 1 makes them too sure."""
    sizes = [0.05 + 0.2 * i for i in range(20)]
    right = {size: round(1000 * sigmoid(size)) for size in sizes}
    return [spread * sign * s for s in sizes for sign, n in ((1, right[s]), (-1, 1000 - right[s])) for _ in range(n)]


def test_judgements_that_are_as_often_right_as_they_are_sure_have_no_calibration_error():
    assert calibration_error(calibrated()) < 0.001
    assert temperature(calibrated()) == pytest.approx(1, abs=0.01)
    assert all(bar.accuracy == pytest.approx(bar.confidence, abs=0.001) for bar in reliability(calibrated()))


@pytest.mark.parametrize("spread", [0.25, 3.0])
def test_the_temperature_finds_by_how_much_the_margins_were_stretched_and_takes_the_error_away(spread):
    margins = calibrated(spread)
    found = temperature(margins)
    assert found == pytest.approx(spread, rel=0.01)
    assert calibration_error(margins) > 0.05
    assert calibration_error([margin / found for margin in margins]) < 0.002


def test_calibration_of_nothing_ties_and_certainty():
    assert (reliability([]), calibration_error([]), temperature([])) == ([], 0.0, 1.0)
    assert reliability([0.0, 0.0]) == [(0.5, 0.5, 2)]
    assert calibration_error([0.0]) == 0.0
    assert calibration_error([-100.0]) == pytest.approx(1)
    assert calibration_error([100.0]) == pytest.approx(0)


@given(MARGINS)
def test_no_temperature_of_a_grid_has_a_lower_loss_than_the_one_that_is_found(margins):
    found = temperature(margins)
    assert 0.05 <= found <= 20
    best = bradley_terry([margin / found for margin in margins])
    for i in range(121):
        other = 0.05 * (20 / 0.05) ** (i / 120)
        assert best <= bradley_terry([margin / other for margin in margins]) + 1e-7


def test_a_judge_that_is_always_right_gets_the_lowest_temperature_and_one_always_wrong_the_highest():
    assert temperature([1.0, 2.0]) == pytest.approx(0.05, rel=1e-3)
    assert temperature([-1.0, -2.0]) == pytest.approx(20, rel=1e-3)
