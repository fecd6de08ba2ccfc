"""Draws of several fits keep the luck that their runs have in common."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fit import Fit, fit
from analysis.laws import LAWS
from analysis.optima.paired import paired
from analysis.points import points
from analysis.uncertainty import uncertainty

POWER = LAWS["power"]


def fits(n: int, shared: float, *, shift: float = 1.0) -> list[Fit]:
    """Two tasks of the same runs, whose noise correlates by `shared`; `shift` makes the second of other sizes."""
    rng, x = np.random.default_rng(3), np.geomspace(1e3, 1e7, n)
    luck = rng.standard_normal(n)
    noise = [np.sqrt(shared) * luck + np.sqrt(1 - shared) * rng.standard_normal(n) for _ in range(2)]
    order = rng.permutation(n)  # the runs of a table stand in any order
    y = [4 * x**-0.3 * np.exp(0.05 * one) for one in noise]
    return [
        fit(POWER, points(x, y[0])),
        fit(POWER, points((x * shift)[order], y[1][order])),
    ]


@pytest.mark.parametrize(("n", "method"), [(12, "parametric"), (60, "bootstrap")])
def test_draws_of_the_same_runs_correlate_as_their_residuals(n: int, method: str) -> None:
    both = fits(n, 0.9)
    drawn = paired(both, n=2000, seed=0, level=0.95)
    assert (drawn.method, drawn.together) == (method, True)
    b = [thetas[:, 1] for thetas in drawn.thetas]
    # residuals of 12 runs with a true correlation of 0.9 lie within 0.15 of it; the slopes' luck is the residuals'
    assert np.corrcoef(*b)[0, 1] == pytest.approx(0.9, abs=0.2)
    alone = uncertainty(both[0], method=drawn.method, n=2000, seed=1)
    low, high = np.percentile(b[0], [2.5, 97.5])
    known = alone.of(lambda thetas: thetas[:, 1])
    np.testing.assert_allclose([low, high], [known.low, known.high], atol=0.15 * (known.high - known.low))


def test_fits_of_other_runs_are_drawn_one_by_one() -> None:
    for n in (12, 60):
        drawn = paired(fits(n, 0.9, shift=1.5), n=2000, seed=0, level=0.95)
        assert not drawn.together
        assert abs(np.corrcoef(drawn.thetas[0][:, 1], drawn.thetas[1][:, 1])[0, 1]) < 0.1  # 2 / sqrt(2000) is 0.045


def test_without_freedom_or_enough_resamples_there_are_no_draws() -> None:
    assert not len(paired(fits(12, 0.5), n=20, seed=0, level=0.95).thetas[0])
    x = np.geomspace(1e3, 1e6, 4)
    two_trunks = fit(POWER, points(x, 4 * x**-0.3, clusters=np.array([0, 0, 1, 1])))
    assert not len(paired([two_trunks, two_trunks], n=100, seed=0, level=0.95).thetas[0])
