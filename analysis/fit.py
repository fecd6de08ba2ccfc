"""The one optimiser call: a law, positive data, an objective -> parameters, always with a status and its reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from scipy.optimize import least_squares

from analysis.laws.law import Law, Matrix, Vector

Objective = Literal["log_squared", "log_huber"]
"""Sum over points of r^2 / 2, or of Huber's function of r with its corner at HUBER_DELTA; r = ln y - ln prediction."""
HUBER_DELTA = 1e-3
"""Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3: nearly the absolute residual, so bad runs weigh little."""
AT_BOUND = 1e-6
"""Distance to a bound, relative to the larger of 1 and the bound, that counts as reaching it."""
FLAT = 1e-8
"""Smallest over largest singular value of the Jacobian with columns of length 1 that counts as rank deficient."""


class Status(StrEnum):
    """What came of a fit; the value is the explanation."""

    CONVERGED = "converged"
    AT_BOUND = "a parameter stands at its bound: the data do not determine it"
    FLAT = "other parameters fit as well: the data do not determine them"
    TOO_FEW = "fewer distinct sizes than parameters plus one"
    NOT_FINITE = "a size or an error is missing or infinite"
    NOT_POSITIVE = "a size or an error of zero or below has no logarithm"
    NOT_CONVERGED = "the optimiser stopped before it converged"

    @property
    def usable(self) -> bool:
        """Whether there are parameters to predict with."""
        return self in (Status.CONVERGED, Status.AT_BOUND, Status.FLAT)


@dataclass(frozen=True, kw_only=True)
class Fit:
    law: Law
    objective: Objective
    status: Status
    parameters: Vector
    """Empty unless the status is usable: a failed fit is no number."""
    value: float
    """Of the objective; NaN without parameters."""
    x: Vector
    y: Vector
    """The points fitted: one per distinct size, the geometric mean of its seeds; all runs where the fit failed."""
    n_runs: int
    """Runs behind the points."""

    def predict(self, x: Vector) -> Vector:
        return self.law.predict(x, self.parameters)


def cell_means(x: Vector, y: Vector) -> tuple[Vector, Vector]:
    """Distinct x and the geometric mean of y at each.

    Seeds of one size share whatever else is peculiar to that size (a learning rate that suits it, say), so they are no
    independent evidence on the size's effect: each size counts once, however many seeds it has. Intervals from these
    points are exact for equal numbers of seeds, and approximate for unequal ones.
    """
    sizes, index = np.unique(x, return_inverse=True)
    return sizes, np.exp(np.bincount(index, np.log(y)) / np.bincount(index))


def fit(law: Law, x: Vector, y: Vector, *, objective: Objective = "log_squared") -> Fit:
    """The best of all starting points. Never raises for data that cannot be fitted; the status says so."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def failed(status: Status) -> Fit:
        nothing = np.empty(0)
        return Fit(
            law=law, objective=objective, status=status, parameters=nothing, value=np.nan, x=x, y=y, n_runs=len(y)
        )

    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return failed(Status.NOT_FINITE)
    if len(np.unique(x)) <= len(law.parameters):
        return failed(Status.TOO_FEW)
    if (x <= 0).any() or (y <= 0).any():
        return failed(Status.NOT_POSITIVE)
    n_runs = len(y)
    x, y = cell_means(x, y)
    best = _best(law, x, y, objective)
    if best is None:
        return failed(Status.NOT_CONVERGED)
    parameters, value = best
    status = Status.CONVERGED
    if _flat(law.log_gradient(x, parameters)):
        status = Status.FLAT
    if _at_bound(law, parameters):
        status = Status.AT_BOUND
    return Fit(law=law, objective=objective, status=status, parameters=parameters, value=value, x=x, y=y, n_runs=n_runs)


def _best(law: Law, x: Vector, y: Vector, objective: Objective) -> tuple[Vector, float] | None:
    low = np.array([parameter.low for parameter in law.parameters])
    high = np.array([parameter.high for parameter in law.parameters])
    solutions = [
        least_squares(
            lambda p: law.log_predict(x, p) - np.log(y),
            np.clip(start, low + 1e-9, high - 1e-9),
            jac=lambda p: law.log_gradient(x, p),
            bounds=(low, high),
            loss="linear" if objective == "log_squared" else "huber",
            f_scale=HUBER_DELTA,
            x_scale="jac",
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-14,
            max_nfev=2000,
        )
        for start in law.starts(x, y)
    ]
    converged = [solution for solution in solutions if solution.status > 0]
    if not converged:
        return None
    best = min(converged, key=lambda solution: float(solution.cost))
    return best.x, float(best.cost)


def _flat(jacobian: Matrix) -> bool:
    length = np.linalg.norm(jacobian, axis=0)
    if (length == 0).any():
        return True
    singular = np.linalg.svd(jacobian / length, compute_uv=False)
    return bool(singular[-1] < FLAT * singular[0])


def _at_bound(law: Law, parameters: Vector) -> bool:
    return any(
        np.isfinite(bound) and abs(value - bound) <= AT_BOUND * max(1.0, abs(bound))
        for parameter, value in zip(law.parameters, parameters, strict=True)
        for bound in (parameter.low, parameter.high)
    )
