"""(y - eps_inf) / (eps_0 - y)^alpha = beta x^c: from a limit before learning to a limit after it.

Fitted as y - eps_inf = b x^c ((eps_0 - y) / (eps_0 - eps_inf))^alpha, beta = b (eps_0 - eps_inf)^-alpha: b has the unit
of y, and where no upper limit is seen b, c and eps_inf are those of M2 whatever alpha and eps_0.

Implicit in y. With s = (y - eps_inf) / (eps_0 - eps_inf) and t = logit s it reads h(t) = r, where
h(t) = t + (alpha - 1) ln(1 + e^t) and r = ln b + c ln x - ln(eps_0 - eps_inf). h increases and is convex or concave
throughout, so that Newton's method converges from one side without safeguards.
"""

from __future__ import annotations

import numpy as np

from analysis.laws.law import MAX_EXPONENT, VANISHING, Derived, Law, Parameter
from analysis.laws.lines import weighted_lines
from analysis.points import Matrix, Stack, Vector

LEAST_ALPHA = 0.1
"""At 0 nothing holds y below eps_0; just above, the law is M2 with its upper limit cut off."""
FAR = 5.0
"""An upper limit e^7 above the largest error cannot be told from none."""
GAP = 1e-3
"""The two limits stay this part of the data's range of ln y away from their middle, so that they never meet."""
NEWTON = 60
"""Steps at most; about eight are needed, more only where alpha is near its least."""
BELOW = np.array([1.0, 0.4, 0.15, 0.05, 0.01])
"""eps_inf of the starts: the smallest y less these parts of it."""
ABOVE = np.array([0.003, 0.05, 0.5, 5.0])
"""eps_0 of the starts: the largest y plus these parts of it."""
KEPT = 3
"""Starts: the others end in the same narrow valley, and each costs as much as the first."""


def softplus(t: Matrix) -> Matrix:
    return np.logaddexp(0.0, t)


def solve_logit(r: Matrix, alpha: Matrix) -> Matrix:
    """t with t + (alpha - 1) ln(1 + e^t) = r, alpha > 0.

    h lies below its asymptotes t and alpha t where alpha < 1 (h concave) and above them where alpha > 1 (h convex): the
    root of the nearer asymptote is on the side of t from which Newton's steps go monotonically to the root.
    """
    bend = alpha - 1
    t = np.where(bend < 0, np.maximum(r, r / alpha), np.minimum(r, r / alpha))
    for _ in range(NEWTON):
        step = (t + bend * softplus(t) - r) / (1 + bend * _logistic(t))
        t = t - step
        if (np.abs(step) <= 1e-8 * (1 + np.abs(t))).all():  # the error left is of the order of the step's square
            break
    return t


def _logistic(t: Matrix) -> Matrix:
    return np.exp(-softplus(-t))


def _ln_span(ln_inf: Matrix, ln_0: Matrix) -> Matrix:
    return ln_0 + np.log(-np.expm1(ln_inf - ln_0))


def _ln_beta(thetas: Matrix) -> Vector:
    return thetas[:, 0] - np.exp(thetas[:, 2]) * _ln_span(thetas[:, 3], thetas[:, 4])


def evaluate(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    """Theta: ln b, c, ln alpha, ln eps_inf, ln eps_0; the gradient by the implicit function theorem."""
    ln_x = np.log(x[:, 0])
    ln_b, c, ln_alpha, ln_inf, ln_0 = (thetas[:, i : i + 1] for i in range(5))
    alpha = np.exp(ln_alpha)
    ln_span = _ln_span(ln_inf, ln_0)
    t = solve_logit(ln_b + c * ln_x - ln_span, alpha)
    ln_s, ln_rest = -softplus(-t), -softplus(t)
    curves = np.logaddexp(ln_inf + ln_rest, ln_0 + ln_s)
    # d ln y / d r: of y by t, over that of h by t
    by_r = np.exp(ln_span - curves + ln_s + ln_rest) / (np.exp(ln_rest) + alpha * np.exp(ln_s))
    gradient = np.stack(
        [
            by_r,
            by_r * ln_x,
            by_r * alpha * ln_rest,
            np.exp(ln_inf + ln_rest - curves) + by_r * np.exp(ln_inf - ln_span),
            np.exp(ln_0 + ln_s - curves) - by_r * np.exp(ln_0 - ln_span),
        ],
        axis=-1,
    )
    return curves, gradient


def bounds(x: Matrix, y: Vector) -> tuple[Vector, Vector]:
    """The limits on either side of the middle of the data: noise may carry points beyond a limit."""
    least, largest = np.log(y.min()), np.log(y.max())
    middle, gap = (least + largest) / 2, max(GAP * (largest - least), 1e-9)
    low = np.array([-np.inf, -MAX_EXPONENT, np.log(LEAST_ALPHA), least - VANISHING, middle + gap])
    return low, np.array([np.inf, 0.0, np.log(MAX_EXPONENT), middle - gap, largest + FAR])


def starts(x: Matrix, y: Vector) -> Matrix:
    """Given the two limits, ln(y - eps_inf) is linear in ln x and ln(eps_0 - y), as the authors fit it.

    Weighted so that a residual counts as one of ln y does, by the alpha of an unweighted line.
    """
    low, high = bounds(x, y)
    eps_inf, eps_0 = (grid.ravel() for grid in np.meshgrid(y.min() * (1 - BELOW), y.max() * (1 + ABOVE)))
    above, below = y - eps_inf[:, None], eps_0[:, None] - y
    ln_rest = np.log(below) - np.log(eps_0 - eps_inf)[:, None]
    columns = np.stack([np.ones_like(above), np.broadcast_to(np.log(x[:, 0]), above.shape), ln_rest], axis=-1)
    alpha = np.ones((len(eps_inf), 1))
    for _ in range(2):
        weights = 1 / (y / above + alpha * y / below)
        lines = weighted_lines(columns, np.log(above), weights)
        alpha = np.clip(lines[:, 2:], LEAST_ALPHA, MAX_EXPONENT)
    floors = np.log(np.maximum(eps_inf, np.finfo(float).tiny))
    found = np.clip(np.column_stack([lines[:, :2], np.log(alpha), floors, np.log(eps_0)]), low, high)
    missed = ((evaluate(x, found)[0] - np.log(y)) ** 2).sum(axis=1)
    return found[np.argsort(missed, kind="stable")[:KEPT]]


M4 = Law(
    name="m4",
    formula="y - eps_inf = b x^c ((eps_0 - y) / (eps_0 - eps_inf))^alpha",
    source="Alabdulmohsin et al. 2022 (arXiv 2209.06640), M4",
    inputs=("x",),
    parameters=(
        Parameter(name="b", meaning="removable error at x = 1, were there no upper limit", log=True),
        Parameter(name="c", meaning="exponent late in the curve; negative when scale helps"),
        Parameter(
            name="alpha", meaning="how slowly the curve leaves eps_0: early on eps_0 - y goes as x^(-c/alpha)", log=True
        ),
        Parameter(name="eps_inf", meaning="floor: the error that scale does not remove", log=True),
        Parameter(name="eps_0", meaning="error before learning", log=True),
    ),
    evaluate=evaluate,
    bounds=bounds,
    starts=starts,
    example={"b": 2000.0, "c": -0.5, "alpha": 0.7, "eps_inf": 0.1, "eps_0": 0.9},
    example_x=np.geomspace(1e4, 1e10, 16)[:, None],
    derived=(
        Derived(
            name="ln_beta",
            meaning="ln of the source's beta in (y - eps_inf) / (eps_0 - y)^alpha = beta x^c",
            compute=_ln_beta,
        ),
    ),
)
