"""The one mixture, model size and data size that serve several tasks best: least mean log error for a budget.

Each task has a mixture law of its own. In ln N and the shares h the mean of ln(E + A N^-alpha + T(h) D^-beta) is
convex where all gamma <= 1 (a sum of exponentials of convex functions): one descent finds the best. Where a task's
gamma is above 1 there are further optima near pure modalities, and descents start there too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.optima.flops import Flops
from analysis.points import Matrix, Stack, Vector

LEAST_LOG = -100.0
"""ln of a share that is none; finite, so that no product is zero times infinity."""
MOST_ROUNDS = 3000
SETTLED, QUIET = 1e-14, 12
"""A descent ends once so many rounds in a row have lowered the mean log error by no more than this."""
PURE = 0.9
"""Share of one modality in the starts near it."""
STEEPEST = 1e3
LEAST_EXPONENT = 1e-6


class Common(NamedTuple):
    log_n_params: Vector
    """(B,)."""
    shares: Matrix
    """(B, k), which add up to 1."""
    log_y: Matrix
    """(B, G) of each task."""


@dataclass(frozen=True, kw_only=True)
class _Tasks:
    """(B, G) numbers of the tasks' laws; ln_b (B, G, k)."""

    ln_e: Matrix
    ln_a: Matrix
    alpha: Matrix
    beta: Matrix
    kappa: Matrix
    ln_b: Stack
    log_flops: float
    cost: Flops

    def rows(self, which: NDArray) -> _Tasks:
        names = ("ln_e", "ln_a", "alpha", "beta", "kappa", "ln_b")
        return _Tasks(**{name: getattr(self, name)[which] for name in names}, log_flops=self.log_flops, cost=self.cost)

    def at(self, ln_n: Vector, ln_h: Matrix) -> _At:
        powers = self.kappa[..., None] * (self.beta[..., None] * ln_h[:, None, :] - self.ln_b)
        most = powers.max(axis=2, keepdims=True)
        parts = np.exp(powers - most)
        total = parts.sum(axis=2, keepdims=True)
        of_one = -(most + np.log(total))[..., 0] / self.kappa
        size = self.ln_a - self.alpha * ln_n[:, None]
        data = of_one - self.beta * self.cost.log_n_images(self.log_flops, ln_n)[:, None]
        ln_y = np.logaddexp(np.logaddexp(size, data), self.ln_e)
        return _At(
            mean=ln_y.mean(axis=1), ln_y=ln_y, size=np.exp(size - ln_y), data=np.exp(data - ln_y), parts=parts / total
        )


class _At(NamedTuple):
    """What a place is worth, (B, ...)."""

    mean: Vector
    ln_y: Matrix
    size: Matrix
    """(B, G) share of the size term in the error."""
    data: Matrix
    parts: Stack
    """(B, G, k) share of each modality in the data term's sum."""


def common_optimum(thetas: Stack, *, log_flops: float, cost: Flops) -> Common:
    """thetas (B, G, p) of mixture laws of the same modalities -> the best common mixture and sizes for C FLOPs."""
    tasks = _Tasks(
        ln_e=thetas[..., 0],
        ln_a=thetas[..., 1],
        alpha=np.maximum(thetas[..., 2], LEAST_EXPONENT),
        beta=np.maximum(thetas[..., 3], LEAST_EXPONENT),
        kappa=np.exp(thetas[..., 4]),
        ln_b=thetas[..., 5:],
        log_flops=log_flops,
        cost=cost,
    )
    n, k = len(thetas), thetas.shape[2] - 5
    ln_n, ln_h, at = _descend(tasks, np.full((n, k), -np.log(k)))
    mean, ln_y = at.mean, at.ln_y
    several = np.flatnonzero((tasks.kappa * tasks.beta).max(axis=1) > 1)
    for j in range(k if len(several) else 0):
        start = np.log(PURE * np.eye(k)[j] + (1 - PURE) / k)
        other_n, other_h, found = _descend(tasks.rows(several), np.tile(start, (len(several), 1)))
        better = found.mean < mean[several]
        ids = several[better]
        ln_n[ids], ln_h[ids], ln_y[ids], mean[ids] = (
            other_n[better],
            other_h[better],
            found.ln_y[better],
            found.mean[better],
        )
    return Common(log_n_params=ln_n, shares=np.exp(ln_h), log_y=ln_y)


def _descend(tasks: _Tasks, ln_h: Matrix) -> tuple[Vector, Matrix, _At]:
    """In turn a Newton step in ln N and a step of the shares, each taken only where it does not raise the mean.

    At the optimum a share is what its modality contributes, h_j ~ sum_g w_g beta_g p_gj, w_g the share of the data term
    in task g's error and p_gj that of the modality in its sum. Going to the right-hand side is a step that falls (it
    makes a lower bound of each ln T least); longer ones along the same way, as long as they fall, save most rounds.
    """
    n = len(ln_h)
    ln_n = np.full(n, (tasks.log_flops - np.log(tasks.cost.k)) / (1 + tasks.cost.power))
    ln_n, ln_h = ln_n.copy(), ln_h.copy()
    damping, step, quiet = np.ones(n), np.ones(n), np.zeros(n, np.int64)
    at = tasks.at(ln_n, ln_h)
    ids, mine = np.arange(n), tasks
    for _ in range(MOST_ROUNDS):
        before, u, h = at.mean, ln_n[ids], ln_h[ids]
        u_new = u - damping[ids] * _newton(mine, at)
        trial = mine.at(u_new, h)
        fell = trial.mean <= at.mean
        damping[ids] = np.where(fell, np.minimum(1.0, 2 * damping[ids]), damping[ids] / 2)
        u, at = np.where(fell, u_new, u), _chosen(fell, trial, at)
        h_new = _toward(mine, at, h, step[ids])
        trial = mine.at(u, h_new)
        fell = trial.mean <= at.mean
        step[ids] = np.where(fell, np.minimum(STEEPEST, 1.5 * step[ids]), np.maximum(step[ids] / 2, 1e-3))
        h, at = np.where(fell[:, None], h_new, h), _chosen(fell, trial, at)
        ln_n[ids], ln_h[ids] = u, h
        quiet[ids] = np.where(before - at.mean > SETTLED, 0, quiet[ids] + 1)
        going = quiet[ids] < QUIET
        if not going.all():
            ids = ids[going]
            if not len(ids):
                break
            mine, at = tasks.rows(ids), _At(*(column[going] for column in at))
    return ln_n, ln_h, tasks.at(ln_n, ln_h)


def _chosen(new: NDArray[np.bool_], one: _At, other: _At) -> _At:
    return _At(*(np.where(new.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(one, other, strict=True)))


def _newton(tasks: _Tasks, at: _At) -> Vector:
    """(B,) slope over curvature of the mean in ln N, at most 5."""
    rise = tasks.cost.power * tasks.beta
    slopes = rise * at.data - tasks.alpha * at.size
    curvature = (rise**2 * at.data + tasks.alpha**2 * at.size - slopes**2).mean(axis=1)
    slope = slopes.mean(axis=1)
    step = np.divide(slope, curvature, out=5.0 * np.sign(slope), where=curvature > 0)
    return np.asarray(np.clip(step, -5.0, 5.0))


def _toward(tasks: _Tasks, at: _At, ln_h: Matrix, step: Vector) -> Matrix:
    """(B, k) ln shares, moved in logarithms towards what each modality contributes."""
    pull = np.einsum("bg,bgk->bk", at.data * tasks.beta, at.parts)
    pull = np.log(np.maximum(pull, np.finfo(float).tiny)) - np.log(np.maximum(pull.sum(axis=1), 1e-300))[:, None]
    moved = ln_h + step[:, None] * (np.maximum(pull, LEAST_LOG) - ln_h)
    moved = np.maximum(moved - moved.max(axis=1, keepdims=True), LEAST_LOG)
    return moved - np.log(np.exp(moved).sum(axis=1, keepdims=True))
