"""Objectives: their losses, derivatives, and the side they favour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.objective import LOG_HUBER, LOG_SQUARED, OBJECTIVES, SQUARED, Objective

every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())


@every_objective
@pytest.mark.parametrize("overestimate", [1.0, 10.0])
def test_the_pull_is_the_derivative_of_the_loss(objective: Objective, overestimate: float) -> None:
    objective = replace(objective, overestimate=overestimate)
    r = np.array([-0.5, -2e-3, -3e-4, 2e-4, 1.5e-3, 0.7])  # none within h of a corner
    h = 1e-7
    numeric = (objective.losses(r + h) - objective.losses(r - h)) / (2 * h)
    # rounding 1e-16 x loss / h with losses below 2: 2e-9
    np.testing.assert_allclose(objective.pull(r), numeric, atol=1e-8)


def test_hubers_loss_is_half_the_square_within_its_corner_and_linear_beyond() -> None:
    delta = LOG_HUBER.delta
    assert delta == 1e-3
    assert LOG_HUBER.losses(np.array([5e-4]))[0] == pytest.approx(0.5 * 5e-4**2, rel=1e-12)
    assert LOG_HUBER.losses(np.array([-1.0]))[0] == pytest.approx(1e-3 * (1 - 0.5e-3), rel=1e-12)


def test_residuals_are_of_logarithms_or_plain() -> None:
    curves, y = np.log([[0.2, 0.4]]), np.array([0.1, 0.4])
    np.testing.assert_allclose(LOG_SQUARED.residuals(curves, y), [[np.log(2), 0]], atol=1e-15)
    np.testing.assert_allclose(SQUARED.residuals(curves, y), [[0.1, 0]], atol=1e-15)


def test_points_predicted_too_high_may_weigh_more() -> None:
    lower = replace(LOG_SQUARED, overestimate=10.0)
    assert lower.losses(np.array([0.1]))[0] == pytest.approx(10 * lower.losses(np.array([-0.1]))[0])


def test_another_corner_is_another_objective_and_squares_have_none() -> None:
    assert LOG_HUBER.with_delta(0.01).delta == 0.01
    assert LOG_SQUARED.with_delta(0.01) is LOG_SQUARED
