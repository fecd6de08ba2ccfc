"""Profile intervals against closed answers, and against a second way to the same least sums of squares."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis import profile
from analysis.fit import Fit, fit
from analysis.laws import LAWS
from analysis.objective import LOG_SQUARED, SQUARED, Objective
from analysis.points import Vector, points
from analysis.rows import Rows
from analysis.solver import minimise
from analysis.uncertainty import uncertainty

POWER, SATURATING = LAWS["power"], LAWS["saturating"]
SIZES = np.geomspace(1e5, 1e8, 6)


def noisy(curve: Vector, deviation: float = 0.02, seed: int = 0) -> Vector:
    return curve * np.exp(deviation * np.random.default_rng(seed).standard_normal(curve.shape))


def line(seed: int = 0) -> Fit:
    return fit(POWER, points(SIZES, noisy(0.6 * SIZES**-0.12, seed=seed)))


def above_floor(ln_c: float, objective: Objective = LOG_SQUARED, seed: int = 0) -> Fit:
    return fit(
        SATURATING, points(SIZES, noisy(np.exp(1) * SIZES**-0.25 + np.exp(ln_c), seed=seed)), objective=objective
    )


def test_for_a_line_in_logarithms_profile_is_students_t_of_linear_regression() -> None:
    found = line()
    x, y = np.log(SIZES), np.log(found.points.y)
    known = stats.linregress(x, y)
    t, free = stats.t.ppf(0.975, 4), 4
    by_profile = uncertainty(found, method="profile")
    exponent = by_profile.parameters()["b"]
    # The search ends within 1e-6 of t, and the root is exactly linear here.
    assert exponent.low == pytest.approx(-known.slope - t * known.stderr, rel=1e-6)
    assert exponent.high == pytest.approx(-known.slope + t * known.stderr, rel=1e-6)
    assert exponent.se == pytest.approx(known.stderr, rel=1e-6)
    residuals = y - known.intercept - known.slope * x
    s = np.sqrt((residuals**2).sum() / free)
    at = np.log(1e9)
    leverage = 1 / 6 + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    middle = known.intercept + known.slope * at
    for band, spread in (
        (by_profile.curve(np.array([1e9])), leverage),
        (by_profile.new_runs(np.array([1e9])), 1 + leverage),
    ):
        assert np.log(band.low[0]) == pytest.approx(middle - t * s * np.sqrt(spread), rel=1e-6)
        assert np.log(band.high[0]) == pytest.approx(middle + t * s * np.sqrt(spread), rel=1e-6)


@pytest.mark.parametrize("objective", [LOG_SQUARED, SQUARED], ids=lambda objective: objective.name)
def test_with_a_parameter_pinned_at_an_end_the_sum_of_squares_is_what_t_allows(objective: Objective) -> None:
    found = above_floor(-3.0, objective)
    intervals = uncertainty(found, method="profile").parameters()
    low, high = SATURATING.bounds(found.points.x, found.points.y)
    allowed = 1 + stats.t.ppf(0.975, 3) ** 2 / 3
    for j, parameter in enumerate(SATURATING.parameters):
        for end in (intervals[parameter.name].low, intervals[parameter.name].high):
            pinned_low, pinned_high = low.copy(), high.copy()
            pinned_low[j] = pinned_high[j] = parameter.internal(end)
            # a second way to S(v): no pseudo-point, and starts of its own
            starts = np.clip(SATURATING.starts(found.points.x, found.points.y), pinned_low, pinned_high)
            ends = minimise(
                SATURATING.evaluate,
                found.points.x,
                found.points.y,
                np.ones(6),
                starts,
                pinned_low,
                pinned_high,
                objective,
            )
            # S is quadratic about the optimum, so twice the 1e-6 of the root, and a little for curvature
            assert ends.values.min() / found.value == pytest.approx(allowed, rel=5e-6)


def test_a_floor_that_is_not_seen_has_no_lower_limit_and_a_reader_is_told() -> None:
    found = above_floor(-9.0, seed=1)
    estimates = uncertainty(found)
    floor = estimates.parameters()["c"]
    assert floor.low == 0.0
    assert np.exp(-9.0) < floor.high < found.points.y.min()
    assert any("no limit below to c" in warning for warning in estimates.warnings)
    assert not floor.significant


def test_any_function_of_the_parameters_has_the_interval_of_the_parameter_that_it_is() -> None:
    estimates = uncertainty(above_floor(-3.0), method="profile")
    exponent, same = estimates.parameters()["b"], estimates.of(lambda thetas: 1e12 * thetas[:, 1])
    # differences of the function have an error of about 1e-9
    assert (same.low / 1e12, same.high / 1e12) == pytest.approx((exponent.low, exponent.high), rel=1e-5)
    assert same.se / 1e12 == pytest.approx(exponent.se, rel=1e-5)


def test_the_curve_at_a_point_is_a_function_of_the_parameters_too() -> None:
    estimates = uncertainty(above_floor(-3.0))
    band = estimates.curve(np.array([1e9]))
    same = estimates.of(lambda thetas: SATURATING.evaluate(np.array([[1e9]]), thetas)[0][:, 0])
    assert np.log([band.low[0], band.high[0]]) == pytest.approx([same.low, same.high], rel=1e-5)


def test_units_and_the_order_of_rows_move_no_interval() -> None:
    found = above_floor(-3.0)
    x, y = found.points.x, found.points.y
    here = uncertainty(found).parameters()
    there = uncertainty(fit(SATURATING, points(x[::-1] / 1e6, 100 * y[::-1]))).parameters()
    for name, factor in (("b", 1.0), ("c", 100.0)):
        low, high = here[name].low * factor, here[name].high * factor
        assert (there[name].low, there[name].high) == pytest.approx((low, high), rel=1e-5)


def test_many_data_sets_at_once_have_the_ends_that_each_has_alone() -> None:
    fits = [above_floor(-3.0, seed=seed) for seed in range(5)]
    bounds = [SATURATING.bounds(found.points.x, found.points.y) for found in fits]
    rows = Rows(
        evaluate=SATURATING.evaluate,
        x=SIZES[:, None],
        measured=np.log([found.points.y for found in fits]),
        weights=np.ones((5, 6)),
        thetas=np.array([found.theta for found in fits]),
        low=np.array([low for low, _ in bounds]),
        high=np.array([high for _, high in bounds]),
        logs=SATURATING.logs,
    )
    t, variance = stats.t.ppf(0.975, rows.free), rows.squares(rows.thetas) / rows.free
    ends = profile.interval_ends(rows, profile.coordinates(rows.low[0], rows.high[0]), t, variance)
    for found, low, high in zip(fits, ends.low, ends.high, strict=True):
        alone = uncertainty(found).parameters()["b"]
        assert (low[1], high[1]) == pytest.approx((alone.low, alone.high), rel=1e-5)


def test_points_of_weight_zero_are_none() -> None:
    found = line()
    x, y = np.append(SIZES, 1e9), np.append(found.points.y, 1.0)
    weighted = fit(POWER, points(x, y, weights=np.append(np.ones(6), 0.0)))
    one, other = (uncertainty(f, method="profile").parameters()["b"] for f in (found, weighted))
    assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-6)
