"""What every law of the table owes: its own parameters back, its derivative, and indifference to units."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fit import Status, fit
from analysis.laws import LAWS
from analysis.laws.law import Law, Vector

X = np.geomspace(1e5, 1e9, 8)
every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


def example(law: Law) -> Vector:
    return np.array([law.example[parameter.name] for parameter in law.parameters])


def random_parameters(law: Law, n: int) -> list[Vector]:
    """Anywhere between the bounds; where there is none, within +-50, the logarithm of any error one may meet."""
    rng = np.random.default_rng(0)
    low = np.array([max(parameter.low, -50.0) for parameter in law.parameters])
    high = np.array([min(parameter.high, 50.0) for parameter in law.parameters])
    return [low + (high - low) * rng.random(len(low)) for _ in range(n)]


@every_law
def test_a_law_is_found_under_its_own_name_with_its_source(law: Law) -> None:
    assert LAWS[law.name] is law
    assert law.formula
    assert law.source
    assert set(law.example) == {parameter.name for parameter in law.parameters}


@every_law
def test_a_fit_without_noise_recovers_the_example(law: Law) -> None:
    found = fit(law, X, law.predict(X, example(law)))
    assert found.status is Status.CONVERGED
    # The optimiser stops at relative steps of 1e-14; the worst conditioned example loses seven digits of them.
    np.testing.assert_allclose(found.parameters, example(law), rtol=1e-6, atol=1e-6)


@every_law
def test_the_gradient_is_that_of_finite_differences(law: Law) -> None:
    # Central differences with h = 1e-5: truncation h^2 times a third derivative below (ln x)^3 = 1e4, that is 1e-6;
    # rounding 1e-16 x |ln y| / h with |ln y| < 300, that is 3e-9.
    h = 1e-5
    for parameters in [example(law), *random_parameters(law, 20)]:
        steps = h * np.eye(len(parameters))
        numeric = np.stack(
            [(law.log_predict(X, parameters + s) - law.log_predict(X, parameters - s)) / (2 * h) for s in steps], axis=1
        )
        np.testing.assert_allclose(law.log_gradient(X, parameters), numeric, atol=2e-6, rtol=1e-6)


@every_law
def test_predictions_and_gradients_are_finite_between_the_bounds(law: Law) -> None:
    for parameters in random_parameters(law, 500):
        assert np.isfinite(law.log_predict(X, parameters)).all()
        assert np.isfinite(law.log_gradient(X, parameters)).all()


@every_law
@pytest.mark.parametrize(("unit_x", "unit_y"), [(1e-6, 1.0), (1.0, 0.1), (1e-6, 0.1)])
def test_units_of_x_and_y_leave_exponents_unchanged(law: Law, unit_x: float, unit_y: float) -> None:
    rng = np.random.default_rng(1)
    y = law.predict(X, example(law)) * np.exp(0.02 * rng.standard_normal(len(X)))
    names = [parameter.name for parameter in law.parameters]
    mine = dict(zip(names, fit(law, X, y).parameters, strict=True))
    other = dict(zip(names, fit(law, unit_x * X, unit_y * y).parameters, strict=True))
    # The objective is the same function of shifted parameters. At its minimum a step of relative size s changes it by
    # s^2, so that rounding of the objective, 1e-16, leaves 1e-8 of a parameter; badly conditioned laws lose two digits.
    assert other["b"] == pytest.approx(mine["b"], rel=1e-6)
    if "ln_c" in mine:
        assert other["ln_c"] == pytest.approx(mine["ln_c"] + np.log(unit_y), rel=1e-6)


@every_law
def test_starting_points_lie_between_the_bounds(law: Law) -> None:
    starts = law.starts(X, law.predict(X, example(law)))
    assert starts
    for start in starts:
        for value, parameter in zip(start, law.parameters, strict=True):
            assert parameter.low <= value <= parameter.high
