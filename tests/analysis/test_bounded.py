"""Levels near a bound: against Neyman's construction by brute force, and by how often they hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.bounded import at_bound, off_bound
from analysis.points import Matrix, Stack, Vector
from analysis.profile import Scalars, coordinates, interval_ends
from analysis.rows import Rows
from analysis.solver import Evaluate

X, NOISE = np.linspace(0.0, 1.0, 6), 0.1
AHEAD = 3.0
"""Where curve and run are asked, in units of the design's length."""


# Against another way to the same


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0, 2.5])
def test_outcomes_of_a_bounded_mean_are_as_rare_as_feldman_and_cousins_order_makes_them(
    mean: float, level: float
) -> None:
    # their order on a grid: the outcomes x that have the highest likelihood ratio, until they make up the level
    x = np.arange(-9, 12, 1e-3)
    squares = (x - mean) ** 2 - np.minimum(x, 0) ** 2
    order = np.argsort(squares, kind="stable")
    accepted = np.cumsum(stats.norm.pdf(x[order] - mean)) * 1e-3 <= level
    edge = squares[order][accepted].max()
    # variance known is so many degrees of freedom; at a mean of zero half of all outcomes are the likeliest one
    free = 1e8
    total = free + (x - mean) ** 2
    found = off_bound((free + np.minimum(x, 0) ** 2) / total, mean / np.sqrt(total), np.ones(len(x)), np.full(1, free))
    # 1e-3 of the grid, and the digits that 1 - share loses
    decided = np.abs(squares - edge) > 0.02
    np.testing.assert_array_equal((found > 1 - level)[decided], (squares < edge)[decided])


def test_the_limits_of_an_estimate_far_from_its_bound_are_students_and_at_the_bound_one_sided() -> None:
    t, free = stats.t.ppf(0.975, 3), np.full(1, 3.0)
    share, one = np.full(1, 3 / (3 + t**2)), np.ones(1)
    far = np.full(1, 2.0)
    assert off_bound(share, far, one, free) == pytest.approx(0.05, rel=1e-12)
    assert off_bound(share, 0 * far, one, free) == pytest.approx(0.025, rel=1e-12)


@pytest.mark.parametrize("free", [1.0, 4.0, 60.0])
@pytest.mark.parametrize("rho", [-0.95, -0.4, 0.0, 0.8, 0.999])
@pytest.mark.parametrize("distance", [0.0, 0.4, 1.5])
def test_levels_hold_whether_the_parameter_is_at_its_bound_or_off_it(free: float, rho: float, distance: float) -> None:
    rng, n = np.random.default_rng(0), 100_000
    z, w = rng.standard_normal(n), distance + np.sqrt(1 - rho**2) * rng.standard_normal(n)
    noise = rng.chisquare(free, n)
    least, total = noise + np.minimum(w + rho * z, 0) ** 2, noise + z**2 + np.minimum(w, 0) ** 2 / (1 - rho**2)
    with np.errstate(invalid="ignore"):
        rare = np.where(
            w > 0,
            off_bound(least / total, np.abs(w) / np.sqrt(total), np.full(n, rho), np.full(n, free)),
            at_bound(least / total, np.full(n, rho), np.full(n, free)),
        )
    # three errors of 100,000 draws are .0021; between the bound and far away half a per cent is not exact
    assert (rare < 0.05).mean() == pytest.approx(0.05, abs=0.006 if distance else 0.0021)
    if distance == 0:
        assert (rare < 0.05)[w <= 0].mean() == pytest.approx(0.05, abs=0.003)


# In the profile. A line through the origin's neighbourhood: intercept, slope and a curvature that cannot be negative


def parabola(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    columns = np.column_stack([np.ones(len(x)), x[:, 0], x[:, 0] ** 2])
    return thetas @ columns.T, np.broadcast_to(columns, (len(thetas), *columns.shape))


def in_logs(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    """The same with the curvature's logarithm as parameter."""
    curvature = np.exp(thetas[:, 2:])
    curves, gradient = parabola(x, np.concatenate([thetas[:, :2], curvature], axis=1))
    return curves, np.concatenate([gradient[..., :2], gradient[..., 2:] * curvature[..., None]], axis=2)


def mirrored(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    """The same with a curvature that cannot be positive."""
    curves, gradient = parabola(x, thetas * [1, 1, -1])
    return curves, gradient * [1, 1, -1]


def rows(measured: Matrix, evaluate: Evaluate = parabola) -> Rows:
    """With optima by non-negative least squares: the free one, or with a curvature of zero."""
    columns = parabola(X[:, None], np.zeros((1, 3)))[1][0]
    thetas = measured @ np.linalg.pinv(columns).T
    straight = np.append(np.linalg.pinv(columns[:, :2]), np.zeros((1, len(X))), axis=0)
    thetas = np.where(thetas[:, 2:] > 0, thetas, measured @ straight.T)
    low, high = np.full(thetas.shape, -np.inf), np.full(thetas.shape, np.inf)
    low[:, 2] = 0.0
    if evaluate is in_logs:
        low[:, 2], high[:, 2] = -18.0, 5.0
        thetas[:, 2] = np.log(np.maximum(thetas[:, 2], np.exp(-18.0)))
    if evaluate is mirrored:
        thetas[:, 2], low, high = -thetas[:, 2], high * -1, -low
    weights = np.ones(measured.shape)
    logs = np.array([False, False, evaluate is in_logs])
    return Rows(
        evaluate=evaluate,
        x=X[:, None],
        measured=measured,
        weights=weights,
        thetas=thetas,
        low=low,
        high=high,
        logs=logs,
    )


def ends_of(data: Rows) -> tuple[Matrix, Matrix]:
    """Low and high (D, 5) of the parameters, of the curve ahead and of a run there; infinite where open."""
    t, variance = stats.t.ppf(0.975, data.free), data.squares(data.thetas) / data.free
    ahead = Scalars(evaluate=lambda thetas: data.evaluate(np.array([[AHEAD]]), thetas), caps=np.ones(1))
    found = [
        interval_ends(data, coordinates(data.low[0], data.high[0]), t, variance),
        interval_ends(data, ahead, t, variance),
        interval_ends(data, ahead, t, variance, np.ones((len(t), 1))),
    ]
    low = np.concatenate([np.where(ends.low_open, -np.inf, ends.low) for ends in found], axis=1)
    return low, np.concatenate([np.where(ends.high_open, np.inf, ends.high) for ends in found], axis=1)


def truth(errors: float) -> Vector:
    """With a curvature so many of its own standard errors from zero."""
    columns = parabola(X[:, None], np.zeros((1, 3)))[1][0]
    return np.array([1.0, -0.5, errors * NOISE * np.sqrt(np.linalg.inv(columns.T @ columns)[2, 2])])


def drawn(theta: Vector, n: int, seed: int = 0) -> Matrix:
    noise = NOISE * np.random.default_rng(seed).standard_normal((n, len(X)))
    return parabola(X[:, None], theta[None])[0] + noise


@pytest.mark.parametrize("errors", [0.0, 0.5, 1.5])
def test_intervals_hold_as_often_as_stated_however_near_the_bound_is(errors: float) -> None:
    theta, n = truth(errors), 2000
    low, high = ends_of(rows(drawn(theta, n)))
    ahead = parabola(np.array([[AHEAD]]), theta[None])[0][0, 0]
    run = ahead + NOISE * np.random.default_rng(1).standard_normal(n)
    true = np.column_stack([np.broadcast_to([*theta, ahead], (n, 4)), run])
    held = ((low <= true) & (true <= high)).mean(axis=0)
    # three errors of 2,000 data sets are .0146; Student's t as it is holds the curvature 97.5 % of the time
    assert held == pytest.approx(0.95, abs=0.015)


def test_far_from_the_bound_the_interval_is_students_to_the_last_digit() -> None:
    data = rows(drawn(truth(12.0), 5))
    free = Rows(**{**vars(data), "low": np.full(data.low.shape, -np.inf)})
    np.testing.assert_array_equal(ends_of(data), ends_of(free))


def test_an_upper_bound_is_a_lower_one_seen_in_a_mirror() -> None:
    measured = drawn(truth(0.5), 20)
    (low, high), (other_low, other_high) = ends_of(rows(measured)), ends_of(rows(measured, mirrored))
    turned = low.copy(), high.copy()
    turned[0][:, 2], turned[1][:, 2] = -high[:, 2], -low[:, 2]
    # the search ends within 1e-6 of t
    np.testing.assert_allclose(other_low, turned[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(other_high, turned[1], rtol=1e-5, atol=1e-5)


def test_a_parameter_and_its_logarithm_have_the_same_bound() -> None:
    measured = drawn(truth(0.7), 20)
    (low, high), (other_low, other_high) = ends_of(rows(measured)), ends_of(rows(measured, in_logs))
    other_low[:, 2], other_high[:, 2] = np.exp(other_low[:, 2]), np.exp(other_high[:, 2])
    low[:, 2] = np.maximum(low[:, 2], 0)  # open is zero
    # e^-18 is not zero, and the logarithm's steps are others
    np.testing.assert_allclose(other_low, low, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other_high, high, rtol=1e-4, atol=1e-4)
