"""y = a x^-b: a straight line in logarithms."""

from __future__ import annotations

import numpy as np

from analysis.laws.law import MAX_EXPONENT, Law, Parameter
from analysis.points import Matrix, Stack, Vector


def evaluate(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    ln_x = np.log(x[:, 0])
    curves = thetas[:, :1] - thetas[:, 1:] * ln_x
    gradient = np.stack([np.ones_like(ln_x), -ln_x], axis=-1)
    return curves, np.broadcast_to(gradient, (*curves.shape, 2))


def bounds(x: Matrix, y: Vector) -> tuple[Vector, Vector]:
    return np.array([-np.inf, -MAX_EXPONENT]), np.array([np.inf, MAX_EXPONENT])


def starts(x: Matrix, y: Vector) -> Matrix:
    """The least-squares line through the logarithms, which for squared log residuals is the answer itself."""
    slope, intercept = np.polyfit(np.log(x[:, 0]), np.log(y), 1)
    return np.array([[intercept, -slope]])


POWER = Law(
    name="power",
    formula="a x^-b",
    source="Hestness et al. 2017 (arXiv 1712.00409), section 2; Kaplan et al. 2020 (arXiv 2001.08361); M1",
    inputs=("x",),
    parameters=(
        Parameter(name="a", meaning="error at x = 1", log=True),
        Parameter(name="b", meaning="exponent; positive when scale helps"),
    ),
    evaluate=evaluate,
    bounds=bounds,
    starts=starts,
    example={"a": 0.6, "b": 0.12},
    example_x=np.geomspace(1e5, 1e9, 8)[:, None],
)
