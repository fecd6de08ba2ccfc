"""y = low + (high - low) / (1 + e^(-k (x - x0))): a bounded downstream metric as a function of the loss x.

Error rises with the loss, k > 0; accuracy falls, k < 0. The limits are chance level and what no loss improves.
"""

from __future__ import annotations

import numpy as np

from analysis.laws.law import VANISHING, Law, Parameter
from analysis.laws.linear import coefficients
from analysis.points import Matrix, Stack, Vector

FAR = 7.0
"""A limit e^7 above the largest y cannot be told from none: the curve is then an exponential of the loss."""
STEEPEST = 100.0
"""k x range of x: a step between two points."""
OUTSIDE = 10.0
"""Ranges of x that the middle of the curve may lie before or beyond the data."""
GAP = 1e-3
"""The two limits stay this part of the data's range of ln y away from their middle, so that they never swap."""
STEEPNESS = np.array([0.3, 1.0, 2.0, 4.0, 8.0, 20.0])
"""|k| x range of x of the starts."""
MIDDLES = np.array([-2.0, -1.0, -0.5, -0.2, 0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0])
"""x0 of the starts, in ranges of x from its smallest."""


def evaluate(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    """Theta: ln low, ln high, k, x0. `s` is the sigmoid itself, 0-1."""
    ln_low, ln_high, k, x0 = (thetas[:, i : i + 1] for i in range(4))
    distance = x[:, 0] - x0
    t = k * distance
    ln_s, ln_rest = -np.logaddexp(0.0, -t), -np.logaddexp(0.0, t)
    curves = np.logaddexp(ln_low + ln_rest, ln_high + ln_s)
    of_low, of_high = np.exp(ln_low + ln_rest - curves), np.exp(ln_high + ln_s - curves)
    # d ln y / dt = (high - low) s (1 - s) / y
    by_t = of_high * np.exp(ln_rest) - of_low * np.exp(ln_s)
    return curves, np.stack([of_low, of_high, by_t * distance, -by_t * k], axis=-1)


def bounds(x: Matrix, y: Vector) -> tuple[Vector, Vector]:
    left, width = x[:, 0].min(), max(np.ptp(x[:, 0]), 1e-9 * np.abs(x).max())
    least, largest = np.log(y.min()), np.log(y.max())
    middle, gap = (least + largest) / 2, max(GAP * (largest - least), 1e-9)
    low = np.array([least - VANISHING, middle + gap, -STEEPEST / width, left - OUTSIDE * width])
    return low, np.array([middle - gap, largest + FAR, STEEPEST / width, left + (1 + OUTSIDE) * width])


def starts(x: Matrix, y: Vector) -> Matrix:
    """Given k and x0 the law is linear in its limits (variable projection)."""
    low, high = bounds(x, y)
    left, width = x[:, 0].min(), max(np.ptp(x[:, 0]), 1e-9 * np.abs(x).max())
    steepness = np.concatenate([STEEPNESS, -STEEPNESS]) / width
    k, x0 = (grid.ravel() for grid in np.meshgrid(steepness, left + width * MIDDLES))
    s = 1 / (1 + np.exp(-k[:, None] * (x[:, 0] - x0[:, None])))
    limits = coefficients(np.stack([1 - s, s], axis=-1), y)
    return np.clip(np.column_stack([np.log(limits), k, x0]), low, high)


SIGMOID = Law(
    name="sigmoid",
    formula="low + (high - low) / (1 + exp(-k (x - x0)))",
    source="Bhagia et al. 2024 (arXiv 2412.04403), equation 3",
    inputs=("x",),
    parameters=(
        Parameter(name="low", meaning="limit below", log=True),
        Parameter(name="high", meaning="limit above, such as the chance level of an error", log=True),
        Parameter(name="k", meaning="steepness per unit of loss; positive where y rises with the loss"),
        Parameter(name="x0", meaning="loss halfway between the limits"),
    ),
    evaluate=evaluate,
    bounds=bounds,
    starts=starts,
    example={"low": 0.15, "high": 0.75, "k": 4.0, "x0": 2.9},
    example_x=np.linspace(2.0, 4.0, 14)[:, None],
)
