"""The optimiser finds planted and published answers, and says so when there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fit import HUBER_DELTA, Status, cell_means, fit
from analysis.laws import LAWS
from analysis.laws.law import Law

POWER, SATURATING = LAWS["power"], LAWS["saturating"]
X = np.geomspace(1e6, 1e9, 6)


def test_the_power_law_is_the_least_squares_line_through_the_logarithms() -> None:
    y = 0.3 * X**-0.1 * np.exp(0.05 * np.random.default_rng(0).standard_normal(len(X)))
    slope, intercept = np.polyfit(np.log(X), np.log(y), 1)
    np.testing.assert_allclose(fit(POWER, X, y).parameters, [intercept, -slope], rtol=1e-9)


def test_each_size_counts_once_however_many_seeds_it_has() -> None:
    x = np.repeat(X, [1, 2, 3, 1, 5, 1])
    y = np.exp(np.random.default_rng(0).standard_normal(len(x)) - 3)
    found = fit(POWER, x, y)
    sizes, means = cell_means(x, y)
    np.testing.assert_allclose(found.parameters, fit(POWER, sizes, means).parameters, rtol=1e-12)
    assert (len(found.x), found.n_runs) == (6, 13)


def test_the_order_of_runs_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    y = SATURATING.predict(X, np.array([1.0, 0.25, -3.0])) * np.exp(0.02 * rng.standard_normal(len(X)))
    order = rng.permutation(len(X))
    np.testing.assert_array_equal(fit(SATURATING, X, y).parameters, fit(SATURATING, X[order], y[order]).parameters)


def test_hubers_objective_hardly_feels_one_bad_run() -> None:
    y = POWER.predict(X, np.array([1.0, 0.2]))
    y[2] *= 2
    bad = abs(fit(POWER, X, y).parameters[1] - 0.2)
    # Five exact points against one: beyond its corner Huber's function pulls with delta alone, so that the others
    # give way by a few deltas.
    assert abs(fit(POWER, X, y, objective="log_huber").parameters[1] - 0.2) < 3 * HUBER_DELTA < bad


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
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
    found = fit(law, np.array(x), np.array(y))
    assert found.status is status
    assert not found.status.usable
    assert found.parameters.size == 0
    assert np.isnan(found.value)


def test_data_without_a_power_law_end_at_a_bound_and_say_so() -> None:
    cliff = np.array([1.0, 1e-30, 1e-60])
    assert fit(POWER, np.array([1.0, 10.0, 100.0]), cliff).status is Status.AT_BOUND


def test_a_curve_that_does_not_bend_does_not_determine_a_saturating_law() -> None:
    constant = np.full(6, 0.1)  # a floor alone and a power of zero fit as well
    found = fit(SATURATING, X, constant)
    assert found.status in (Status.AT_BOUND, Status.FLAT)
    np.testing.assert_allclose(found.predict(X), constant, rtol=1e-6)


def curves(shared: Path, domain: str) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Language curves of Alabdulmohsin et al. 2022 (arXiv 2209.06640): rows to fit, rows to extrapolate to."""
    table = pd.read_csv(shared / "reference" / "learning_curves" / "benchmark.lang.csv")
    groups = table[table["Domain"] == domain].groupby("Model")
    return [(curve[curve["Training"] == 1], curve[curve["Training"] == 0]) for _, curve in groups]


def extrapolation_error(law: Law, seen: pd.DataFrame, unseen: pd.DataFrame) -> float:
    """Root mean square of ln prediction - ln loss."""
    found = fit(law, seen["Seen Examples"].to_numpy(), seen["Loss"].to_numpy())
    misses = np.log(found.predict(unseen["Seen Examples"].to_numpy(float))) - np.log(unseen["Loss"].to_numpy())
    return float(np.sqrt((misses**2).mean()))


@pytest.mark.parametrize(("domain", "published"), [("NMT", 0.2217), ("LM", 0.0140)])
def test_the_power_law_extrapolates_published_curves_as_its_authors_code(
    shared: Path, domain: str, published: float
) -> None:
    # M1 of the paper is our power law, by the same least squares in logarithms: equal to the digits given.
    errors = [extrapolation_error(POWER, *curve) for curve in curves(shared, domain)]
    assert np.mean(errors) == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize(("domain", "at_most"), [("NMT", 0.4), ("LM", 0.11)])
def test_the_saturating_law_extrapolates_published_curves_better_than_the_power_law(
    shared: Path, domain: str, at_most: float
) -> None:
    # M2 of the paper has our formula; its authors' procedure gives a mean of .0341 on translation, least squares of
    # ln y .0482. As no better optimum of the latter exists (next test), the published number is not reproduced here.
    # What holds on every curve: the error is at most this share of the power law's (.09 to .37, .05 to .11).
    for curve in curves(shared, domain):
        assert extrapolation_error(SATURATING, *curve) < at_most * extrapolation_error(POWER, *curve)


def test_no_floor_and_exponent_of_a_grid_fit_published_curves_better_than_the_optimum_found(shared: Path) -> None:
    # Given floor and exponent one parameter is left, ln a, which Gauss and Newton find from a dozen steps.
    for seen, _ in curves(shared, "NMT"):
        x, y = cell_means(seen["Seen Examples"].to_numpy(float), seen["Loss"].to_numpy(float))
        found = fit(SATURATING, x, y)
        floor = np.linspace(0.01, 0.99, 60)[:, None, None] * y.min()
        b = np.linspace(0.02, 2, 200)[None, :, None]
        ln_a = np.mean(np.log(y - floor) + b * np.log(x), axis=-1, keepdims=True)
        for _ in range(12):
            removable = np.exp(ln_a - b * np.log(x))
            share, residual = removable / (removable + floor), np.log(removable + floor) - np.log(y)
            ln_a = ln_a - (share * residual).sum(axis=-1, keepdims=True) / (share**2).sum(axis=-1, keepdims=True)
        residual = np.log(np.exp(ln_a - b * np.log(x)) + floor) - np.log(y)
        grid = float((residual**2).sum(axis=-1).min()) / 2
        assert found.value <= grid
        assert found.value > 0.8 * grid  # and the grid is fine enough to have found it
