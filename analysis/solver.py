"""The one optimiser: many fits of a law at once, each a damped Newton iteration between bounds.

Good at: a few parameters, up to thousands of members (starts, resamples, profiles) that share their inputs; narrow
curved valleys, which laws of many parameters have. A step solves (H + damping diag G) s = -gradient and is bent along
the law's curvature. G = J' W J with Huber's weights psi(r)/r majorises the objective to first order, so a short enough
step with it makes progress; near the optimum H counts only points within Huber's corner, as the Hessian does, which
ends in few steps where G would crawl. Guaranteed: the objective never rises by more than rounding. Not guaranteed: the
global optimum, which is the business of starts.
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
"""Relative decrease by a step below which H is tried."""
UNSEEN = 1e-13
"""Promised relative decrease that the rounding of a sum over points may hide."""
AHEAD = 0.1
"""Part of a step at which the law's curvature along it is measured."""
MOST_BEND = 0.4
"""Largest correction for curvature, relative to the step, that is believed."""
MOST_UNSEEN = 6
"""Such steps after which a member stands as near its optimum as numbers can tell."""
MANY_STEPS, STANDS = 50, 1e-9
"""A relative decrease by so many steps that is none."""
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
    enough: float = 0.0,
) -> Solutions:
    """The local optimum of each member from its start.

    enough: relative decrease of the objective by a step from which on a member counts as converged too: resamples are
    not asked for more digits than their scatter has.

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
                evaluate,
                x,
                part(targets, rows),
                part(weights, rows),
                starts[rows],
                low[rows],
                high[rows],
                objective,
                enough,
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
        enough: float,
    ) -> None:
        self.evaluate, self.x, self.enough = evaluate, x, enough
        n, n_points = len(starts), len(x)
        # plain residuals in units of y's own size, so that no unit of y makes squares vanish
        self.ln_scale = 0.0 if objective.logs else float(np.log(targets).mean())
        self.objective = objective if objective.delta is None else objective.with_delta(self._per(objective.delta))
        measured = np.log(targets) if objective.logs else np.exp(np.log(targets) - self.ln_scale)
        self.measured = np.broadcast_to(measured, (n, n_points))
        self.weights = np.broadcast_to(weights, (n, n_points))
        self.low, self.high = low, high
        span = np.where(np.isfinite(high - low), high - low, 1.0)
        self.unit = np.where(span > 0, np.minimum(span, 1.0), 1.0)  # of parameters that are all small
        self.thetas = np.clip(starts, low, high)
        self.residuals, self.jacobians = self._look(self.thetas, self.measured)
        self.values = self._value(self.residuals, self.weights)
        self.damping = np.full(n, 1e-3)
        self.near = np.zeros(n, bool)
        self.unseen = np.zeros(n, np.int64)
        self.n_steps, self.before = 0, self.values.copy()
        self.ids = np.arange(n)
        self.done = Solutions(thetas=self.thetas.copy(), values=self.values.copy(), converged=np.zeros(n, bool))

    def _look(self, thetas: Matrix, measured: Matrix) -> tuple[Matrix, Stack]:
        curves, jacobians = self.evaluate(self.x, thetas)
        if self.objective.logs:
            return curves - measured, jacobians
        predicted = np.exp(np.minimum(curves - self.ln_scale, LARGEST_LOG))
        return predicted - measured, jacobians * predicted[..., None]

    def _per(self, size: float) -> float:
        """A residual in the solver's unit."""
        return float(np.exp(np.log(size) - self.ln_scale))

    def _value(self, residuals: Matrix, weights: Matrix) -> Vector:
        return np.einsum("bn,bn->b", weights, self.objective.losses(residuals))

    def run(self, most_steps: int) -> Solutions:
        for _ in range(most_steps):
            if not len(self.ids):
                break
            self._step()
        self._store(np.ones(len(self.ids), bool), converged=False)
        values = self.done.values * np.exp(2 * self.ln_scale)
        return Solutions(thetas=self.done.thetas, values=values, converged=self.done.converged)

    def _store(self, which: Mask, *, converged: bool) -> None:
        ids = self.ids[which]
        self.done.thetas[ids], self.done.values[ids] = self.thetas[which], self.values[which]
        self.done.converged[ids] = converged

    def _step(self) -> None:
        pull = self.weights * self.objective.pull(self.residuals)
        gradient = np.einsum("bn,bnp->bp", pull, self.jacobians)
        weights = self._majorising(pull)
        majoriser = np.swapaxes(self.jacobians * weights[..., None], 1, 2) @ self.jacobians
        fixed = (self.low == self.high) | ((self.thetas <= self.low) & (gradient > 0))
        fixed |= (self.thetas >= self.high) & (gradient < 0)
        hessian = self._hessian(majoriser, fixed)
        step = _solve(hessian, majoriser, gradient, self.damping, fixed)
        step = step + self._bend(step, weights, hessian, majoriser, fixed)
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
        small = (np.abs(step) <= STEP * self.unit * np.maximum(1.0, np.abs(tried))).all(axis=1)
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
        arrived |= better & (fell < self.enough) & (promised < self.enough * size) & (self.damping < 1e-2)
        arrived |= self._stands()
        arrived |= (self.unseen >= MOST_UNSEEN) | (~better & (self.damping > MOST_DAMPING))
        if arrived.any():
            self._store(arrived, converged=True)
            self._keep(~arrived)

    def _stands(self) -> Mask:
        """Members that many steps have not brought on: a flat valley, whose status is for the fit to say."""
        self.n_steps += 1
        if self.n_steps % MANY_STEPS:
            return np.zeros(len(self.ids), bool)
        stands = self.before - self.values <= STANDS * np.abs(self.values)
        self.before = self.values.copy()
        return stands

    def _keep(self, which: Mask) -> None:
        for name in ("ids", "measured", "weights", "low", "high", "unit", "thetas", "residuals"):
            setattr(self, name, getattr(self, name)[which])
        for name in ("jacobians", "values", "damping", "near", "unseen", "before"):
            setattr(self, name, getattr(self, name)[which])

    def _majorising(self, pull: Matrix) -> Matrix:
        """W (B, n), weight x psi(r) / r, which is the weight itself for squares."""
        if self.objective.delta is None and self.objective.overestimate == 1:
            return self.weights
        tiny = self.residuals == 0
        return np.where(tiny, self.weights, pull / np.where(tiny, 1.0, self.residuals))

    def _bend(self, step: Matrix, weights: Matrix, hessian: Stack, majoriser: Stack, fixed: Mask) -> Matrix:
        """What the curvature of the law along a step adds to it, zero where that is not small beside the step.

        Geodesic acceleration (Transtrum and Sethna 2012, arXiv 1201.5885): laws with more parameters than the data
        determine have narrow curved valleys, which straight steps follow at a crawl.
        """
        ahead = np.clip(self.thetas + AHEAD * step, self.low, self.high)
        moved = ahead - self.thetas
        residuals = self._look(ahead, self.measured)[0]
        straight = np.einsum("bnp,bp->bn", self.jacobians, moved)
        curvature = 2 * (residuals - self.residuals - straight) / AHEAD**2
        gradient = 0.5 * np.einsum("bn,bn,bnp->bp", weights, curvature, self.jacobians)
        bend = _solve(hessian, majoriser, gradient, self.damping, fixed)
        scale = np.sqrt(np.einsum("bpp->bp", majoriser))
        small = np.linalg.norm(bend * scale, axis=1) <= MOST_BEND * np.linalg.norm(step * scale, axis=1)
        return np.where(small[:, None] & np.isfinite(bend), bend, 0.0)

    def _hessian(self, majoriser: Stack, fixed: Mask) -> Stack:
        """J' W J over points within Huber's corner, for members that are near, if it determines their free parameters.

        The law's second derivatives, weighted by pulls of both signs, add little to it.
        """
        near = np.flatnonzero(self.near)
        if not len(near) or self.objective.delta is None:
            return majoriser
        inside = self.weights[near] * (np.abs(self.residuals[near]) <= self.objective.delta)
        if self.objective.overestimate != 1:
            inside = inside * np.where(self.residuals[near] > 0, self.objective.overestimate, 1.0)
        exact = np.swapaxes(self.jacobians[near] * inside[..., None], 1, 2) @ self.jacobians[near]
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
    try:
        step = np.linalg.solve(free, right[..., None])[..., 0] * scale
    except np.linalg.LinAlgError:  # one singular member would take all others down with it
        step = (np.linalg.pinv(free, hermitian=True) @ right[..., None])[..., 0] * scale
    return np.where(np.isfinite(step), step, 0.0)
