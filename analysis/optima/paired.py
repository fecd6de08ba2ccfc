"""Resamples of several fits at once: what the same runs measured on several tasks has luck in common.

A run that came out well did so for all its tasks, so a number that rests on several fits needs draws that keep the
tasks' luck together. Clusters are drawn for all of them at once; where few clusters want normal noise instead, it is
as correlated between tasks as their residuals are. Fits of other runs than each other's are drawn one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from analysis.fit import Fit, refits
from analysis.points import Index, Matrix, Vector
from analysis.resampling import ROUNDING, case_weights, cluster_index, identified, noise_of, normal_targets
from analysis.uncertainty import FEWEST_DRAWS, MANY, MANY_EACH


@dataclass(frozen=True, kw_only=True)
class Draws:
    thetas: tuple[Matrix, ...]
    """(B, p) of each fit, row by row of one resample; scaled so that percentiles are intervals, and inside bounds."""
    method: Literal["bootstrap", "parametric"]
    together: bool
    """Whether the fits' runs are the same, so that their luck was drawn in common."""


def paired(found: Sequence[Fit], *, n: int, seed: int, level: float) -> Draws:
    """At most `n` draws of fits that are usable; none where fewer than 40 came out, or a fit has no freedom left."""
    orders = _orders(found)
    clusters = [cluster_index(one.points)[1] for one in found]
    parameters = [len(one.theta) for one in found]
    many = all(g >= max(MANY, MANY_EACH * p) for g, p in zip(clusters, parameters, strict=True))
    free = [g - p for g, p in zip(clusters, parameters, strict=True)]
    method: Literal["bootstrap", "parametric"] = "bootstrap" if many else "parametric"
    none = Draws(thetas=tuple(np.empty((0, p)) for p in parameters), method=method, together=orders is not None)
    if min(free) < 1:
        return none
    if many:
        drawn = _cases(found, n, seed, orders is not None)
        scales = [_stretch(p, left, level) * np.ones(len(drawn[0])) for p, left in zip(parameters, free, strict=True)]
    else:
        drawn, scales = _noise(found, orders, n, seed)
    fine = np.logical_and.reduce([np.isfinite(thetas).all(axis=1) for thetas in drawn])
    if fine.sum() < max(FEWEST_DRAWS, len(fine) / 2):
        return none
    thetas = tuple(_inside(one, d[fine], s[fine]) for one, d, s in zip(found, drawn, scales, strict=True))
    return Draws(thetas=thetas, method=method, together=orders is not None)


def _orders(found: Sequence[Fit]) -> list[Index] | None:
    """By which each fit's points stand in the same order; None where they are not of the same runs."""
    keys = [np.column_stack([one.points.x, one.points.clusters, one.points.weights > 0]) for one in found]
    orders = [np.lexsort(key.T[::-1]).astype(np.int64) for key in keys]
    first = keys[0][orders[0]]
    same = all(key.shape == first.shape and (key[by] == first).all() for key, by in zip(keys, orders, strict=True))
    return orders if same else None


def _stretch(p: int, free: int, level: float) -> float:
    """Student's t over the normal quantile, and what draws of cases lack (Hesterberg 2015, section 4.3)."""
    ends = (1 + level) / 2
    return float(stats.t.ppf(ends, free) / stats.norm.ppf(ends) * np.sqrt(1 + p / free))


def _inside(found: Fit, drawn: Matrix, scales: Vector) -> Matrix:
    low, high = found.law.bounds(found.points.x, found.points.y)
    return np.clip(found.theta + scales[:, None] * (drawn - found.theta), low, high)


def _cases(found: Sequence[Fit], n: int, seed: int, together: bool) -> list[Matrix]:
    """The same clusters for all, where they have the same: their labels are by inputs, so alike in each."""
    rngs = [np.random.default_rng([seed, 0 if together else i]) for i in range(len(found))]
    weights = [case_weights(one.points, n, rng) for one, rng in zip(found, rngs, strict=True)]
    fine = np.logical_and.reduce([identified(one, of) for one, of in zip(found, weights, strict=True)])
    if not fine.any():
        return [np.full((1, len(one.theta)), np.nan) for one in found]
    return [refits(one, weights=of[fine])[0] for one, of in zip(found, weights, strict=True)]


def _noise(found: Sequence[Fit], orders: list[Index] | None, n: int, seed: int) -> tuple[list[Matrix], list[Vector]]:
    """Each in units of its own residual deviation besides, as the bootstrap-t of one fit is."""
    noises = [noise_of(one) for one in found]
    curves = [one.law.log_predict(one.points.x, one.theta) for one in found]
    middles = [c if one.objective.logs else np.exp(c) for c, one in zip(curves, found, strict=True)]
    moved = []
    for i, (one, noise, middle) in enumerate(zip(found, noises, middles, strict=True)):
        targets = normal_targets(one, noise, n, np.random.default_rng([seed, i]))
        moved.append((np.log(targets) if one.objective.logs else targets) - middle)
    if orders is not None:
        moved = _correlated(found, moved, orders)
    thetas, scales = [], []
    for one, noise, middle, by in zip(found, noises, middles, moved, strict=True):
        targets = np.exp(middle + by) if one.objective.logs else middle + by
        drawn = refits(one, targets=targets)[0]
        again = one.law.evaluate(one.points.x, np.where(np.isfinite(drawn), drawn, one.theta))[0]
        own = noise.deviation(one.objective.residuals(again, targets))
        scales.append(np.maximum(noise.deviation(one.residuals[None]), ROUNDING) / np.maximum(own, ROUNDING))
        thetas.append(drawn)
    return thetas, scales


def _correlated(found: Sequence[Fit], moved: list[Matrix], orders: list[Index]) -> list[Matrix]:
    """Noise (B, n) of each fit -> the same deviations, correlated run by run as the fits' residuals are."""
    residuals = np.stack([one.residuals[by] for one, by in zip(found, orders, strict=True)])
    length = np.sqrt((residuals**2).sum(axis=1, keepdims=True))
    unit = np.divide(residuals, length, out=np.zeros_like(residuals), where=length > 0)
    correlation = unit @ unit.T
    np.fill_diagonal(correlation, 1.0)
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    spreads = [by.std(axis=0) for by in moved]
    noise = [
        np.divide(by, spread, out=np.zeros_like(by), where=spread > 0)[:, order]
        for by, spread, order in zip(moved, spreads, orders, strict=True)
    ]
    mixed = np.einsum("gh,hbn->gbn", root, np.stack(noise))
    result = []
    for of, spread, order in zip(mixed, spreads, orders, strict=True):
        back = np.empty_like(of)
        back[:, order] = of
        result.append(back * spread)
    return result
