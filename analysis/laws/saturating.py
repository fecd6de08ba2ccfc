"""y = a x^-b + c: a power law above a floor that scale does not remove."""

from __future__ import annotations

import numpy as np

from analysis.laws.law import Law, Matrix, Parameter, Vector
from analysis.laws.power import MAX_EXPONENT


def log_predict(x: Vector, p: Vector) -> Vector:
    """Sum of exponentials in logarithms, so that no term overflows."""
    return np.asarray(np.logaddexp(p[0] - p[1] * np.log(x), p[2]), np.float64)


def log_gradient(x: Vector, p: Vector) -> Matrix:
    """`share` is the removable part of the error, 0-1."""
    share = np.exp(p[0] - p[1] * np.log(x) - log_predict(x, p))
    return np.stack([share, -share * np.log(x), 1 - share], axis=1)


def starts(x: Vector, y: Vector) -> list[Vector]:
    """Lines through ln(y - c) for floors from almost none to almost the smallest error."""
    found = []
    for share in (0.01, 0.3, 0.6, 0.8, 0.9, 0.95, 0.99):
        floor = share * y.min()
        slope, intercept = np.polyfit(np.log(x), np.log(y - floor), 1)
        found.append(np.array([intercept, np.clip(-slope, 1e-3, MAX_EXPONENT), np.log(floor)]))
    return found


SATURATING = Law(
    name="saturating",
    formula="error = exp(ln_a) x^-b + exp(ln_c)",
    source="Alabdulmohsin et al. 2022 (arXiv 2209.06640), M2",
    parameters=(
        Parameter(name="ln_a", meaning="logarithm of the removable error at x = 1", low=-50.0, high=150.0),
        Parameter(name="b", meaning="exponent", low=0.0, high=MAX_EXPONENT),
        Parameter(name="ln_c", meaning="logarithm of the floor", low=-30.0, high=0.0),
    ),
    log_predict=log_predict,
    log_gradient=log_gradient,
    starts=starts,
    example={"ln_a": 1.0, "b": 0.25, "ln_c": -3.0},
)
