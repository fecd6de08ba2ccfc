"""Resamples draw what shares luck together, keep the design's limits in mind, and scatter as the noise does."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fit import Fit, fit
from analysis.laws import LAWS
from analysis.objective import OBJECTIVES
from analysis.points import Vector, points
from analysis.resampling import (
    case_weights,
    cluster_index,
    corrected_residuals,
    identified,
    noise_of,
    normal_targets,
    wild_targets,
)
from analysis.uncertainty import uncertainty

POWER, SATURATING, CHINCHILLA = LAWS["power"], LAWS["saturating"], LAWS["chinchilla"]


def fitted(x: Vector, clusters: Vector | None = None, *, noise: float = 0.02, seed: int = 0) -> Fit:
    y = 0.6 * x**-0.12 * np.exp(noise * np.random.default_rng(seed).standard_normal(len(x)))
    return fit(POWER, points(x, y, clusters=clusters))


def test_seeds_of_a_cell_are_drawn_together_and_every_draw_is_of_as_many_clusters() -> None:
    found = fitted(np.repeat(np.geomspace(1e5, 1e8, 6), 3))
    drawn = case_weights(found.points, 200, np.random.default_rng(0)).reshape(200, 6, 3)
    assert (drawn == drawn[:, :, :1]).all()
    assert (drawn[:, :, 0].sum(axis=1) == 6).all()
    # each cell is drawn once on average: the mean of 200 draws of variance 5/6 is within 4 errors of 1
    assert np.abs(drawn[:, :, 0].mean(axis=0) - 1).max() < 4 * np.sqrt(5 / 6 / 200)


def test_a_trunk_is_drawn_whole_though_its_sizes_differ() -> None:
    found = fitted(np.tile(np.geomspace(1e5, 1e8, 4), 5), np.repeat(np.arange(5), 4))
    drawn = case_weights(found.points, 50, np.random.default_rng(0)).reshape(50, 5, 4)
    assert (drawn == drawn[:, :, :1]).all()


def test_points_own_weights_are_kept_and_those_of_weight_zero_are_never_drawn() -> None:
    x = np.geomspace(1e5, 1e8, 6)
    found = fit(POWER, points(x, 0.6 * x**-0.12, weights=np.array([0.0, 2, 2, 2, 2, 2])))
    drawn = case_weights(found.points, 100, np.random.default_rng(0))
    assert (drawn[:, 0] == 0).all()
    assert set(np.unique(drawn[:, 1:] / 2)) <= set(range(6))
    assert (drawn.sum(axis=1) == 10).all()
    assert cluster_index(found.points)[1] == 5


def test_a_resample_with_too_few_distinct_sizes_is_recognised() -> None:
    found = fitted(np.geomspace(1e5, 1e8, 4))
    weights = np.array([[4.0, 0, 0, 0], [2, 2, 0, 0], [2, 1, 1, 0], [1, 1, 1, 1]])
    assert identified(found, weights).tolist() == [False, False, True, True]


def test_a_resample_of_one_amount_of_data_cannot_tell_two_exponents() -> None:
    n_params, n_images = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 8), np.geomspace(1e9, 1e11, 3)))
    x = np.column_stack([n_params, n_images])
    y = CHINCHILLA.predict(x, CHINCHILLA.theta(CHINCHILLA.example))
    y = y * np.exp(0.01 * np.random.default_rng(0).standard_normal(len(y)))
    found = fit(CHINCHILLA, points(x, y))
    one_amount = (n_images == n_images.min()).astype(float)
    assert identified(found, np.stack([one_amount, np.ones(len(y))])).tolist() == [False, True]


def test_resamples_that_cannot_be_fitted_are_counted_not_used() -> None:
    estimates = uncertainty(fitted(np.geomspace(1e5, 1e8, 4)), method="bootstrap", n=400)
    # of 4^4 draws those with at most two distinct sizes: (4 + 6 x 14) / 256 = 34 %
    n_dropped = 400 - len(estimates.draws)
    assert 0.25 < n_dropped / 400 < 0.43
    assert any(f"{n_dropped} of 400 resamples left out" in warning for warning in estimates.warnings)
    assert np.isfinite(estimates.draws).all()


def test_where_most_resamples_fail_there_is_no_interval() -> None:
    x = np.geomspace(1e5, 1e8, 4)
    y = (np.exp(1) * x**-0.25 + 0.05) * np.exp(0.02 * np.random.default_rng(0).standard_normal(4))
    estimates = uncertainty(fit(SATURATING, points(x, y)), method="bootstrap", n=200)
    # only draws of all four sizes, 4!/4^4 = 9 %, could be fitted
    assert len(estimates.draws) == 0
    assert np.isnan(estimates.parameters()["b"].low)
    assert np.isnan(estimates.curve(x).low).all()


def test_wild_draws_move_a_cluster_as_one_and_by_webbs_six_numbers() -> None:
    found = fitted(np.repeat(np.geomspace(1e5, 1e8, 5), 2))
    index, n_clusters = cluster_index(found.points)
    corrected = corrected_residuals(found, index, n_clusters)
    drawn = np.log(wild_targets(found, 300, np.random.default_rng(0))) - np.log(found.predict(found.points.x))
    factors = (drawn / corrected).reshape(300, 5, 2)
    np.testing.assert_allclose(factors[:, :, 0], factors[:, :, 1], rtol=1e-6)
    np.testing.assert_allclose(np.unique(np.round(factors**2, 6)), [0.5, 1.0, 1.5])
    # mean 0 and variance 1, from 1500 numbers: within four errors
    assert abs(factors[:, :, 0].mean()) < 4 / np.sqrt(1500)
    assert (factors[:, :, 0] ** 2).mean() == pytest.approx(1, abs=4 * np.sqrt(1 / 6 / 1500))


def test_corrected_residuals_have_the_variance_of_the_noise_at_every_size() -> None:
    # For a line under equal noise the correction is exactly unbiased; 400 sets know a variance to 7 % (1 sigma).
    x = np.geomspace(1e5, 1e8, 5)
    squares = [corrected_residuals(found, *cluster_index(found.points)) ** 2 for found in sets(x, 400)]
    np.testing.assert_allclose(np.mean(squares, axis=0), 0.02**2, rtol=0.28)
    plain = [found.residuals**2 for found in sets(x, 400)]
    assert np.mean(plain, axis=0)[0] < 0.6 * 0.02**2


def sets(x: Vector, n: int) -> list[Fit]:
    return [fitted(x, seed=seed) for seed in range(n)]


def test_with_many_clusters_the_bootstraps_error_is_that_of_linear_regression() -> None:
    x = np.geomspace(1e5, 1e8, 200)
    found = fitted(x)
    known = uncertainty(found, method="delta").parameters()["b"].se
    for method in ("bootstrap", "wild"):
        # 2000 draws know an error to 1.6 %; cases of 200 points differ from the formula by another 5 %
        assert uncertainty(found, method=method, n=2000).parameters()["b"].se == pytest.approx(known, rel=0.15)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=lambda objective: objective.name)
def test_draws_of_every_objective_are_the_same_again_for_the_same_seed(objective: object) -> None:
    x = np.geomspace(1e5, 1e8, 24)
    y = fitted(x).points.y
    found = fit(POWER, points(x, y), objective=objective)  # type: ignore[arg-type]
    for method in ("bootstrap", "wild"):
        once, again = (uncertainty(found, method=method, n=50, seed=3).draws for _ in range(2))
        np.testing.assert_array_equal(once, again)
        assert not np.array_equal(once, uncertainty(found, method=method, n=50, seed=4).draws)


@pytest.mark.parametrize(("shared", "single"), [(0.03, 0.0), (0.0, 0.03), (0.03, 0.03)])
def test_drawn_noise_is_shared_in_a_cluster_as_much_as_the_datas_was(shared: float, single: float) -> None:
    # 40 clusters of 5 know a variance to a quarter; the share of it that a cluster has in common to 10 %.
    x, clusters = np.repeat(np.geomspace(1e5, 1e8, 40), 5), np.repeat(np.arange(40), 5)
    rng = np.random.default_rng(0)
    noise = shared * rng.standard_normal(40)[clusters] + single * rng.standard_normal(200)
    found = fit(POWER, points(x, 0.6 * x**-0.12 * np.exp(noise), clusters=clusters))
    targets = normal_targets(found, noise_of(found), 500, np.random.default_rng(1))
    drawn = (np.log(targets) - np.log(found.predict(found.points.x))).reshape(500, 40, 5)
    assert drawn.var() == pytest.approx(shared**2 + single**2, rel=0.5)
    means = drawn.mean(axis=2)
    common = (means.var() - drawn.var(axis=2, ddof=1).mean() / 5) / drawn.var()
    assert common == pytest.approx(shared**2 / (shared**2 + single**2), abs=0.2)


def test_drawn_noise_is_larger_where_a_point_weighs_less() -> None:
    x = np.geomspace(1e5, 1e8, 12)
    weights = np.where(np.arange(12) < 6, 1.0, 4.0)
    noise = 0.02 * np.random.default_rng(0).standard_normal(12) / np.sqrt(weights)
    found = fit(POWER, points(x, 0.6 * x**-0.12 * np.exp(noise), weights=weights))
    drawn = np.log(normal_targets(found, noise_of(found), 2000, np.random.default_rng(1)) / found.predict(x[:, None]))
    # 12,000 numbers in each half know a deviation to 0.7 %
    assert drawn[:, :6].std() / drawn[:, 6:].std() == pytest.approx(2, rel=0.04)
