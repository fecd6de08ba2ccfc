"""The one optimiser: many fits of a law at once, each a damped Newton iteration between bounds.

Good at: a few parameters, up to thousands of members (starts, resamples, profiles) that share their inputs. A step
solves (H + damping diag G) s = -gradient. G = J' W J with Huber's weights psi(r)/r majorises the objective, so a step
with it always makes progress when short; H is the exact Hessian (the law's second derivatives by differences of its
gradient) once a member is near its optimum and the exact one is positive definite, which makes the end quadratic even
where most residuals lie beyond Huber's corner. Guaranteed: the objective never rises by more than rounding; where
`converged`, a stationary point between the bounds. Not guaranteed: the global one, which is the business of starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.objective import LARGEST_LOG, Objective
from analysis.points import Matrix, Stack, Vector

Evaluate = Callable[[Matrix, Matrix], tuple[Matrix, Stack]]
Mask = NDArray[np.bool_]

STEP = 1e-11
"""Largest relative step of any parameter (relative to the larger of 1 and itself) at which a member has converged."""
ROUNDING = 4e-15
"""Relative rise of the objective that is rounding and no reason to refuse a step."""
NEAR = 1e-2
"""Relative decrease by a step below which the exact Hessian is tried."""
DIFFERENCE = 1e-6
"""Step of the differences of the gradient: error 1e-6 relative by truncation, 1e-10 by rounding; enough for Newton."""
UNSEEN = 1e-13
"""Promised relative decrease that the rounding of a sum over points may hide."""
MOST_UNSEEN = 6
"""Such steps after which a member stands as near its optimum as numbers can tell."""
MOST_DAMPING = 1e16
"""At it a member stands where no step however short makes progress: a stationary point, to rounding."""
CHUNK = 1 << 17
"""Numbers of one Jacobian worked on at a time, 1 MB: more falls out of the cache."""


@dataclass(frozen=True, kw_only=True)
class Solutions:
    thetas: Matrix
    """(B, p)."""
    values: Vector
    """(B,) of the objective."""
    converged: Mask
    """(B,)."""


def minimise(
    evaluate: Evaluate,
    x: Matrix,
    targets: Vector | Matrix,
    weights: Vector | Matrix,
    starts: Matrix,
    low: Vector | Matrix,
    high: Vector | Matrix,
    objective: Objective,
    *,
    most_steps: int = 300,
) -> Solutions:
    """The local optimum of each member from its start.

    x (n, k) is shared; targets, weights (n,) or (B, n); starts (B, p); low, high (p,) or (B, p), equal where a
    parameter is pinned. The law must be finite between the bounds.
    """
    n_members, p = starts.shape
    at_once = max(1, CHUNK // max(1, len(x) * p))
    parts = [slice(i, i + at_once) for i in range(0, n_members, at_once)]
    low, high = (np.broadcast_to(bound, starts.shape) for bound in (low, high))

    def part(given: Vector | Matrix, rows: slice) -> Vector | Matrix:
        return given if given.ndim == 1 else given[rows]

    with np.errstate(over="ignore", under="ignore"):
        solved = [
            _Members(
                evaluate, x, part(targets, rows), part(weights, rows), starts[rows], low[rows], high[rows], objective
            ).run(most_steps)
            for rows in parts
        ]
    if not solved:
        return Solutions(thetas=starts, values=np.empty(0), converged=np.empty(0, bool))
    return Solutions(
        thetas=np.concatenate([s.thetas for s in solved]),
        values=np.concatenate([s.values for s in solved]),
        converged=np.concatenate([s.converged for s in solved]),
    )


class _Members:
    """The state of one chunk; those that have converged leave the arrays."""

    def __init__(
        self,
        evaluate: Evaluate,
        x: Matrix,
        targets: Vector | Matrix,
        weights: Vector | Matrix,
        starts: Matrix,
        low: Matrix,
        high: Matrix,
        objective: Objective,
    ) -> None:
        self.evaluate, self.x, self.objective = evaluate, x, objective
        n, n_points = len(starts), len(x)
        self.measured = np.log(targets) if objective.logs else targets
        self.measured = np.broadcast_to(self.measured, (n, n_points))
        self.weights = np.broadcast_to(weights, (n, n_points))
        self.low, self.high = low, high
        self.thetas = np.clip(starts, low, high)
        self.residuals, self.jacobians = self._look(self.thetas, self.measured)
        self.values = self._value(self.residuals, self.weights)
        self.damping = np.full(n, 1e-3)
        self.near = np.zeros(n, bool)
        self.unseen = np.zeros(n, np.int64)
        self.ids = np.arange(n)
        self.done = Solutions(thetas=self.thetas.copy(), values=self.values.copy(), converged=np.zeros(n, bool))

    def _look(self, thetas: Matrix, measured: Matrix) -> tuple[Matrix, Stack]:
        curves, jacobians = self.evaluate(self.x, thetas)
        if self.objective.logs:
            return curves - measured, jacobians
        predicted = np.exp(np.minimum(curves, LARGEST_LOG))
        return predicted - measured, jacobians * predicted[..., None]

    def _value(self, residuals: Matrix, weights: Matrix) -> Vector:
        return np.einsum("bn,bn->b", weights, self.objective.losses(residuals))

    def run(self, most_steps: int) -> Solutions:
        for _ in range(most_steps):
            if not len(self.ids):
                break
            self._step()
        self._store(np.ones(len(self.ids), bool), converged=False)
        return self.done

    def _store(self, which: Mask, *, converged: bool) -> None:
        ids = self.ids[which]
        self.done.thetas[ids], self.done.values[ids] = self.thetas[which], self.values[which]
        self.done.converged[ids] = converged

    def _step(self) -> None:
        pull = self.weights * self.objective.pull(self.residuals)
        gradient = np.einsum("bn,bnp->bp", pull, self.jacobians)
        majoriser = self._majoriser(pull)
        fixed = (self.low == self.high) | ((self.thetas <= self.low) & (gradient > 0))
        fixed |= (self.thetas >= self.high) & (gradient < 0)
        hessian = self._hessian(majoriser, pull, fixed)
        step = _solve(hessian, majoriser, gradient, self.damping, fixed)
        tried = np.clip(self.thetas + step, self.low, self.high)
        step = tried - self.thetas
        residuals, jacobians = self._look(tried, self.measured)
        values = self._value(residuals, self.weights)
        size = np.abs(self.values)
        promised = -0.5 * np.einsum("bp,bp->b", gradient, step)
        # where rounding hides what a step promises, the gradient knows better than the objective
        unseen = (promised < UNSEEN * size) & (np.abs(values - self.values) <= 10 * UNSEEN * size)
        self.unseen += unseen
        better = np.isfinite(values) & ((values <= self.values + ROUNDING * size) | unseen)
        small = (np.abs(step) <= STEP * np.maximum(1.0, np.abs(tried))).all(axis=1)
        fell = (self.values - values) / np.maximum(self.values, np.finfo(float).tiny)
        self.near = np.where(better, fell < NEAR, self.near)
        self.damping = np.where(better, np.maximum(self.damping * 0.1, 1e-15), self.damping * 6)
        keep = better[:, None]
        self.thetas = np.where(keep, tried, self.thetas)
        self.values = np.where(better, values, self.values)
        self.residuals = np.where(keep, residuals, self.residuals)
        self.jacobians = np.where(keep[..., None], jacobians, self.jacobians)
        # a short step by heavy damping proves nothing
        arrived = (better & small & (self.damping < 1e-2)) | (self.values == 0)
        arrived |= (self.unseen >= MOST_UNSEEN) | (~better & (self.damping > MOST_DAMPING))
        if arrived.any():
            self._store(arrived, converged=True)
            self._keep(~arrived)

    def _keep(self, which: Mask) -> None:
        for name in ("ids", "measured", "weights", "low", "high", "thetas", "residuals"):
            setattr(self, name, getattr(self, name)[which])
        for name in ("jacobians", "values", "damping", "near", "unseen"):
            setattr(self, name, getattr(self, name)[which])

    def _majoriser(self, pull: Matrix) -> Stack:
        """J' W J (B, p, p), W = weight x psi(r) / r, which is the weight itself for squares."""
        if self.objective.delta is None and self.objective.overestimate == 1:
            weights = self.weights
        else:
            tiny = self.residuals == 0
            weights = np.where(tiny, self.weights, pull / np.where(tiny, 1.0, self.residuals))
        return np.swapaxes(self.jacobians * weights[..., None], 1, 2) @ self.jacobians

    def _hessian(self, majoriser: Stack, pull: Matrix, fixed: Mask) -> Stack:
        """The exact Hessian of those members that are near, where it is positive definite on their free parameters."""
        near = np.flatnonzero(self.near)
        if not len(near):
            return majoriser
        thetas, measured, p = self.thetas[near], self.measured[near], self.thetas.shape[1]
        exact = np.empty((len(near), p, p))
        for j in range(p):
            # towards the inside, so that the law is never asked beyond its bounds
            room = self.high[near, j] - thetas[:, j]
            h = np.where(room > DIFFERENCE, DIFFERENCE, -DIFFERENCE) * np.maximum(1.0, np.abs(thetas[:, j]))
            moved = thetas.copy()
            moved[:, j] += h
            jacobians = self._look(moved, measured)[1]
            exact[:, j] = np.einsum("bn,bnp->bp", pull[near], jacobians - self.jacobians[near]) / h[:, None]
        exact = (exact + np.swapaxes(exact, 1, 2)) / 2
        inside = self.weights[near]
        if self.objective.overestimate != 1:
            inside = inside * np.where(self.residuals[near] > 0, self.objective.overestimate, 1.0)
        if self.objective.delta is not None:
            inside = inside * (np.abs(self.residuals[near]) <= self.objective.delta)
        exact += np.swapaxes(self.jacobians[near] * inside[..., None], 1, 2) @ self.jacobians[near]
        free = _identity_where(exact, fixed[near])
        scale = 1 / np.sqrt(np.maximum(np.abs(np.einsum("bpp->bp", free)), np.finfo(float).tiny))
        scaled = free * scale[:, :, None] * scale[:, None, :]
        usable = np.isfinite(scaled).all(axis=(1, 2))
        lowest = np.linalg.eigvalsh(np.where(usable[:, None, None], scaled, 0.0))[:, 0]
        good = usable & (lowest > 1e-10)
        hessian = majoriser.copy()
        hessian[near[good]] = exact[good]
        return hessian


def _identity_where(matrices: Stack, fixed: Mask) -> Stack:
    """Rows and columns of fixed parameters replaced by those of the identity."""
    free = ~fixed
    eye = np.eye(matrices.shape[-1])
    return np.where(free[:, :, None] & free[:, None, :], matrices, eye)


def _solve(hessian: Stack, majoriser: Stack, gradient: Matrix, damping: Vector, fixed: Mask) -> Matrix:
    """Damped steps (B, p), zero for fixed parameters, in units in which the majoriser has a diagonal of 1."""
    diagonal = np.einsum("bpp->bp", majoriser)
    largest = diagonal.max(axis=1, keepdims=True)
    scale = 1 / np.sqrt(np.maximum(diagonal, np.maximum(largest * 1e-24, np.finfo(float).tiny)))
    p = gradient.shape[1]
    scaled = hessian * scale[:, :, None] * scale[:, None, :] + (damping[:, None, None] + 1e-15) * np.eye(p)
    free = _identity_where(scaled, fixed)
    right = np.where(fixed, 0.0, -gradient * scale)
    step = np.linalg.solve(free, right[..., None])[..., 0] * scale
    return np.where(np.isfinite(step), step, 0.0)
