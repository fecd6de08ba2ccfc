"""The mixture law: its limits, its optimum, and what no set of mixtures can tell."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fit import Status, fit
from analysis.laws.mixture import mixture, optimum
from analysis.points import points

LAW = mixture(("ct", "mr"))
TRUTH = LAW.theta(LAW.example)


def with_values(**values: float) -> np.ndarray:
    return LAW.theta(LAW.example | values)


def test_one_modality_alone_is_a_chinchilla_law() -> None:
    x = np.array([[1e7, 1e5, 1.0, 0.0], [1e8, 1e6, 0.0, 1.0]])
    v = LAW.example
    expected = [
        v["E"] + v["A"] * 1e7 ** -v["alpha"] + v["B[ct]"] * 1e5 ** -v["beta"],
        v["E"] + v["A"] * 1e8 ** -v["alpha"] + v["B[mr]"] * 1e6 ** -v["beta"],
    ]
    np.testing.assert_allclose(LAW.predict(x, TRUTH), expected, rtol=1e-12)


def test_at_gamma_one_images_replace_each_other_at_a_fixed_rate() -> None:
    # gamma = kappa beta = 1: T^(-1/beta) = sum_j B_j^(-1/beta) h_j D, a plain sum of images.
    beta = LAW.example["beta"]
    theta = with_values(kappa=1 / beta)
    x = np.array([[1e7, 1e5, 0.3, 0.7]])
    worth = {m: LAW.example[f"B[{m}]"] ** (-1 / beta) for m in ("ct", "mr")}
    effective = 1e5 * (0.3 * worth["ct"] + 0.7 * worth["mr"])
    expected = LAW.example["E"] + LAW.example["A"] * 1e7 ** -LAW.example["alpha"] + effective**-beta
    np.testing.assert_allclose(LAW.predict(x, theta), [expected], rtol=1e-12)


@pytest.mark.parametrize("kappa", [0.5, 1.6, 2.5])
def test_no_mixture_of_a_fine_grid_is_better_than_the_optimum(kappa: float) -> None:
    theta = with_values(kappa=kappa)
    best = optimum(theta[None])[0]
    shares = np.linspace(0, 1, 2001)
    x = np.column_stack([np.full(2001, 1e8), np.full(2001, 1e6), shares, 1 - shares])
    grid = LAW.predict(x, theta)
    at_best = LAW.predict(np.array([[1e8, 1e6, *best]]), theta)[0]
    assert at_best <= grid.min() * (1 + 1e-12)
    assert best[0] == pytest.approx(shares[grid.argmin()], abs=1e-3)


def test_above_gamma_one_the_better_modality_takes_all() -> None:
    np.testing.assert_allclose(optimum(with_values(kappa=5.0)[None])[0], [1, 0], atol=1e-9)


def test_planted_parameters_and_the_optimum_are_found_again_without_noise() -> None:
    law = mixture(("ct", "mr", "us"))
    truth = law.theta(law.example)
    found = fit(law, points(law.example_x, law.predict(law.example_x, truth)))
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.theta, truth, rtol=1e-6)
    derived = {d.name: d.compute(found.theta[None])[0] for d in law.derived}
    assert derived["gamma"] == pytest.approx(0.3 * 1.6, rel=1e-6)
    np.testing.assert_allclose([derived[f"best_share_{m}"] for m in ("ct", "mr", "us")], optimum(truth[None])[0])


def test_with_noise_the_optimum_is_near_the_planted_one() -> None:
    y = LAW.predict(LAW.example_x, TRUTH)
    best = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = fit(LAW, points(LAW.example_x, y * np.exp(0.01 * rng.standard_normal(len(y)))))
        best.append(optimum(found.theta[None])[0, 0])
    truth = optimum(TRUTH[None])[0, 0]
    assert abs(np.mean(best) - truth) < 0.05
    assert np.std(best) < 0.1


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([[1e6, 1e4, 0.5, 0.4], [1e7, 1e5, 1, 0]], "do not add up to 1"),
        ([[1e6, 1e4, 1.0, 0.0], [1e7, 1e5, 1, 0]], "no point has images of mr"),
        ([[1e6, 1e4, 0.5, 0.5], [1e7, 1e5, 0.5, 0.5]], "span 1 directions, too few to tell 2 modalities apart"),
        ([[1e6, 1e4, 1.0, 0.0], [1e6, 1e5, 0, 1]], "one n_params alone"),
        ([[1e6, 1e4, 1.0, 0.0], [1e7, 1e4, 0, 1]], "one n_images alone"),
    ],
)
def test_designs_that_cannot_tell_say_why(rows: list[list[float]], why: str) -> None:
    assert why in LAW.unidentified(np.array(rows))
