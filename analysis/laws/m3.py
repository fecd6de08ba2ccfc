"""y = beta (1/x + gamma)^-c: a power law that bends into its limit instead of adding one."""

from __future__ import annotations

import numpy as np

from analysis.laws.law import MAX_EXPONENT, VANISHING, Law, Parameter
from analysis.points import Matrix, Stack, Vector

BENDS = 80
"""Values of gamma to start from; between two neighbours beta and c change smoothly."""
EARLY = 5.0
"""ln of how far before the smallest x the bend may lie: there y has all but reached its limit."""


def evaluate(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    """Theta: ln beta, c, ln gamma. `share` is the part of 1/x + gamma that no x removes, 0-1."""
    inverse = np.logaddexp(-np.log(x[:, 0]), thetas[:, 2:])
    share = np.exp(thetas[:, 2:] - inverse)
    c = thetas[:, 1:2]
    gradient = np.stack([np.ones_like(inverse), -inverse, -c * share], axis=-1)
    return thetas[:, :1] - c * inverse, gradient


def bounds(x: Matrix, y: Vector) -> tuple[Vector, Vector]:
    ln_x = np.log(x[:, 0])
    low = np.array([-np.inf, -MAX_EXPONENT, -ln_x.max() - VANISHING])
    return low, np.array([np.inf, 0.0, -ln_x.min() + EARLY])


def starts(x: Matrix, y: Vector) -> Matrix:
    """Given gamma, ln y is a straight line in ln(1/x + gamma)."""
    low, high = bounds(x, y)
    ln_gamma = np.linspace(low[2], high[2], BENDS)
    inverse = np.logaddexp(-np.log(x[:, 0]), ln_gamma[:, None])
    centred = inverse - inverse.mean(axis=1, keepdims=True)
    squares = np.maximum((centred**2).sum(axis=1), np.finfo(float).tiny)
    c = np.clip(-(centred @ np.log(y)) / squares, -MAX_EXPONENT, 0.0)
    return np.column_stack([np.log(y).mean() + c * inverse.mean(axis=1), c, ln_gamma])


M3 = Law(
    name="m3",
    formula="beta (1/x + gamma)^-c",
    source="Alabdulmohsin et al. 2022 (arXiv 2209.06640), M3",
    inputs=("x",),
    parameters=(
        Parameter(name="beta", meaning="error at 1/x + gamma = 1", log=True),
        Parameter(name="c", meaning="minus the exponent of 1/x; negative when scale helps"),
        Parameter(name="gamma", meaning="1 / the x at which the curve bends into its limit", log=True),
    ),
    evaluate=evaluate,
    bounds=bounds,
    starts=starts,
    example={"beta": 2.0, "c": -0.15, "gamma": 1e-8},
    example_x=np.geomspace(1e5, 1e10, 9)[:, None],
)
