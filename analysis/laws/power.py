"""y = a (x / x0)^-b: a straight line in logarithms."""

from __future__ import annotations

import numpy as np

from analysis.laws.law import Law, Parameter, Vector

MAX_EXPONENT = 10.0
"""Beyond any exponent seen in practice (0.05 to 1), so that a fit ending here says the data have no power law."""


def starts(x: Vector, y: Vector) -> list[Vector]:
    """The least-squares line through the logarithms, which for squared log residuals is the answer itself."""
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    return [np.array([intercept, -slope])]


POWER = Law(
    name="power",
    formula="error = exp(ln_a) x^-b",
    source="Hestness et al. 2017 (arXiv 1712.00409), section 2; Kaplan et al. 2020 (arXiv 2001.08361)",
    parameters=(
        Parameter(name="ln_a", meaning="logarithm of the error at x = 1", low=-np.inf, high=np.inf),
        Parameter(name="b", meaning="exponent; positive when scale helps", low=-MAX_EXPONENT, high=MAX_EXPONENT),
    ),
    log_predict=lambda x, p: p[0] - p[1] * np.log(x),
    log_gradient=lambda x, p: np.stack([np.ones_like(x), -np.log(x)], axis=1),
    starts=starts,
    example={"ln_a": -0.5, "b": 0.12},
)
