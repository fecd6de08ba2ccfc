"""Minima of isoFLOP curves: where they are, how well known, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.optima.isoflop import Minimum, budget_labels, lowest, minima

Array = NDArray[np.float64]
SIZES = np.geomspace(1e6, 1e8, 7)


def one(sizes: Array, y: Array, degree: int = 2) -> Minimum:
    labels = np.zeros(len(sizes), np.int64)
    rng = np.random.default_rng(0)
    (found,) = minima(sizes, np.full(len(sizes), 1e17), y, labels, degree=degree, n_draws=400, rng=rng)
    return found


def bowl(sizes: Array, best: float, third: float = 0.0) -> Array:
    t = np.log(sizes / best)
    return 2 + 0.1 * t**2 + third * t**3


@pytest.mark.parametrize("degree", [2, 3])
@pytest.mark.parametrize("best", [3e6, 1e7, 5e7])
def test_a_parabola_is_found_again_by_parabola_and_cubic(best: float, degree: int) -> None:
    found = one(SIZES, bowl(SIZES, best), degree)
    assert found.found
    # least squares of numbers of order 1 in double precision, divided by a curvature of 0.2
    assert found.n_params == pytest.approx(best, rel=1e-9)


def test_a_cubic_is_found_by_the_cubic_and_missed_by_the_parabola() -> None:
    y = bowl(SIZES, 1e7, third=0.01)
    assert one(SIZES, y, 3).n_params == pytest.approx(1e7, rel=1e-8)
    assert abs(one(SIZES, y, 2).n_params / 1e7 - 1) > 0.1


def test_of_a_cubic_s_two_turning_points_the_lower_one_is_taken() -> None:
    """(t - 1)^2 (t + 5) = t^3 + 3 t^2 - 9 t + 5 turns at 1, its minimum, and at -3; its mirror image at -1 and 3."""
    np.testing.assert_allclose(lowest(np.array([[5.0, -9.0, 3.0, 1.0], [5.0, 9.0, 3.0, -1.0]])), [1.0, -1.0])


def test_curves_without_a_minimum_have_none() -> None:
    hill, line, rising_cubic = [0.0, 1.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]
    assert np.isnan(lowest(np.array([hill, line, rising_cubic]))).all()


@pytest.mark.parametrize(
    ("y", "reason"),
    [
        (4 - bowl(SIZES, 1e7), "at 1e+17 FLOPs the loss does not curve upwards in ln N: no minimum"),
        (bowl(SIZES, 3e8), "at 1e+17 FLOPs the minimum lies beyond the largest model, of size 1e+08"),
        (bowl(SIZES, 3e5), "at 1e+17 FLOPs the minimum lies beyond the smallest model, of size 1e+06"),
        (2 + 0.01 * np.array([1, -1, 0.5, -1, 0.8, -0.6, 1]), "the curvature is within the noise"),
    ],
)
def test_a_minimum_that_the_runs_do_not_show_is_refused(y: Array, reason: str) -> None:
    found = one(SIZES, y)
    assert not found.found
    assert reason in found.reason
    assert np.isnan(found.n_params)


def test_three_sizes_are_too_few_whatever_their_number_of_seeds() -> None:
    sizes = np.repeat(SIZES[2:5], 4)
    assert one(sizes, bowl(sizes, 1e7)).reason == "at 1e+17 FLOPs there are 3 model sizes; 4 are needed"
    assert one(SIZES[:4], bowl(SIZES[:4], 3e6), 3).reason == "at 1e+17 FLOPs there are 4 model sizes; 5 are needed"


def test_seeds_count_as_one_point_a_size() -> None:
    noise = 0.01 * np.random.default_rng(1).standard_normal(7)
    y = bowl(SIZES, 1e7) + noise
    once, thrice = one(SIZES, y), one(np.repeat(SIZES, 3), np.repeat(y, 3))
    assert thrice.n_params == pytest.approx(once.n_params)
    assert thrice.log_se == pytest.approx(once.log_se)


def test_the_stated_error_is_the_scatter_of_repeated_experiments_and_of_the_draws() -> None:
    """30 budgets of one curve, so that the pooled noise has 120 degrees of freedom: 6 % error of its own.

    The scatter of 600 minima is known to 3 %; so is that of 400 draws, to 4 %; and the delta method's own curvature
    error is of the order of the relative error of the curvature, here 3 %.
    """
    rng = np.random.default_rng(0)
    found: list[Minimum] = []
    for _ in range(20):
        sizes, labels = np.tile(SIZES, 30), np.repeat(np.arange(30), 7)
        y = bowl(sizes, 1e7) * (1 + 0.01 * rng.standard_normal(len(sizes)))
        found += minima(sizes, np.full(210, 1e17), y, labels, degree=2, n_draws=400, rng=rng)
    scatter = np.std([np.log(minimum.n_params) for minimum in found])
    assert np.mean([minimum.log_se for minimum in found]) == pytest.approx(scatter, rel=0.1)
    assert np.mean([minimum.draws.std() for minimum in found]) == pytest.approx(scatter, rel=0.1)


def test_budgets_are_found_whose_flops_agree_only_nearly() -> None:
    rng = np.random.default_rng(0)
    flops = np.repeat([1e20, 1e18, 1e19], 5) * np.exp(0.02 * rng.uniform(-1, 1, 15))
    sizes = np.tile(SIZES[:5], 3)
    rows = rng.permutation(15)
    np.testing.assert_array_equal(budget_labels(sizes[rows], flops[rows]), np.repeat([2, 0, 1], 5)[rows])


def test_runs_of_no_budget_are_in_no_group() -> None:
    flops = np.array([1e18] * 4 + [2e18, 3e18, 1e18, 1e18])
    sizes = np.array([1e6, 2e6, 4e6, 8e6, 1e6, 2e6, 1e6, 1e6])
    np.testing.assert_array_equal(budget_labels(sizes, flops), [0, 0, 0, 0, -1, -1, 0, 0])
    np.testing.assert_array_equal(budget_labels(sizes[:3], flops[:3]), [-1, -1, -1])


def test_a_grid_whose_diagonals_share_their_flops_has_budgets() -> None:
    n, d = (axis.ravel() for axis in np.meshgrid(2.0 ** np.arange(5), 2.0 ** np.arange(5)))
    labels = budget_labels(n, 6 * n * d)
    assert sorted(np.bincount(labels[labels >= 0])) == [4, 4, 5]
