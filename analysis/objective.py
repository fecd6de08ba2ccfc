"""What a fit makes small, by name: a weighted SUM over points of a loss of each residual.

A sum, never a mean: with the mean the optimisers of published fits stopped too early (Besiroglu et al. 2024, arXiv
2404.10102, section 3). Ours stops by relative steps, so that neither the number of points nor a weight common to all
moves the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.points import Matrix, Vector

HUBER_DELTA = 1e-3
"""Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3: nearly the absolute residual, so bad runs weigh little."""
LARGEST_LOG = 690.0
"""Beyond it exp() leaves the range of numbers; a curve there is cut, far from any optimum."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Sum of weight x loss(residual)."""

    name: str
    logs: bool
    """Residual = ln prediction - ln y; else prediction - y in y's own unit."""
    delta: float | None
    """Corner of Huber's loss, in the residual's unit; None: half the square."""
    overestimate: float = 1.0
    """Weight of points predicted above their y. Above 1 the curve follows the lower envelope, as for runs that may be
    under-tuned (a practice of model ladders); 1 treats both sides alike."""

    def residuals(self, curves: Matrix, targets: Vector | Matrix) -> Matrix:
        """Of ln predictions (B, n) against y (n,) or (B, n)."""
        return curves - np.log(targets) if self.logs else np.exp(np.minimum(curves, LARGEST_LOG)) - targets

    def losses(self, residuals: Matrix) -> Matrix:
        if self.delta is None:
            loss = 0.5 * residuals**2
        else:
            size = np.abs(residuals)
            inside = np.minimum(size, self.delta)
            loss = inside * (size - 0.5 * inside)
        return loss if self.overestimate == 1 else loss * np.where(residuals > 0, self.overestimate, 1.0)

    def pull(self, residuals: Matrix) -> Matrix:
        """Derivative of the loss."""
        pull = residuals if self.delta is None else np.clip(residuals, -self.delta, self.delta)
        return pull if self.overestimate == 1 else pull * np.where(residuals > 0, self.overestimate, 1.0)

    def values(self, curves: Matrix, targets: Vector | Matrix, weights: Vector | Matrix) -> Vector:
        """(B,) the objective of each curve."""
        return np.sum(weights * self.losses(self.residuals(curves, targets)), axis=-1)

    def with_delta(self, delta: float) -> Objective:
        return self if self.delta is None else replace(self, delta=delta)


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective(name="log_huber", logs=True, delta=HUBER_DELTA),
        Objective(name="log_squared", logs=True, delta=None),
        Objective(name="squared", logs=False, delta=None),
        Objective(name="huber", logs=False, delta=HUBER_DELTA),
    )
}
LOG_HUBER, LOG_SQUARED, SQUARED = OBJECTIVES["log_huber"], OBJECTIVES["log_squared"], OBJECTIVES["squared"]
