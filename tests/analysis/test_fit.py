"""A fit finds planted and certified answers, and says so when there is none."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fit import Status, fit, refits
from analysis.laws import LAWS
from analysis.laws.law import Law
from analysis.objective import HUBER_DELTA, LOG_HUBER, LOG_SQUARED, SQUARED
from analysis.points import cell_means, points

POWER, SATURATING = LAWS["power"], LAWS["saturating"]
X = np.geomspace(1e6, 1e9, 6)


def test_the_power_law_is_the_least_squares_line_through_the_logarithms() -> None:
    y = 0.3 * X**-0.1 * np.exp(0.05 * np.random.default_rng(0).standard_normal(len(X)))
    slope, intercept = np.polyfit(np.log(X), np.log(y), 1)
    np.testing.assert_allclose(fit(POWER, points(X, y)).theta, [intercept, -slope], rtol=1e-9)


def test_plain_squares_agree_with_certified_values() -> None:
    # NIST StRD, DanWood (Daniel and Wood 1980): y = b1 x^b2, certified to eleven digits.
    x = np.array([1.309, 1.471, 1.490, 1.565, 1.611, 1.680])
    y = np.array([2.138, 3.421, 3.597, 4.340, 4.882, 5.660])
    found = fit(POWER, points(x, y), objective=SQUARED)
    assert found.parameters["a"] == pytest.approx(7.6886226176e-01, rel=1e-8)
    assert -found.parameters["b"] == pytest.approx(3.8604055871e00, rel=1e-8)
    assert 2 * found.value == pytest.approx(4.3173084083e-03, rel=1e-8)  # certified residual sum of squares


def test_cell_means_count_each_size_once_however_many_seeds_it_has() -> None:
    x = np.repeat(X, [1, 2, 3, 1, 5, 1])
    y = np.exp(np.random.default_rng(0).standard_normal(len(x)) - 3)
    means = cell_means(points(x, y))
    assert (len(means), means.n_runs) == (6, 13)
    assert means.y[2] == pytest.approx(np.exp(np.log(y[3:6]).mean()))
    slope, _ = np.polyfit(np.log(X), np.log(means.y), 1)
    assert -fit(POWER, means).parameters["b"] == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize("objective", [LOG_SQUARED, LOG_HUBER], ids=["squares", "huber"])
def test_neither_the_order_of_runs_nor_a_common_weight_moves_the_optimum(objective: object) -> None:
    rng = np.random.default_rng(0)
    x = np.geomspace(1e5, 1e9, 12)
    y = SATURATING.predict(x[:, None], SATURATING.theta(SATURATING.example)) * np.exp(
        0.02 * rng.standard_normal(len(x))
    )
    order = rng.permutation(len(x))
    plain = fit(SATURATING, points(x, y), objective=objective)  # type: ignore[arg-type]
    shuffled = fit(SATURATING, points(x[order], y[order]), objective=objective)  # type: ignore[arg-type]
    # a mean instead of a sum, where published fits stopped too early
    mean = fit(SATURATING, points(x, y, weights=np.full(12, 1 / 12)), objective=objective)  # type: ignore[arg-type]
    np.testing.assert_allclose(shuffled.theta, plain.theta, rtol=1e-7)
    np.testing.assert_allclose(mean.theta, plain.theta, rtol=1e-7)
    assert mean.value == pytest.approx(plain.value / 12, rel=1e-9)


def test_hubers_objective_hardly_feels_one_bad_run() -> None:
    y = POWER.predict(X[:, None], np.array([1.0, 0.2]))
    y[2] *= 2
    bad = abs(fit(POWER, points(X, y)).parameters["b"] - 0.2)
    # Five exact points against one: beyond its corner Huber's function pulls with delta alone, so that the others
    # give way by a few deltas.
    assert abs(fit(POWER, points(X, y), objective=LOG_HUBER).parameters["b"] - 0.2) < 3 * HUBER_DELTA < bad


@pytest.mark.parametrize("law", [POWER, SATURATING], ids=["power", "saturating"])
@pytest.mark.parametrize(
    ("x", "y", "status"),
    [
        ([], [], Status.TOO_FEW),
        ([1e6], [0.1], Status.TOO_FEW),
        ([1e6, 1e7], [0.2, 0.1], Status.TOO_FEW),
        ([1e6, 1e6, 1e6, 1e7, 1e7], [0.2, 0.2, 0.2, 0.1, 0.1], Status.TOO_FEW),
        ([1e6, 1e7, 1e8, 1e9], [0.3, 0.2, 0.1, 0.0], Status.NOT_POSITIVE),
        ([0.0, 1e7, 1e8, 1e9], [0.3, 0.2, 0.1, 0.05], Status.NOT_POSITIVE),
        ([1e6, 1e7, 1e8, 1e9], [0.3, 0.2, np.nan, 0.1], Status.NOT_FINITE),
        ([np.inf, 1e7, 1e8, 1e9], [0.3, 0.2, 0.15, 0.1], Status.NOT_FINITE),
    ],
)
def test_a_failed_fit_has_a_reason_and_no_number(law: Law, x: list[float], y: list[float], status: Status) -> None:
    found = fit(law, points(np.array(x), np.array(y)))
    assert found.status is status
    assert found.reason
    assert not found.status.usable
    assert found.parameters == {}
    assert found.theta.size == 0
    assert np.isnan(found.value)


def test_points_without_weight_are_no_sizes() -> None:
    x, y = np.geomspace(1e6, 1e9, 4), np.array([0.3, 0.2, 0.15, 0.1])
    assert fit(POWER, points(x, y, weights=np.array([1.0, 1.0, 0.0, 0.0]))).status is Status.TOO_FEW


def test_data_without_a_power_law_end_at_a_bound_that_is_named() -> None:
    found = fit(POWER, points(np.array([1.0, 10.0, 100.0]), np.array([1.0, 1e-30, 1e-60])))
    assert found.status is Status.AT_BOUND
    assert "b stands at its upper bound, 10" in found.reason


def test_a_curve_that_does_not_bend_does_not_determine_a_saturating_law() -> None:
    constant = np.full(6, 0.1)  # a floor alone and a power of zero fit as well
    found = fit(SATURATING, points(X, constant))
    assert found.status in (Status.AT_BOUND, Status.FLAT)
    np.testing.assert_allclose(found.predict(X[:, None]), constant, rtol=1e-6)


def test_a_design_that_a_law_cannot_use_is_refused_with_the_laws_reason() -> None:
    from dataclasses import replace

    picky = replace(POWER, unidentified=lambda x: "no")
    found = fit(picky, points(X, 1 / X))
    assert (found.status, found.reason) == (Status.UNIDENTIFIED, "no")


def test_refits_are_the_fits_of_the_resampled_points() -> None:
    rng = np.random.default_rng(0)
    x = np.geomspace(1e5, 1e9, 10)
    truth = SATURATING.theta(SATURATING.example)
    y = SATURATING.predict(x[:, None], truth) * np.exp(0.02 * rng.standard_normal(10))
    whole = fit(SATURATING, points(x, y))
    counts = rng.multinomial(10, np.full(10, 0.1), size=20).astype(float)
    counts = counts[(counts > 0).sum(axis=1) > 5]
    thetas, values = refits(whole, weights=counts)
    for count, theta, value in zip(counts, thetas, values, strict=True):
        alone = fit(SATURATING, points(x, y, weights=count))
        assert value <= alone.value * (1 + 1e-6)
        np.testing.assert_allclose(SATURATING.predict(x[:, None], theta), alone.predict(x[:, None]), rtol=1e-4)


def test_refits_take_other_measurements_at_the_same_sizes() -> None:
    y = 0.3 * X**-0.1
    whole = fit(POWER, points(X, y * np.exp(0.01 * np.random.default_rng(0).standard_normal(6))))
    thetas, _ = refits(whole, targets=np.stack([y, 2 * y, y * (X / X[0]) ** -0.1]))
    np.testing.assert_allclose(thetas[:, 1], [0.1, 0.1, 0.2], rtol=1e-8)
    np.testing.assert_allclose(np.exp(thetas[:2, 0]), [0.3, 0.6], rtol=1e-8)


def test_no_floor_and_exponent_of_a_grid_fit_better_than_the_optimum_found() -> None:
    # Given floor and exponent one parameter is left, ln a, which Gauss and Newton find from a dozen steps.
    rng = np.random.default_rng(3)
    x = np.geomspace(1e3, 1e7, 14)
    for exponent, share in ((0.1, 0.5), (0.3, 0.9), (0.8, 0.2)):
        y = (x / x[0]) ** -exponent * (1 - share) + share
        y = y * np.exp(0.01 * rng.standard_normal(len(x)))
        found = fit(SATURATING, points(x, y))
        floor = (1 - np.geomspace(1e-3, 0.99, 80))[:, None, None] * y.min()
        b = np.linspace(0.02, 2, 200)[None, :, None]
        ln_a = np.mean(np.log(np.maximum(y - floor, 1e-300)) + b * np.log(x), axis=-1, keepdims=True)
        for _ in range(12):
            removable = np.exp(ln_a - b * np.log(x))
            part, residual = removable / (removable + floor), np.log(removable + floor) - np.log(y)
            ln_a = ln_a - (part * residual).sum(axis=-1, keepdims=True) / (part**2).sum(axis=-1, keepdims=True)
        residual = np.log(np.exp(ln_a - b * np.log(x)) + floor) - np.log(y)
        grid = float((residual**2).sum(axis=-1).min()) / 2
        assert found.value <= grid
        assert found.value > 0.8 * grid  # and the grid is fine enough to have found it


def test_plain_squares_of_tiny_numbers_do_not_vanish() -> None:
    y = 0.3 * X**-0.1 * np.exp(0.01 * np.random.default_rng(0).standard_normal(6))
    tiny = fit(POWER, points(X, 1e-200 * y), objective=SQUARED)
    assert tiny.parameters["b"] == pytest.approx(fit(POWER, points(X, y), objective=SQUARED).parameters["b"], rel=1e-8)


def test_starts_that_stop_early_at_a_plateau_do_not_push_out_better_ones() -> None:
    law = LAWS["sigmoid"]
    truth = law.theta(law.example)
    y = law.predict(law.example_x, truth)
    noisy = y * np.exp(0.02 * np.random.default_rng(2).standard_normal(len(y)))
    found = fit(law, points(law.example_x, noisy), objective=LOG_HUBER)
    at_truth = LOG_HUBER.values(law.evaluate(law.example_x, truth[None])[0], noisy, np.ones(len(y)))[0]
    assert found.value <= at_truth


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_a_unit_in_which_a_parameter_is_tiny_puts_nothing_at_a_bound(unit: float) -> None:
    law = LAWS["sigmoid"]
    y = law.predict(law.example_x, law.theta(law.example))
    y = y * np.exp(0.002 * np.random.default_rng(1).standard_normal(len(y)))
    plain, other = (fit(law, points(u * law.example_x, y)) for u in (1.0, unit))
    assert other.status is plain.status
    assert other.value == pytest.approx(plain.value, rel=1e-6)
