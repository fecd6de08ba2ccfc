"""What every law of the table owes: its own parameters back, its derivative, and indifference to units and order."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fit import Status, fit
from analysis.laws import ALIASES, LAWS
from analysis.laws.law import Law
from analysis.laws.m4 import LEAST_ALPHA, M4, solve_logit
from analysis.points import Matrix, Points, Vector, points

every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
ANYWHERE = 50.0
"""|theta| where a bound is infinite: e^50 is beyond any coefficient of data in sensible units."""


def exact(law: Law) -> Points:
    return points(law.example_x, law.predict(law.example_x, law.theta(law.example)))


def noisy(law: Law) -> Points:
    there = exact(law)
    rng = np.random.default_rng(1)
    return points(there.x, there.y * np.exp(0.01 * rng.standard_normal(len(there))))


def between_bounds(law: Law, n: int) -> Matrix:
    """The example's theta and n - 1 random ones."""
    low, high = law.bounds(exact(law).x, exact(law).y)
    low, high = np.maximum(low, -ANYWHERE), np.minimum(high, ANYWHERE)
    thetas = low + (high - low) * np.random.default_rng(0).random((n, len(low)))
    thetas[0] = law.theta(law.example)
    return thetas


@every_law
def test_a_law_says_what_it_is_and_where_it_comes_from(law: Law) -> None:
    assert LAWS[law.name] is law
    assert all(name in law.formula for name in law.names)
    assert any(word in law.source for word in ("arXiv", "doi", "section", "ours"))
    assert set(law.example) == set(law.names)
    assert law.example_x.shape[1] == len(law.inputs)
    assert all(parameter.meaning for parameter in law.parameters)


def test_an_alias_is_no_name_of_its_own_and_leads_to_a_law() -> None:
    assert not ALIASES.keys() & LAWS.keys()
    assert set(ALIASES.values()) <= LAWS.keys()


@every_law
def test_a_fit_without_noise_recovers_the_example(law: Law) -> None:
    found = fit(law, exact(law))
    assert found.status is Status.CONVERGED, found.reason
    # The optimiser stops at relative steps of 1e-11 of theta; the worst conditioned example loses four digits of them.
    np.testing.assert_allclose(found.theta, law.theta(law.example), rtol=1e-6, atol=1e-6)


@every_law
def test_the_gradient_is_that_of_finite_differences(law: Law) -> None:
    # Central differences with h = 1e-6 relative: truncation h^2 times third derivatives, which for the sharpest break
    # (f = 0.02) reach f^-2 = 2500 times the gradient: 2.5e-9. Rounding 1e-16 x |ln y| / h with |ln y| < 300: 3e-8.
    thetas = between_bounds(law, 40)
    gradient = law.evaluate(law.example_x, thetas)[1]
    for j in range(thetas.shape[1]):
        h = np.zeros_like(thetas)
        h[:, j] = 1e-6 * np.maximum(1.0, np.abs(thetas[:, j]))
        above, below = law.evaluate(law.example_x, thetas + h)[0], law.evaluate(law.example_x, thetas - h)[0]
        numeric = (above - below) / (2 * h[:, j, None])
        np.testing.assert_allclose(gradient[..., j], numeric, rtol=1e-6, atol=2e-7 * (1 + np.abs(gradient).max()))


@every_law
def test_predictions_and_gradients_are_finite_between_the_bounds_and_beyond_the_data(law: Law) -> None:
    far = np.concatenate([law.example_x, 10 * law.example_x])
    curves, gradient = law.evaluate(far, between_bounds(law, 500))
    assert np.isfinite(curves).all()
    assert np.isfinite(gradient).all()


@every_law
def test_the_bounds_hold_the_example_and_the_starts(law: Law) -> None:
    for given in (exact(law), noisy(law)):
        low, high = law.bounds(given.x, given.y)
        theta, starts = law.theta(law.example), law.starts(given.x, given.y)
        assert ((low <= theta) & (theta <= high)).all()
        assert len(starts)
        assert np.isfinite(starts).all()
        assert ((low <= starts) & (starts <= high)).all()


@every_law
@pytest.mark.parametrize(("unit_x", "unit_y"), [(1e-6, 1.0), (1.0, 0.1), (1e3, 40.0)])
def test_units_of_x_and_y_change_no_prediction(law: Law, unit_x: float, unit_y: float) -> None:
    given = noisy(law)
    mine = fit(law, given)
    # an input that is a share has no unit
    units = np.where(given.x.max(axis=0) > 1, unit_x, 1.0)
    other = fit(law, points(given.x * units, given.y * unit_y))
    # A relative error of the objective of 1e-16 allows steps of 1e-8 along its flattest direction, and predictions move
    # with them by far less than parameters do.
    np.testing.assert_allclose(other.predict(given.x * units), unit_y * mine.predict(given.x), rtol=1e-6)
    assert other.value == pytest.approx(mine.value, rel=1e-9)


@every_law
def test_the_order_of_rows_changes_nothing(law: Law) -> None:
    given = noisy(law)
    order = np.random.default_rng(2).permutation(len(given))
    mine, other = fit(law, given), fit(law, given.chosen(order))
    assert other.status is mine.status
    np.testing.assert_allclose(other.predict(given.x), mine.predict(given.x), rtol=1e-6)


@every_law
def test_the_fit_is_no_worse_than_the_truth_on_noisy_points(law: Law) -> None:
    given = noisy(law)
    found = fit(law, given)
    truth = found.objective.values(law.evaluate(given.x, law.theta(law.example)[None])[0], given.y, given.weights)[0]
    assert found.value <= truth


@every_law
def test_fewer_points_than_parameters_are_refused(law: Law) -> None:
    given = exact(law)
    found = fit(law, given.chosen(np.arange(len(law.parameters))))
    assert found.status is Status.TOO_FEW
    assert not found.parameters


@pytest.mark.parametrize("alpha", [LEAST_ALPHA, 0.1, 0.9, 1.0, 1.1, 3.0, 10.0])
def test_the_implicit_law_is_solved_everywhere(alpha: float) -> None:
    r = np.linspace(-400, 400, 2001)
    t = solve_logit(r, np.array([alpha]))
    # left and right side agree to rounding of the larger term
    left = t + (alpha - 1) * np.logaddexp(0.0, t)
    np.testing.assert_allclose(left, r, atol=1e-14 * np.abs(t).max(), rtol=1e-12)


def test_m4_satisfies_the_formula_of_its_source() -> None:
    value = M4.example
    y: Vector = M4.predict(M4.example_x, M4.theta(value))
    left = (y - value["eps_inf"]) / (value["eps_0"] - y) ** value["alpha"]
    beta = np.exp(M4.derived[0].compute(M4.theta(value)[None]))
    np.testing.assert_allclose(left, beta * M4.example_x[:, 0] ** value["c"], rtol=1e-9)
