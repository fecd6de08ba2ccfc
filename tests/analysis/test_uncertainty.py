"""Intervals say 95 % and are right 95 % of the time, on planted laws; what cannot be told is no number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.fit import Fit, Status, fit
from analysis.laws import LAWS
from analysis.objective import LOG_HUBER, LOG_SQUARED, SQUARED, Objective
from analysis.points import Index, Vector, cell_means, points
from analysis.profile import variance_of_a_run
from analysis.uncertainty import mean_interval, uncertainty
from tests.benchmarks.coverage import Design, covered, one_by_one, planted, profiles

POWER, SATURATING = LAWS["power"], LAWS["saturating"]
SIZES = np.geomspace(1e5, 1e8, 6)


def noisy(x: Vector, deviation: float = 0.02, seed: int = 0) -> Vector:
    return 0.6 * x**-0.12 * np.exp(deviation * np.random.default_rng(seed).standard_normal(len(x)))


def line(x: Vector = SIZES, *, objective: Objective = LOG_SQUARED, clusters: Index | None = None, seed: int = 0) -> Fit:
    return fit(POWER, points(x, noisy(x, seed=seed), clusters=clusters), objective=objective)


def above_floor(x: Vector, ln_c: float = -3.0, seed: int = 0) -> Vector:
    noise = 0.02 * np.random.default_rng(seed).standard_normal(len(x))
    return (np.exp(1) * x**-0.25 + np.exp(ln_c)) * np.exp(noise)


# What is chosen


def test_the_method_follows_from_objective_law_and_clusters() -> None:
    trunks = np.repeat(np.arange(6), 4)
    assert uncertainty(line()).method == "delta"
    assert uncertainty(fit(SATURATING, points(SIZES, above_floor(SIZES)))).method == "profile"
    assert uncertainty(line(objective=SQUARED)).method == "profile"
    assert uncertainty(line(objective=LOG_HUBER), n=20).method == "parametric"
    assert uncertainty(line(np.geomspace(1e5, 1e8, 24), objective=LOG_HUBER), n=20).method == "bootstrap"
    assert uncertainty(line(np.geomspace(1e5, 1e8, 24)), n=20).method == "bootstrap"
    few = uncertainty(line(np.geomspace(1e5, 1e8, 24), clusters=trunks), n=20)
    assert few.method == "parametric"
    assert any("6 trunks are few" in warning for warning in few.warnings)


def test_an_unknown_method_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"method: 'jackknife' is none; there are auto, profile, bootstrap"):
        uncertainty(line(), method="jackknife")  # type: ignore[arg-type]


def test_least_squares_intervals_are_not_given_to_another_objective() -> None:
    estimates = uncertainty(line(objective=LOG_HUBER), method="profile")
    assert np.isnan(estimates.parameters()["b"].low)
    assert any("not of log_huber" in warning for warning in estimates.warnings)


# What counts as evidence


def test_seeds_of_a_cell_count_once_and_runs_with_clusters_of_their_own_each() -> None:
    x = np.repeat(SIZES, 3)
    found = line(x)
    of_runs, of_means = uncertainty(found), uncertainty(fit(POWER, cell_means(found.points)))
    assert of_runs.free == of_means.free == 4
    one, other = of_runs.parameters()["b"], of_means.parameters()["b"]
    assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-9)
    assert uncertainty(line(x, clusters=np.arange(18))).free == 16


def test_a_new_run_scatters_more_than_the_mean_of_its_cells() -> None:
    x = np.repeat(SIZES, 3)
    band, run = (getattr(uncertainty(line(x)), name)(np.array([1e6])) for name in ("curve", "new_runs"))
    assert run.low[0] < band.low[0] < band.value[0] < band.high[0] < run.high[0]
    # The planted noise is .02: about it the interval of a new run within the data is at least 1.96 wide on each side,
    # and with 4 and 12 degrees of freedom not three times that.
    assert 0.5 * 1.96 * 0.02 < np.log(run.high[0] / run.value[0]) < 3 * 1.96 * 0.02


def test_means_know_how_many_runs_are_behind_them() -> None:
    x = np.repeat(SIZES, 4)
    found = fit(POWER, cell_means(points(x, noisy(x))))
    estimates = uncertainty(found, method="delta")
    s = np.sqrt(2 * found.value / 4)
    leverage = estimates.parameters()["a"]
    assert leverage.se > 0
    t, at = stats.t.ppf(0.975, 4), np.log(SIZES).mean()
    run = estimates.new_runs(np.array([np.exp(at)]))
    # at the centre of the sizes a line's leverage is 1/n; one run scatters by sqrt(4) of what means of four do
    assert np.log(run.high[0] / run.value[0]) == pytest.approx(t * s * np.sqrt(1 / 6 + 4), rel=1e-9)


# What there is no interval for


def test_a_failed_fit_has_no_numbers_and_says_why() -> None:
    found = fit(POWER, points(SIZES[:2], np.array([0.2, 0.1])))
    estimates = uncertainty(found)
    assert found.status is Status.TOO_FEW
    assert estimates.parameters() == {}
    assert np.isnan(estimates.curve(SIZES)).all()
    assert np.isnan(estimates.new_runs(SIZES)).all()
    assert np.isnan(estimates.of(lambda thetas: thetas[:, 0]).value)
    assert estimates.warnings == (found.reason,)


def test_errors_that_are_equal_to_the_last_digit_show_no_effect() -> None:
    for method in ("auto", "profile"):
        exponent = uncertainty(fit(POWER, points(SIZES, np.full(6, 0.07))), method=method).parameters()["b"]  # type: ignore[arg-type]
        assert abs(exponent.value) < 1e-11
        assert not exponent.significant


def test_at_a_bound_delta_gives_none_and_profile_does() -> None:
    fits = [fit(SATURATING, points(SIZES, above_floor(SIZES, -12.0, seed=seed))) for seed in range(20)]
    found = next(found for found in fits if found.status is Status.AT_BOUND)
    delta = uncertainty(found, method="delta")
    assert np.isnan(delta.parameters()["b"].low)
    assert np.isnan(delta.curve(SIZES).low).all()
    assert any("profile gives one" in warning for warning in delta.warnings)
    exponent = uncertainty(found).parameters()["b"]
    assert exponent.low < 0.25 < exponent.high


def test_few_degrees_of_freedom_are_a_warning() -> None:
    x = np.geomspace(1e5, 1e8, 4)
    estimates = uncertainty(fit(SATURATING, points(x, above_floor(x))))
    assert any("1 degree(s) of freedom: intervals are 6.5 times" in warning for warning in estimates.warnings)


# Invariances


@pytest.mark.parametrize("method", ["delta", "profile", "parametric", "wild", "bootstrap"])
def test_scaling_the_errors_leaves_the_exponents_interval_unchanged(method: str) -> None:
    x = np.geomspace(1e5, 1e8, 24)
    mine, other = (
        uncertainty(fit(POWER, points(x, scale * noisy(x))), method=method, n=50).parameters()["b"]  # type: ignore[arg-type]
        for scale in (1.0, 0.01)
    )
    assert (other.low, other.high) == pytest.approx((mine.low, mine.high), rel=1e-6)


@pytest.mark.parametrize("method", ["delta", "profile", "parametric", "wild", "bootstrap"])
def test_a_wider_confidence_gives_a_wider_interval_about_the_same_value(method: str) -> None:
    found = line(np.geomspace(1e5, 1e8, 24))
    narrow, wide = (
        uncertainty(found, method=method, level=level, n=200).parameters()["b"]  # type: ignore[arg-type]
        for level in (0.8, 0.99)
    )
    assert wide.low < narrow.low < narrow.value == wide.value < narrow.high < wide.high


# Coverage. results/coverage.md has it of more data sets and designs; seeds are fixed, so these pass or fail for good.


def test_intervals_of_a_curve_above_a_floor_cover_as_often_as_stated() -> None:
    design = Design(name="seen", law=SATURATING, theta=np.array([1.0, 0.25, -3.0]), x=SIZES[:, None], seeds=1)
    for found in covered(design, 400):
        # a .2 % quantile of binomial(400, .95) is 368
        assert 0.92 <= found.covered <= 0.98, found.number


@pytest.mark.parametrize(("n_cells", "n_runs"), [(2, 4), (3, 12), (4, 6), (10, 24), (9, 2)])
@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0])
def test_a_sum_of_two_variances_is_covered_as_often_as_stated(n_cells: int, n_runs: int, ratio: float) -> None:
    rng, n = np.random.default_rng(0), 100_000
    of_cells, of_runs = ratio * rng.chisquare(n_cells, n) / n_cells, rng.chisquare(n_runs, n) / n_runs
    added = variance_of_a_run(np.zeros(n), of_cells, n_cells, of_runs, n_runs)
    half = stats.t.ppf(0.975, n_cells) * np.sqrt(added)
    missed = np.abs(rng.standard_normal(n)) * np.sqrt(ratio + 1) > half
    assert 0.027 < missed.mean() < 0.054


def test_the_batch_that_measures_coverage_gives_the_intervals_that_users_get() -> None:
    design = Design(name="seen", law=SATURATING, theta=np.array([1.0, 0.25, -3.0]), x=SIZES[:, None], seeds=3)
    _, _, ends = profiles(design, 4, seed=5)
    noise = np.random.default_rng(5).standard_normal((4, 6, 3)) * design.noise
    for one, low, high in zip(noise, ends.low, ends.high, strict=True):
        curve = SATURATING.log_predict(design.x, design.theta)
        x, y = np.repeat(SIZES, 3), np.exp(np.repeat(curve, 3) + one.ravel())
        estimates = uncertainty(fit(SATURATING, points(x, y)))
        exponent, at = estimates.parameters()["b"], design.asked[1:]
        assert (exponent.low, exponent.high) == pytest.approx((low[1], high[1]), rel=1e-4)
        for band, j in ((estimates.curve(at), 4), (estimates.new_runs(at), 5)):
            assert np.log([band.low[0], band.high[0]]) == pytest.approx([low[j], high[j]], rel=1e-4)


def test_a_robust_fit_of_few_sizes_covers_as_often_as_stated() -> None:
    design = Design(name="power", law=POWER, theta=POWER.theta({"a": 0.6, "b": 0.12}), x=SIZES[:, None], seeds=1)
    for found in one_by_one(design, LOG_HUBER, "auto", 100, n=300):
        # the 1 % and 99.5 % quantiles of binomial(100, .95) are 89 and 100
        assert found.covered >= 0.89, found.number


@pytest.mark.slow
@pytest.mark.parametrize("design", list(planted()), ids=lambda design: design.label)
def test_planted_laws_are_covered_as_often_as_stated(design: Design) -> None:
    # 400 sets know a share of .95 to 1.1 %, and two hundred numbers are asked: an honest one is within 3.2 of these,
    # with half a per cent for what is not linear.
    for found in covered(design, 400):
        assert 0.91 <= found.covered <= 0.985, found.number


def test_the_mean_of_a_few_values_is_covered_as_often_as_stated() -> None:
    draws = np.random.default_rng(0).normal(0.3, 1.0, (200, 4))
    intervals = [mean_interval(draw) for draw in draws]
    # the central 99.5 % of binomial(200, .95)
    assert 181 <= sum(interval.low <= 0.3 <= interval.high for interval in intervals) <= 197


def test_one_value_has_a_mean_and_no_interval_and_none_has_neither() -> None:
    assert mean_interval(np.array([0.5])).value == 0.5
    assert np.isnan(mean_interval(np.array([0.5])).low)
    assert np.isnan(mean_interval(np.array([])).value)
    assert not mean_interval(np.array([0.5])).significant


@pytest.mark.slow
def test_many_sizes_are_covered_though_noise_differs_from_size_to_size() -> None:
    # From .5 % at the smallest to 4 % at the largest: methods that take noise as equal cover 83 % of the curve beyond.
    x = np.geomspace(1e5, 1e8, 24)
    rng, beyond = np.random.default_rng(1), np.array([1e9])
    n, truth = 0, 0.6 * beyond[0] ** -0.12
    for _ in range(200):
        y = 0.6 * x**-0.12 * np.exp(np.geomspace(0.005, 0.04, 24) * rng.standard_normal(24))
        band = uncertainty(fit(POWER, points(x, y)), n=300).curve(beyond)
        n += bool(band.low[0] <= truth <= band.high[0])
    # the .1 % quantile of binomial(200, .93)
    assert n >= 173


@pytest.mark.parametrize("name", ["power", "saturating"])
@pytest.mark.parametrize("unit", [1e-12, 1e-4, 1e5, 1e9])
def test_the_unit_of_y_does_not_touch_intervals_of_plain_residuals(name: str, unit: float) -> None:
    law, x = LAWS[name], np.geomspace(1e4, 1e8, 10)
    y = (2 * x**-0.2 + 0.1) * np.exp(0.02 * np.random.default_rng(0).standard_normal(10))
    mine, other = (uncertainty(fit(law, points(x, u * y), objective=SQUARED)) for u in (1.0, unit))
    a, b = mine.parameters()["b"], other.parameters()["b"]
    assert (b.value, b.low, b.high) == pytest.approx((a.value, a.low, a.high), rel=1e-4)
    far = np.array([1e9])
    for one, two in ((mine.curve(far), other.curve(far)), (mine.new_runs(far), other.new_runs(far))):
        assert np.ravel(two) == pytest.approx(unit * np.ravel(one), rel=1e-4)


def test_a_handful_of_resamples_is_no_interval() -> None:
    x = np.geomspace(1e4, 1e8, 40)
    y = 2 * x**-0.2 * np.exp(0.02 * np.random.default_rng(0).standard_normal(40))
    few = uncertainty(fit(LAWS["power"], points(x, y)), method="bootstrap", n=10)
    assert np.isnan(few.parameters()["b"].low)
    assert "10 resamples are too few for an interval; 40 are needed, 1,000 usual" in few.warnings


def test_parameters_that_nothing_determines_have_no_interval_of_no_width() -> None:
    x = np.geomspace(1e4, 1e8, 8)
    found = uncertainty(fit(LAWS["saturating"], points(x, np.full(8, 0.1)))).parameters()
    assert all(np.isnan(estimate.low) for estimate in found.values())
