"""Which parameters categories share, and which of two wins at a size that neither has: on planted series."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.compare import duel, patterns, sharing
from analysis.fit import Status, fit
from analysis.laws import LAWS
from analysis.laws.across import across
from analysis.points import Matrix, Points, Vector, points

POWER, SATURATING = LAWS["power"], LAWS["saturating"]
GROUPS = ("mae", "dinov2", "simclr")
SIZES = np.geomspace(1e6, 1e9, 6)


def design(n_groups: int = 3, sizes: Vector = SIZES) -> Matrix:
    return np.array([[x, g + 1.0] for g in range(n_groups) for x in sizes])


def planted(exponents: tuple[float, ...], seed: int, noise: float = 0.02) -> Points:
    """Power laws through 0.3, 0.33, ... at the smallest size."""
    x = design(len(exponents))
    g = x[:, 1].astype(int) - 1
    y = 0.3 * (1 + 0.1 * g) * (x[:, 0] / 1e6) ** -np.array(exponents)[g]
    return points(x, y * np.exp(noise * np.random.default_rng(seed).standard_normal(len(x))))


def test_a_shared_exponent_is_the_pooled_within_category_slope() -> None:
    given = planted((0.1, 0.12, 0.14), 0)
    found = fit(across(POWER, GROUPS, ("a",)), given)
    assert found.law.names == ("a[mae]", "a[dinov2]", "a[simclr]", "b")
    ln_x, ln_y = np.log(given.x[:, 0]).reshape(3, -1), np.log(given.y).reshape(3, -1)
    u, v = ln_x - ln_x.mean(axis=1, keepdims=True), ln_y - ln_y.mean(axis=1, keepdims=True)
    assert found.parameters["b"] == pytest.approx(-(u * v).sum() / (u**2).sum(), rel=1e-9)


def test_with_everything_separate_each_category_has_its_own_fit() -> None:
    given = planted((0.05, 0.12, 0.3), 1)
    found = fit(across(POWER, GROUPS, ("a", "b")), given)
    for g, name in enumerate(GROUPS):
        mine = given.x[:, 1] == g + 1
        alone = fit(POWER, points(given.x[mine, 0], given.y[mine]))
        assert found.parameters[f"b[{name}]"] == pytest.approx(alone.parameters["b"], rel=1e-8)


def test_with_nothing_separate_the_category_does_not_matter() -> None:
    given = planted((0.1, 0.1, 0.1), 2)
    assert fit(across(POWER, GROUPS, ()), given).parameters["b"] == pytest.approx(
        fit(POWER, points(given.x[:, 0], given.y)).parameters["b"], rel=1e-9
    )


def test_a_parameter_that_the_law_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match="law power has no parameter alpha; it has a, b"):
        across(POWER, GROUPS, ("alpha",))


def test_a_category_without_points_is_named() -> None:
    given = planted((0.1, 0.1), 0)
    found = fit(across(POWER, GROUPS, ("a", "b")), given)
    assert (found.status, found.reason) == (Status.UNIDENTIFIED, "no point of simclr")


@pytest.mark.parametrize("separate", [("a",), ("a", "c"), ("a", "b", "c"), ()])
def test_planted_parameters_of_a_saturating_law_are_found_again(separate: tuple[str, ...]) -> None:
    law = across(SATURATING, GROUPS, separate)
    truth = law.theta(law.example) + 0.05 * np.arange(len(law.parameters))
    found = fit(law, points(law.example_x, law.predict(law.example_x, truth)))
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.theta, truth, rtol=1e-6)


def test_the_test_of_sharing_is_that_of_linear_regression() -> None:
    given = planted((0.1, 0.12, 0.14), 3)
    tests = {test.parameter: test for test in sharing(POWER, GROUPS, given)}
    # analysis of covariance: slopes of each its own against the pooled one
    ln_x, ln_y = np.log(given.x[:, 0]).reshape(3, -1), np.log(given.y).reshape(3, -1)
    u, v = ln_x - ln_x.mean(axis=1, keepdims=True), ln_y - ln_y.mean(axis=1, keepdims=True)
    own = (v**2).sum() - sum((u[g] @ v[g]) ** 2 / (u[g] @ u[g]) for g in range(3))
    pooled = (v**2).sum() - (u * v).sum() ** 2 / (u**2).sum()
    assert tests["b"].free == 18 - 6
    assert tests["b"].f == pytest.approx((pooled - own) / 2 / (own / 12), rel=1e-8)


def test_equal_exponents_are_rejected_as_often_as_stated_and_different_ones_mostly() -> None:
    def rejected(exponents: tuple[float, ...]) -> int:
        tests = [{t.parameter: t for t in sharing(POWER, GROUPS, planted(exponents, seed))} for seed in range(100)]
        return sum(test["b"].p < 0.05 for test in tests)

    # binomial(100, .05): at most 11 with probability .996. Slopes .05 apart are five standard errors (.0036 each).
    assert rejected((0.1, 0.1, 0.1)) <= 11
    assert rejected((0.1, 0.125, 0.15)) >= 95


def test_the_best_pattern_shares_the_exponent_that_was_planted_as_shared() -> None:
    best = [patterns(POWER, GROUPS, planted((0.1, 0.1, 0.1), seed))[0].separate for seed in range(20)]
    assert best.count(("a",)) >= 14
    assert patterns(POWER, GROUPS, planted((0.05, 0.15, 0.3), 0))[0].separate == ("a", "b")


def test_too_few_points_are_no_test_and_say_so() -> None:
    x = design(2, SIZES[:1])
    tests = sharing(POWER, GROUPS[:2], points(x, 1 / x[:, 0]))
    assert all(np.isnan(test.p) and "distinct sizes" in test.status for test in tests)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_of_size_changes_neither_tests_nor_the_best_pattern(unit: float) -> None:
    given = planted((0.1, 0.12, 0.14), 3)
    other = points(given.x * np.array([unit, 1.0]), given.y)
    for mine, theirs in zip(sharing(POWER, GROUPS, given), sharing(POWER, GROUPS, other), strict=True):
        assert theirs.p == pytest.approx(mine.p, rel=1e-6)
    best, same = patterns(POWER, GROUPS, given)[0], patterns(POWER, GROUPS, other)[0]
    assert (same.separate, same.aicc) == (best.separate, pytest.approx(best.aicc, rel=1e-6))


def duels(slope: float, n: int) -> list[float]:
    found = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        luck = np.exp(0.1 * rng.standard_normal(5))  # of the size, shared by both series
        x = SIZES[:5]
        one = 0.2 * (x / 1e8) ** -(0.1 + slope) * luck * np.exp(0.01 * rng.standard_normal(5))
        other = 0.2 * (x / 1e8) ** -0.1 * luck * np.exp(0.01 * rng.standard_normal(5))
        found.append(duel("a", "b", points(x, one), points(x, other), x=1e8).p_first)
    return found


def test_the_probability_of_winning_is_uniform_where_both_are_equal() -> None:
    # At x = 1e8 the planted ratio is 1 whatever the slopes. Share below .05 and above .95 of 200: binomial(200, .1).
    p = np.array(duels(0.0, 200))
    assert 8 <= ((p < 0.05) | (p > 0.95)).sum() <= 34
    assert 0.43 < p.mean() < 0.57


def test_a_series_that_falls_faster_wins_beyond_where_they_cross_and_shared_luck_cancels() -> None:
    x = SIZES
    one, other = 0.3 * (x / 1e6) ** -0.2, 0.2 * (x / 1e6) ** -0.1  # they cross at 1e6 x 1.5^10 = 5.8e7
    rng = np.random.default_rng(0)
    luck, noise = np.exp(0.3 * rng.standard_normal(6)), np.exp(0.01 * rng.standard_normal(6))
    found = duel("a", "b", points(x, one * luck * noise), points(x, other * luck), x=1e10)
    assert found.times_beyond == pytest.approx(10)
    assert found.p_first > 0.99
    assert found.low < 1.5 * 1e4**-0.1 < found.high


def test_series_with_few_common_sizes_are_not_compared() -> None:
    found = duel("a", "b", points(SIZES[:4], 1 / SIZES[:4]), points(SIZES[2:], 1 / SIZES[2:]), x=1e10)
    assert found.status == "2 common sizes; at least 3 are needed"
    assert np.isnan(found.p_first)
    exact = duel("a", "b", points(SIZES, 1 / SIZES), points(SIZES, 2 / SIZES), x=1e10)
    assert "no scatter" in exact.status
    assert np.isnan(exact.p_first)
