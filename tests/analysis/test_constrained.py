"""The data-constrained law at its edges: no repeats, endless repeats, and where a model suits its images."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fit import Status, fit
from analysis.laws.chinchilla import CHINCHILLA
from analysis.laws.constrained import CONSTRAINED
from analysis.points import points

THETA = CONSTRAINED.theta(CONSTRAINED.example)
A, B, E, ALPHA, BETA, R_D, R_N = CONSTRAINED.example.values()
IMAGES = 1e8
SUITED = (ALPHA * A / (BETA * B) * IMAGES**BETA) ** (1 / ALPHA)


def loss(n_params: float, n_images: float, images_seen: float) -> float:
    return float(CONSTRAINED.predict(np.array([[n_params, n_images, images_seen]]), THETA)[0])


def test_without_repeats_and_with_models_that_suit_their_images_it_is_chinchillas_law() -> None:
    x = np.array([(n, u, u) for u in (1e7, 1e8, 1e9) for n in (1e4, 1e5)])
    np.testing.assert_allclose(CONSTRAINED.predict(x, THETA), CHINCHILLA.predict(x[:, :2], THETA[:5]), rtol=1e-13)


def test_fewer_images_seen_than_there_are_means_fewer_unique_ones() -> None:
    assert loss(1e5, 1e9, 1e7) == loss(1e5, 1e7, 1e7)


def test_endless_repeats_are_worth_r_d_more_data_sets() -> None:
    expected = E + A * 1e5**-ALPHA + B * (IMAGES * (1 + R_D)) ** -BETA
    assert loss(1e5, IMAGES, IMAGES * 1e6) == pytest.approx(expected, rel=1e-12)


def test_four_epochs_are_nearly_as_good_as_new_images() -> None:
    """Muennighoff et al. 2023, section 5: up to four epochs repeats make hardly any difference."""
    data_term = (loss(1e5, IMAGES, 4 * IMAGES) - loss(1e5, 4 * IMAGES, 4 * IMAGES)) / (B * (4 * IMAGES) ** -BETA)
    assert 0 < data_term < 0.04


def test_parameters_beyond_what_suits_the_images_are_worth_ever_less() -> None:
    expected = E + A * (SUITED * (1 + R_N)) ** -ALPHA + B * IMAGES**-BETA
    assert loss(SUITED * 1e6, IMAGES, IMAGES) == pytest.approx(expected, rel=1e-12)


def test_law_and_gradient_are_continuous_where_the_model_suits_its_images() -> None:
    x = SUITED * np.array([1 - 1e-9, 1 + 1e-9])
    curves, gradient = CONSTRAINED.evaluate(np.column_stack([x, [IMAGES] * 2, [IMAGES] * 2]), THETA[None])
    # 2e-9 apart in ln N, times slopes of order 10
    np.testing.assert_allclose(curves[0, 0], curves[0, 1], atol=1e-7)
    np.testing.assert_allclose(gradient[0, 0], gradient[0, 1], atol=1e-7)


def test_a_table_without_repeats_is_refused_with_the_way_out() -> None:
    x = CONSTRAINED.example_x
    x = x[x[:, 1] == x[:, 2]]
    found = fit(CONSTRAINED, points(x, CONSTRAINED.predict(x, THETA)))
    assert found.status is Status.UNIDENTIFIED
    assert "no run sees an image twice" in found.reason
    assert "the law chinchilla can be fitted" in found.reason


def test_models_that_all_suit_their_images_leave_r_n_undetermined() -> None:
    x = np.array([(n, u, u * e) for n in (1e4, 1e5, 1e6) for u in (1e9, 1e10, 1e11) for e in (1, 8, 40)])
    found = fit(CONSTRAINED, points(x, CONSTRAINED.predict(x, THETA)))
    assert found.status in (Status.FLAT, Status.AT_BOUND)
    assert "R_N" in found.reason
    assert found.parameters["R_D"] == pytest.approx(R_D, rel=1e-4)
