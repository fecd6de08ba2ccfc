"""One fit: a law, points, an objective -> parameters, always with a status and its reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from analysis.laws.law import Law
from analysis.objective import LOG_SQUARED, Objective
from analysis.points import Matrix, Points, Vector
from analysis.solver import Solutions, minimise

AT_BOUND = 1e-6
"""Distance to a bound, relative to the larger of 1 and the bound, that counts as reaching it."""
FLAT = 1e-8
"""Smallest over largest singular value of the Jacobian with columns of length 1 that counts as rank deficient."""
TRIED = 256
"""Starts, the best by their value, that get a few steps each."""
FEW_STEPS = 12
FINISHED = 8
"""Best of those that are followed to the end."""
ENOUGH = 1e-6
"""Relative decrease of a resample's objective by a step that changes nothing anybody could see in an interval."""
ALIKE = 1e-4
"""Largest difference of thetas, relative to the larger of 1 and themselves, of two ends that are one optimum."""

RIVAL = 1.5
"""Value over the best one up to which another optimum counts as its rival."""


class Status(StrEnum):
    """What came of a fit; the value is the explanation."""

    CONVERGED = "converged"
    AT_BOUND = "a parameter stands at its bound: the data do not determine it"
    FLAT = "other parameters fit as well: the data do not determine them"
    UNIDENTIFIED = "this design cannot tell the law's parameters apart"
    TOO_FEW = "fewer distinct sizes than parameters plus one"
    NOT_FINITE = "a size or an error is missing or infinite"
    NOT_POSITIVE = "a size or an error of zero or below has no logarithm"
    NOT_CONVERGED = "the optimiser stopped before it converged"

    @property
    def usable(self) -> bool:
        """Whether there are parameters to predict with."""
        return self in (Status.CONVERGED, Status.AT_BOUND, Status.FLAT)

    @property
    def key(self) -> str:
        """Short and fit for machines: converged, at_bound, ..."""
        return self.name.lower()


@dataclass(frozen=True, kw_only=True)
class Fit:
    law: Law
    points: Points
    """What was fitted."""
    objective: Objective
    status: Status
    reason: str
    """The status in the words of this fit: which parameter, which design; empty when it converged."""
    theta: Vector
    """(p,) as the optimiser has them, `law.natural(theta)` for people. Empty unless the status is usable: a failed fit
    is no number."""
    value: float
    """Of the objective, a sum over points; NaN without parameters."""
    optima: Matrix
    """(m, p) distinct local optima found, the best first: where refits start."""

    def predict(self, x: Matrix) -> Vector:
        """y (n,) at x (n, k)."""
        return self.law.predict(x, self.theta)

    @property
    def parameters(self) -> dict[str, float]:
        """Natural values by name; empty for a failed fit."""
        if not self.status.usable:
            return {}
        return dict(zip(self.law.names, map(float, self.law.natural(self.theta)), strict=True))

    @property
    def free(self) -> int:
        """Degrees of freedom left: points that weigh anything minus parameters."""
        return int((self.points.weights > 0).sum()) - len(self.law.parameters)

    @property
    def residuals(self) -> Vector:
        """(n,) in the objective's unit: prediction minus y, of logarithms or plain."""
        return self.objective.residuals(self.law.log_predict(self.points.x, self.theta), self.points.y)


def fit(law: Law, points: Points, *, objective: Objective = LOG_SQUARED) -> Fit:
    """The best optimum from all of the law's starts. Never raises for data that cannot be fitted; the status says so.

    Every start is scored, the best `TRIED` get `FEW_STEPS` steps, the best `FINISHED` of these are followed to the end.
    """
    status, reason = _unfit(law, points)
    if status is not None:
        return _failed(law, points, objective, status, reason)
    low, high = law.bounds(points.x, points.y)
    ends = _search(law, points, objective, low, high)
    ends = _best_first(ends)
    if not ends.converged[0]:
        return _failed(law, points, objective, Status.NOT_CONVERGED, Status.NOT_CONVERGED.value)
    theta = ends.thetas[0]
    status, reason = _judged(law, points, theta, low, high)
    return Fit(
        law=law,
        points=points,
        objective=objective,
        status=status,
        reason=reason,
        theta=theta,
        value=float(ends.values[0]),
        optima=_distinct(_rivals(ends).thetas),
    )


def refits(found: Fit, *, weights: Matrix | None = None, targets: Matrix | None = None) -> tuple[Matrix, Vector]:
    """Thetas (B, p) and values (B,) of resamples, from every optimum of the fit; NaN where none converged.

    weights (B, n): of each resample (counts x the points' own), else the points'. targets (B, n): y of each resample.
    """
    points, optima = found.points, found.optima
    used = points.weights if weights is None else weights
    measured = points.y if targets is None else targets
    n_members = len(used) if weights is not None else len(measured)
    low, high = found.law.bounds(points.x, points.y)
    best_thetas = np.full((n_members, len(low)), np.nan)
    best_values = np.full(n_members, np.inf)
    for optimum in optima:
        starts = np.broadcast_to(optimum, best_thetas.shape)
        ends = minimise(found.law.evaluate, points.x, measured, used, starts, low, high, found.objective, enough=ENOUGH)
        better = ends.converged & (ends.values < best_values)
        best_thetas[better], best_values[better] = ends.thetas[better], ends.values[better]
    return best_thetas, np.where(np.isfinite(best_values), best_values, np.nan)


def _unfit(law: Law, points: Points) -> tuple[Status | None, str]:
    """Why there can be no fit."""
    x, y = points.x, points.y
    if not (np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(points.weights).all()):
        return Status.NOT_FINITE, Status.NOT_FINITE.value
    n_distinct = len(np.unique(x[points.weights > 0], axis=0))
    if n_distinct <= len(law.parameters):
        return Status.TOO_FEW, f"{n_distinct} distinct sizes for {len(law.parameters)} parameters; one more is needed"
    positive = [name not in law.may_be_zero for name in law.inputs]
    if (x < 0).any() or (x[:, positive] <= 0).any() or (y <= 0).any():
        return Status.NOT_POSITIVE, Status.NOT_POSITIVE.value
    if why := law.unidentified(x):
        return Status.UNIDENTIFIED, why
    return None, ""


def _failed(law: Law, points: Points, objective: Objective, status: Status, reason: str) -> Fit:
    nothing = np.empty(0)
    return Fit(
        law=law,
        points=points,
        objective=objective,
        status=status,
        reason=reason,
        theta=nothing,
        value=np.nan,
        optima=np.empty((0, len(law.parameters))),
    )


def _search(law: Law, points: Points, objective: Objective, low: Vector, high: Vector) -> Solutions:
    with np.errstate(all="ignore"):  # a start that is no number is none
        starts = np.clip(law.starts(points.x, points.y), low, high)
        starts = starts[np.isfinite(starts).all(axis=1)]
        values = objective.values(law.evaluate(points.x, starts)[0], points.y, points.weights)
    best = starts[np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")[:TRIED]]

    def descend(starts: Matrix, most_steps: int) -> Solutions:
        return minimise(
            law.evaluate,
            points.x,
            points.y,
            points.weights,
            starts,
            low,
            high,
            objective,
            most_steps=most_steps,
        )

    if len(best) > FINISHED:
        ends = descend(best, FEW_STEPS)
        order = np.argsort(np.where(np.isfinite(ends.values), ends.values, np.inf), kind="stable")
        best = _distinct(ends.thetas[order], most=FINISHED)  # whether or not a start has converged already
    return descend(best, 1000)


def _best_first(ends: Solutions) -> Solutions:
    """Converged ones before others, then by value."""
    order = np.lexsort((np.where(np.isfinite(ends.values), ends.values, np.inf), ~ends.converged))
    return Solutions(thetas=ends.thetas[order], values=ends.values[order], converged=ends.converged[order])


def _rivals(ends: Solutions) -> Solutions:
    """Ends that a resample might prefer to the best one."""
    near = ends.converged & (ends.values <= RIVAL * ends.values[0])
    near[0] = True
    return Solutions(thetas=ends.thetas[near], values=ends.values[near], converged=ends.converged[near])


def _distinct(thetas: Matrix, most: int = 3) -> Matrix:
    """The first `most` of (S, p) that are not alike."""
    kept: list[Vector] = []
    for theta in thetas:
        scale = np.maximum(1.0, np.abs(theta))
        if all((np.abs(theta - other) > ALIKE * scale).any() for other in kept):
            kept.append(theta)
        if len(kept) == most:
            break
    return np.array(kept)


def _judged(law: Law, points: Points, theta: Vector, low: Vector, high: Vector) -> tuple[Status, str]:
    """At a bound, flat, or converged."""
    stuck = []
    for parameter, value, bottom, top in zip(law.parameters, theta, low, high, strict=True):
        for bound, side in ((bottom, "lower"), (top, "upper")):
            width = min(1.0, top - bottom) if np.isfinite(top - bottom) else 1.0
            if np.isfinite(bound) and abs(value - bound) <= AT_BOUND * width * max(1.0, abs(bound)):
                stuck.append(f"{parameter.name} stands at its {side} bound, {parameter.natural(np.asarray(bound)):.3g}")
    if stuck:
        return Status.AT_BOUND, "; ".join(stuck) + ": the data do not determine it"
    jacobian = law.log_gradient(points.x, theta) * np.sqrt(points.weights)[:, None]
    length = np.linalg.norm(jacobian, axis=0)
    if (length == 0).any():
        unseen = [name for name, size in zip(law.names, length, strict=True) if size == 0]
        return Status.FLAT, f"no point depends on {', '.join(unseen)}"
    singular = np.linalg.svd(jacobian / length, compute_uv=False)
    if singular[-1] < FLAT * singular[0]:
        return Status.FLAT, Status.FLAT.value
    return Status.CONVERGED, ""
