"""Intervals say 95 % and are right 95 % of the time, on planted laws.

Of 200 honest intervals the number that covers is binomial(200, .95): its central 99.9 % range is 179 to 198 (scipy's
`binom.ppf`), that is 89.5 to 99 %; the tests ask for the narrower 181 to 197, 90.5 to 98.5 %, which an honest interval
misses in 0.5 % of all seeds - seldom enough for seeds that are fixed.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.fit import Fit, Status, cell_means, fit
from analysis.laws import LAWS
from analysis.laws.law import Law, Vector
from analysis.uncertainty import mean_interval, parameter_intervals, prediction_band

POWER, SATURATING = LAWS["power"], LAWS["saturating"]
SEEDS = 200
COVERS = (181, 197)
PLANTED = np.array([-0.5, 0.12])


def noisy(law: Law, parameters: Vector, x: Vector, deviation: float, seed: int) -> Vector:
    return law.predict(x, parameters) * np.exp(deviation * np.random.default_rng(seed).standard_normal(len(x)))


def n_covering(fits: list[Fit], name: str, truth: float) -> int:
    intervals = [parameter_intervals(found)[name] for found in fits]
    return sum(interval.low <= truth <= interval.high for interval in intervals)


@pytest.mark.parametrize("n_sizes", [3, 4, 6])
@pytest.mark.parametrize("deviation", [0.005, 0.1])
def test_a_power_laws_exponent_is_covered_as_often_as_stated(n_sizes: int, deviation: float) -> None:
    x = np.geomspace(1e6, 1e9, n_sizes)
    fits = [fit(POWER, x, noisy(POWER, PLANTED, x, deviation, seed)) for seed in range(SEEDS)]
    assert COVERS[0] <= n_covering(fits, "b", PLANTED[1]) <= COVERS[1]


@pytest.mark.parametrize("size_deviation", [0.0, 0.05])
def test_several_seeds_a_size_keep_the_coverage_whether_or_not_sizes_have_luck_of_their_own(
    size_deviation: float,
) -> None:
    # Seeds scatter by .03 about their size, and each size scatters about the law.
    sizes, seeds = np.geomspace(1e6, 1e9, 4), 5
    x, fits = np.repeat(sizes, seeds), []
    for seed in range(SEEDS):
        shared = size_deviation * np.random.default_rng([seed, 1]).standard_normal(len(sizes))
        fits.append(fit(POWER, x, noisy(POWER, PLANTED, x, 0.03, seed) * np.exp(np.repeat(shared, seeds))))
    assert COVERS[0] <= n_covering(fits, "b", PLANTED[1]) <= COVERS[1]


def test_a_power_laws_interval_is_that_of_linear_regression() -> None:
    x = np.geomspace(1e6, 1e9, 5)
    y = noisy(POWER, PLANTED, x, 0.05, 0)
    line = stats.linregress(np.log(x), np.log(y))
    half = stats.t.ppf(0.975, 3) * line.stderr
    interval = parameter_intervals(fit(POWER, x, y))["b"]
    # Both are closed formulas of the same sums; nine digits survive.
    assert (interval.low, interval.high) == pytest.approx((-line.slope - half, -line.slope + half), rel=1e-9)


def test_the_band_covers_the_curve_at_the_largest_size_as_often_as_stated() -> None:
    x = np.geomspace(1e6, 1e9, 4)
    n = 0
    for seed in range(SEEDS):
        low, high = prediction_band(fit(POWER, x, noisy(POWER, PLANTED, x, 0.05, seed)), x[-1:])
        n += bool(low[0] <= POWER.predict(x[-1:], PLANTED)[0] <= high[0])
    assert COVERS[0] <= n <= COVERS[1]


def saturating_fits(ln_c: float, seeds: int) -> list[Fit]:
    x = np.geomspace(1e5, 1e8, 6)
    return [fit(SATURATING, x, noisy(SATURATING, np.array([1.0, 0.25, ln_c]), x, 0.02, seed)) for seed in range(seeds)]


def test_a_saturating_law_whose_floor_is_seen_is_covered_as_often_as_stated() -> None:
    # The removable error falls from three times the floor to half of it. Measured: ln_a 195, b 194, ln_c 193 of 200.
    fits = saturating_fits(-3.0, SEEDS)
    assert all(found.status is Status.CONVERGED for found in fits)
    for name, truth in (("ln_a", 1.0), ("b", 0.25), ("ln_c", -3.0)):
        assert COVERS[0] <= n_covering(fits, name, truth) <= COVERS[1]


def test_a_saturating_law_whose_floor_is_not_seen_refuses_or_covers_the_exponent() -> None:
    # The floor is a hundredth of the smallest removable error. Measured on 200 seeds: 76 fits end at a bound and have
    # no interval; of the other 124 the exponent's covers 120, the floor's only 98 (79 %). So nothing is asserted of the
    # floor: the delta method is not to be believed about a floor that the data hardly show.
    fits = saturating_fits(-8.0, 100)
    answered = [found for found in fits if found.status is Status.CONVERGED]
    assert 0 < len(answered) < 100
    # 1 - .905: as above, the share of misses allowed.
    assert n_covering(answered, "b", 0.25) >= 0.905 * len(answered)


def test_fits_without_a_free_degree_have_no_interval() -> None:
    x = np.array([1e6, 1e7, 1e8])
    found = fit(POWER, x, noisy(POWER, PLANTED, x, 0.05, 0))
    assert np.isfinite(parameter_intervals(found)["b"].low)
    assert parameter_intervals(fit(POWER, x[:2], np.array([0.2, 0.1]))) == {}


def test_errors_that_are_equal_to_the_last_digit_show_no_effect() -> None:
    x = np.geomspace(1e6, 1e9, 5)
    interval = parameter_intervals(fit(POWER, x, np.full(5, 0.07)))["b"]
    assert abs(interval.value) < 1e-12
    assert not interval.significant


def test_a_parameter_at_its_bound_has_no_interval() -> None:
    found = fit(POWER, np.array([1.0, 10.0, 100.0]), np.array([1.0, 1e-30, 1e-60]))
    assert found.status is Status.AT_BOUND
    assert all(np.isnan(interval.low) for interval in parameter_intervals(found).values())
    assert np.isnan(prediction_band(found, found.x)[0]).all()


def test_a_fit_by_another_objective_than_squares_has_no_interval() -> None:
    x = np.geomspace(1e6, 1e9, 5)
    found = fit(POWER, x, noisy(POWER, PLANTED, x, 0.05, 0), objective="log_huber")
    assert np.isnan(parameter_intervals(found)["b"].low)


def test_scaling_the_errors_leaves_the_exponents_interval_unchanged() -> None:
    x = np.geomspace(1e6, 1e9, 5)
    y = noisy(POWER, PLANTED, x, 0.05, 0)
    mine, other = (parameter_intervals(fit(POWER, x, scale * y))["b"] for scale in (1.0, 0.01))
    assert (other.low, other.high) == pytest.approx((mine.low, mine.high), rel=1e-9)


def test_a_wider_confidence_gives_a_wider_interval_about_the_same_value() -> None:
    x = np.geomspace(1e6, 1e9, 5)
    found = fit(POWER, x, noisy(POWER, PLANTED, x, 0.05, 0))
    narrow, wide = (parameter_intervals(found, level=level)["b"] for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value == wide.value < narrow.high < wide.high


def test_the_mean_of_a_few_values_is_covered_as_often_as_stated() -> None:
    draws = np.random.default_rng(0).normal(0.3, 1.0, (SEEDS, 4))
    intervals = [mean_interval(draw) for draw in draws]
    assert COVERS[0] <= sum(interval.low <= 0.3 <= interval.high for interval in intervals) <= COVERS[1]


def test_one_value_has_a_mean_and_no_interval_and_none_has_neither() -> None:
    assert mean_interval(np.array([0.5])).value == 0.5
    assert np.isnan(mean_interval(np.array([0.5])).low)
    assert np.isnan(mean_interval(np.array([])).value)
    assert not mean_interval(np.array([0.5])).significant


def test_seeds_of_a_size_are_averaged_geometrically() -> None:
    sizes, means = cell_means(np.array([2.0, 1.0, 1.0]), np.array([0.3, 0.1, 0.4]))
    np.testing.assert_allclose(sizes, [1.0, 2.0])
    np.testing.assert_allclose(means, [0.2, 0.3], rtol=1e-12)
