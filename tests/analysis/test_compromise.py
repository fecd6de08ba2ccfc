"""The common mixture against a grid over the simplex and the model sizes, and against the closed form of one task."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.laws.mixture import optimum, with_shares
from analysis.optima.compromise import common_optimum
from analysis.optima.flops import Flops
from analysis.optima.frontier import log_optimum

COST = Flops(k=40.0, power=0.9)
LOG_FLOPS = float(np.log(1e16))


def laws(n: int, n_tasks: int, most_gamma: float) -> np.ndarray:
    """(n, n_tasks, 8) thetas of mixture laws of three modalities."""
    rng = np.random.default_rng(0)
    beta = rng.uniform(0.15, 0.5, (n, n_tasks))
    kappa = rng.uniform(0.3, most_gamma, (n, n_tasks)) / beta
    columns = [
        np.log(rng.uniform(0.01, 0.1, (n, n_tasks))),
        np.log(rng.uniform(5, 50, (n, n_tasks))),
        rng.uniform(0.2, 0.5, (n, n_tasks)),
        beta,
        np.log(kappa),
        *np.log(rng.uniform(1, 6, (3, n, n_tasks))),
    ]
    return np.stack(columns, axis=-1)


def simplex(steps: int) -> np.ndarray:
    return np.array([(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]) / steps


def mean_log_error(thetas: np.ndarray, shares: np.ndarray, ln_n: np.ndarray) -> np.ndarray:
    """(grid, sizes) for thetas (G, p)."""
    total = np.zeros((len(shares), len(ln_n)))
    for theta in thetas:
        left = with_shares(np.tile(theta, (len(shares), 1)), shares)
        ln_d = COST.log_n_images(LOG_FLOPS, ln_n)
        size, data = left[:, :1] - left[:, 3:4] * ln_n, left[:, 1:2] - left[:, 4:5] * ln_d
        total += np.logaddexp(np.logaddexp(size, data), left[:, 2:3])
    return total / len(thetas)


@pytest.mark.parametrize("most_gamma", [0.95, 1.6])
@pytest.mark.parametrize("n_tasks", [2, 4])
def test_no_mixture_and_size_of_a_grid_beats_it(most_gamma: float, n_tasks: int) -> None:
    thetas, shares = laws(12, n_tasks, most_gamma), simplex(40)
    found = common_optimum(thetas, log_flops=LOG_FLOPS, cost=COST)
    np.testing.assert_allclose(found.shares.sum(axis=1), 1, rtol=1e-12)
    for one, ln_n, best, ln_y in zip(thetas, found.log_n_params, found.shares, found.log_y, strict=True):
        grid = mean_log_error(one, shares, ln_n + np.linspace(-2, 2, 41))
        assert ln_y.mean() <= grid.min() + 1e-9
        # the grid's best cell is next to the optimum: its steps are 1/40 and 0.1
        row, column = np.unravel_index(grid.argmin(), grid.shape)
        np.testing.assert_allclose(shares[row], best, atol=0.05)
        assert abs(column - 20) <= 2


def test_of_one_task_it_is_the_closed_form() -> None:
    thetas = laws(200, 1, 1.6)
    found = common_optimum(thetas, log_flops=LOG_FLOPS, cost=COST)
    shares = optimum(thetas[:, 0])
    ln_n, _, ln_y = log_optimum(with_shares(thetas[:, 0], shares), log_flops=LOG_FLOPS, cost=COST)
    np.testing.assert_allclose(found.shares, shares, atol=1e-5)
    np.testing.assert_allclose(found.log_n_params, ln_n, atol=1e-5)
    np.testing.assert_allclose(found.log_y[:, 0], ln_y, atol=1e-9)


def test_tasks_that_are_alike_lose_nothing_and_their_order_is_of_no_matter() -> None:
    one = laws(20, 1, 0.9)
    alike = common_optimum(np.repeat(one, 3, axis=1), log_flops=LOG_FLOPS, cost=COST)
    np.testing.assert_allclose(alike.shares, optimum(one[:, 0]), atol=1e-5)
    several = laws(20, 3, 1.6)
    here, there = (common_optimum(of, log_flops=LOG_FLOPS, cost=COST) for of in (several, several[:, ::-1]))
    np.testing.assert_allclose(here.log_y.mean(axis=1), there.log_y.mean(axis=1), rtol=1e-9)
