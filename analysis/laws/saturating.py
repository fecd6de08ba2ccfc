"""y = a x^-b + c: a power law above a floor that scale does not remove."""

from __future__ import annotations

import numpy as np

from analysis.laws.law import MAX_EXPONENT, VANISHING, Law, Parameter
from analysis.laws.linear import coefficients
from analysis.points import Matrix, Stack, Vector

EXPONENTS = np.geomspace(0.01, 5.0, 40)
"""Of the starts; between two neighbours the best floor and coefficient change smoothly."""


def evaluate(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    """Sum of exponentials in logarithms, so that no term overflows; `share` is the removable part of y, 0-1."""
    ln_x = np.log(x[:, 0])
    removable = thetas[:, :1] - thetas[:, 1:2] * ln_x
    curves = np.logaddexp(removable, thetas[:, 2:])
    share = np.exp(removable - curves)
    return curves, np.stack([share, -share * ln_x, 1 - share], axis=-1)


def bounds(x: Matrix, y: Vector) -> tuple[Vector, Vector]:
    low = np.array([-np.inf, 0.0, np.log(y.min()) - VANISHING])
    return low, np.array([np.inf, MAX_EXPONENT, np.log(y.max())])


def starts(x: Matrix, y: Vector) -> Matrix:
    """Given the exponent the law is linear: floor and coefficient are solved for (variable projection)."""
    ln_x = np.log(x[:, 0])
    centre = ln_x.mean()
    powers = np.exp(-EXPONENTS[:, None] * (ln_x - centre))
    solved = coefficients(np.stack([powers, np.ones_like(powers)], axis=-1), y)
    return np.column_stack([np.log(solved[:, 0]) + EXPONENTS * centre, EXPONENTS, np.log(solved[:, 1])])


SATURATING = Law(
    name="saturating",
    formula="a x^-b + c",
    source="Alabdulmohsin et al. 2022 (arXiv 2209.06640), M2",
    inputs=("x",),
    parameters=(
        Parameter(name="a", meaning="removable error at x = 1", log=True),
        Parameter(name="b", meaning="exponent"),
        Parameter(name="c", meaning="floor: the error that scale does not remove", log=True),
    ),
    evaluate=evaluate,
    bounds=bounds,
    starts=starts,
    example={"a": 2.7, "b": 0.25, "c": 0.05},
    example_x=np.geomspace(1e5, 1e9, 8)[:, None],
)
