"""The choice of a law against planted curves: the right form, the right sizes, an interval that says what is open."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.laws import LAWS
from analysis.points import Points, Vector, points
from analysis.select import GOOD, select
from analysis.uncertainty import uncertainty

QUICK = [LAWS[name] for name in ("power", "saturating", "m3")]
X = np.geomspace(1e6, 1e9, 10)
BEYOND = np.geomspace(2e9, 8e9, 3)


def noisy(y: Vector, x: Vector = X, *, noise: float = 0.003, seed: int = 0) -> Points:
    return points(x, y * np.exp(noise * np.random.default_rng(seed).standard_normal(len(x))))


def floored(x: Vector) -> Vector:
    return np.asarray(300 * x**-0.45 + 0.2)


def test_a_floor_is_found_and_foretold_beyond_the_data() -> None:
    chosen = select(noisy(floored(X)), QUICK)
    assert chosen.winner is not None
    assert chosen.winner.law.name == "saturating"
    # noise of 0.3 % a point, ten points, three parameters: 1 % at eight times the data
    np.testing.assert_allclose(chosen.predict(BEYOND), floored(BEYOND), rtol=0.01)


def test_without_noise_the_simplest_of_equal_laws_wins() -> None:
    chosen = select(points(X, 3 * X**-0.2), QUICK)
    assert [c.law.name for c in chosen.good] == ["power"]
    np.testing.assert_allclose(chosen.predict(BEYOND), 3 * BEYOND**-0.2, rtol=1e-8)


def test_early_sizes_of_another_regime_are_left_out() -> None:
    x = np.geomspace(1e5, 1e9, 15)
    early = 3 * x**-0.2 * (1 + 2 * np.exp(-((x / 2e5) ** 2)))
    chosen = select(noisy(early, x, noise=1e-3), [LAWS["power"]])
    assert chosen.winner is not None
    assert chosen.winner.left_out > 0
    assert len(chosen.winner.fit.points) == 15 - chosen.winner.left_out
    np.testing.assert_allclose(chosen.predict(BEYOND), 3 * BEYOND**-0.2, rtol=0.01)


def test_scores_are_the_errors_of_smaller_fits_on_larger_sizes() -> None:
    given = noisy(floored(X))
    candidate = next(c for c in select(given, QUICK).candidates if c.law.name == "power")
    cut, error = next(iter(candidate.errors.items()))
    slope, intercept = np.polyfit(np.log(X[candidate.left_out : cut]), np.log(given.y[candidate.left_out : cut]), 1)
    missed = intercept + slope * np.log(X[cut:]) - np.log(given.y[cut:])
    assert error == pytest.approx(np.sqrt(np.mean(missed**2)), rel=1e-6)


def test_good_laws_are_near_the_best_and_share_the_prediction() -> None:
    chosen = select(noisy(3 * X**-0.2), QUICK)
    assert chosen.winner is not None
    assert sum(c.weight for c in chosen.good) == pytest.approx(1.0)
    assert all(c.score <= GOOD * chosen.winner.score for c in chosen.good)
    assert all(c.weight == 0 for c in chosen.candidates if c not in chosen.good)
    logs = [c.weight * np.log(c.fit.predict(BEYOND[:, None])) for c in chosen.good]
    np.testing.assert_allclose(chosen.predict(BEYOND), np.exp(np.sum(logs, axis=0)), rtol=1e-12)


def test_disagreement_of_good_laws_widens_the_interval() -> None:
    chosen = select(noisy(floored(X), noise=0.01), QUICK)
    assert len(chosen.good) > 1
    band, runs = chosen.curve(BEYOND), chosen.new_runs(BEYOND)
    assert ((band.low < band.value) & (band.value < band.high)).all()
    assert ((runs.low < band.low) & (band.high < runs.high)).all()
    each = np.stack([c.fit.predict(BEYOND[:, None]) for c in chosen.good])
    weights = np.array([c.weight for c in chosen.good])
    spread = np.sqrt(weights @ (np.log(each) - np.log(band.value)) ** 2)
    assert (np.log(band.high / band.value) > spread).all()


def test_laws_that_foretold_worse_widen_the_interval_too_by_the_inverse_of_their_score() -> None:
    chosen = select(noisy(floored(X)), QUICK)
    scored = [c for c in chosen.candidates if c.applicable]
    assert len(scored) > len(chosen.good) == 1
    odds = np.array([1 / c.score for c in scored])
    alone, band = uncertainty(chosen.good[0].fit).curve(BEYOND), chosen.curve(BEYOND)
    far = np.log(np.stack([c.fit.predict(BEYOND[:, None]) for c in scored]) / band.value)
    own = np.log(alone.high / alone.value)
    expected = np.sqrt(own**2 + 1.959964**2 * (odds / odds.sum()) @ far**2)
    np.testing.assert_allclose(np.log(band.high / band.value), expected, rtol=1e-5)


def test_laws_that_cannot_be_used_stay_in_the_table_with_a_reason() -> None:
    five = noisy(floored(X[::2]), X[::2])
    chosen = select(five, [*QUICK, LAWS["broken1"], LAWS["m4"]])
    refused = {c.law.name: c.reason for c in chosen.candidates if not c.applicable}
    assert "5 distinct sizes for 6 parameters" in refused["broken1"]
    assert "5 distinct sizes for 5 parameters" in refused["m4"]
    assert chosen.winner is not None


def test_three_sizes_give_the_simplest_law_and_say_why() -> None:
    chosen = select(noisy(floored(X[:3]), X[:3]), QUICK)
    assert chosen.winner is not None
    assert chosen.winner.law.name == "power"
    assert "too few sizes" in chosen.reason


def test_no_usable_law_is_a_reason_and_no_number() -> None:
    chosen = select(noisy(floored(X[:2]), X[:2]), QUICK)
    assert chosen.winner is None
    assert "distinct sizes" in chosen.reason
    with pytest.raises(ValueError, match="no law to predict with"):
        chosen.predict(BEYOND)


def test_neither_units_nor_the_order_of_rows_change_the_choice() -> None:
    given = noisy(floored(X))
    order = np.random.default_rng(1).permutation(len(X))
    mine, other = select(given, QUICK), select(points(given.x[order] * 1e-6, given.y[order] * 7), QUICK)
    assert [c.law.name for c in mine.candidates] == [c.law.name for c in other.candidates]
    np.testing.assert_allclose(other.predict(BEYOND * 1e-6), 7 * mine.predict(BEYOND), rtol=1e-5)
