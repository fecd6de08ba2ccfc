"""The optimiser against closed answers and against SciPy, between bounds, and one member at a time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from analysis import solver
from analysis.laws import LAWS
from analysis.objective import LOG_HUBER, LOG_SQUARED, OBJECTIVES, SQUARED, Objective
from analysis.points import Matrix, Vector

POWER, SATURATING = LAWS["power"], LAWS["saturating"]
X = np.geomspace(1e5, 1e9, 12)[:, None]
FREE = (np.full(2, -np.inf), np.full(2, np.inf))


def noisy(seed: int, deviation: float = 0.05) -> Vector:
    rng = np.random.default_rng(seed)
    return SATURATING.predict(X, SATURATING.theta(SATURATING.example)) * np.exp(deviation * rng.standard_normal(len(X)))


def value(objective: Objective, theta: Vector, y: Vector) -> float:
    return float(objective.values(SATURATING.evaluate(X, theta[None])[0], y, np.ones(len(y)))[0])


def test_squares_of_a_straight_line_end_at_the_closed_answer() -> None:
    y = noisy(0)
    found = solver.minimise(POWER.evaluate, X, y, np.ones(12), np.zeros((1, 2)), *FREE, LOG_SQUARED)
    slope, intercept = np.polyfit(np.log(X[:, 0]), np.log(y), 1)
    assert found.converged.all()
    np.testing.assert_allclose(found.thetas[0], [intercept, -slope], rtol=1e-9)


def test_weights_count_points_several_times() -> None:
    y, counts = noisy(1), np.array([0, 1, 2, 1, 1, 3, 1, 0, 1, 1, 1, 1])
    again = np.repeat(np.arange(12), counts)
    weighted = solver.minimise(POWER.evaluate, X, y, counts * 1.0, np.zeros((1, 2)), *FREE, LOG_HUBER)
    repeated = solver.minimise(
        POWER.evaluate, X[again], y[again], np.ones(len(again)), np.zeros((1, 2)), *FREE, LOG_HUBER
    )
    # one corner of Huber's loss may hold both optima apart by rounding of the sums alone
    np.testing.assert_allclose(weighted.thetas, repeated.thetas, rtol=1e-7)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_no_optimum_of_scipy_is_lower(objective: Objective) -> None:
    for seed in range(5):
        y = noisy(seed)
        low, high = SATURATING.bounds(X, y)
        found = solver.minimise(SATURATING.evaluate, X, y, np.ones(12), SATURATING.starts(X, y), low, high, objective)
        best = float(found.values[found.converged].min())
        start = found.thetas[int(np.argmin(found.values))]
        for method in ("Nelder-Mead", "BFGS"):
            rival = minimize(lambda theta, y=y: value(objective, theta, y), start, method=method, tol=1e-14)
            assert best <= rival.fun * (1 + 1e-12)


def test_members_do_not_feel_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = np.stack([noisy(seed) for seed in range(40)])
    low, high = SATURATING.bounds(X, targets)
    starts = np.tile(SATURATING.theta(SATURATING.example), (40, 1))

    def solve(rows: slice) -> solver.Solutions:
        return solver.minimise(SATURATING.evaluate, X, targets[rows], np.ones(12), starts[rows], low, high, LOG_HUBER)

    together = solve(slice(None))
    alone = np.concatenate([solve(slice(i, i + 1)).thetas for i in range(40)])
    np.testing.assert_allclose(together.thetas, alone, rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(solver, "CHUNK", 100)  # two or three members at a time
    np.testing.assert_allclose(solve(slice(None)).thetas, alone, rtol=1e-9, atol=1e-9)


def test_a_bound_holds_and_the_gradient_there_points_outside() -> None:
    y = noisy(0)
    high = np.array([np.inf, 0.05])
    found = solver.minimise(POWER.evaluate, X, y, np.ones(12), np.zeros((1, 2)), FREE[0], high, LOG_SQUARED)
    assert found.converged[0]
    assert found.thetas[0, 1] == 0.05
    residuals = POWER.evaluate(X, found.thetas)[0][0] - np.log(y)
    # the free parameter is at its optimum: the mean of the residuals is zero
    assert abs(residuals.mean()) < 1e-9
    assert (-residuals * np.log(X[:, 0])).sum() < 0  # more of b would lower the sum


def test_equal_bounds_pin_a_parameter_of_each_member() -> None:
    y = noisy(0)
    pinned = np.array([0.05, 0.1, 0.2])
    low, high = np.tile(FREE[0], (3, 1)), np.tile(FREE[1], (3, 1))
    low[:, 1] = high[:, 1] = pinned
    found = solver.minimise(POWER.evaluate, X, y, np.ones(12), np.zeros((3, 2)), low, high, LOG_SQUARED)
    np.testing.assert_array_equal(found.thetas[:, 1], pinned)
    expected = (np.log(y) + pinned[:, None] * np.log(X[:, 0])).mean(axis=1)
    np.testing.assert_allclose(found.thetas[:, 0], expected, rtol=1e-9)


def test_a_member_that_ran_out_of_steps_says_so() -> None:
    y = noisy(0)
    low, high = SATURATING.bounds(X, y)
    start = np.array([[5.0, 2.0, -1.0]])
    few = solver.minimise(SATURATING.evaluate, X, y, np.ones(12), start, low, high, LOG_HUBER, most_steps=2)
    assert not few.converged[0]
    more = solver.minimise(SATURATING.evaluate, X, y, np.ones(12), start, low, high, LOG_HUBER)
    assert more.converged[0]
    assert more.values[0] < few.values[0]


def test_data_without_noise_are_met_to_the_last_digits() -> None:
    truth = SATURATING.theta(SATURATING.example)
    y = SATURATING.predict(X, truth)
    low, high = SATURATING.bounds(X, y)
    for objective in (LOG_SQUARED, LOG_HUBER, SQUARED):
        found = solver.minimise(SATURATING.evaluate, X, y, np.ones(12), truth[None] + 0.3, low, high, objective)
        assert found.converged[0]
        np.testing.assert_allclose(found.thetas[0], truth, rtol=1e-8)


def test_no_member_gives_no_solution() -> None:
    nobody: Matrix = np.empty((0, 2))
    found = solver.minimise(POWER.evaluate, X, noisy(0), np.ones(12), nobody, *FREE, LOG_SQUARED)
    assert found.thetas.shape == (0, 2)
