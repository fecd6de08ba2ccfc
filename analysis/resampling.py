"""Resamples of a fit's points, all at once: which points weigh how much, or what their y might have been.

By cluster: seeds of a cell and durations of a trunk are drawn together, because they share luck. Case resampling asks
nothing of the noise but many clusters. With few, the design is kept: the wild bootstrap turns the residuals about, and
where a robust objective leaves most residuals at zero (as many as parameters), normal noise is drawn instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.fit import FLAT, Fit, refits
from analysis.objective import Objective
from analysis.points import Index, Matrix, Points, Vector
from analysis.solver import Mask

WEBB = np.sqrt(np.array([0.5, 1.0, 1.5]))
"""Six-point weights, +- each: as many distinct draws from few clusters as +-1 has not (Webb 2014, QED 1315)."""
ROUNDING = 1e-12
"""Least residual deviation believed: errors equal to the last digit are no proof of a law without noise."""


def resampled(found: Fit, method: str, n: int, seed: int) -> tuple[Matrix, Vector]:
    """Thetas (B, p), and (B,) by how much their distance from the optimum is to be scaled; B <= n found an optimum."""
    rng = np.random.default_rng(seed)
    if method == "bootstrap":
        weights = case_weights(found.points, n, rng)
        thetas, _ = refits(found, weights=weights[identified(found, weights)])
        scales = np.ones(len(thetas))
    elif method == "wild":
        thetas, _ = refits(found, targets=wild_targets(found, n, rng))
        scales = np.ones(len(thetas))
    else:
        noise = noise_of(found)
        targets = normal_targets(found, noise, n, rng)
        thetas, _ = refits(found, targets=targets)
        curves = found.law.evaluate(found.points.x, np.where(np.isfinite(thetas), thetas, found.theta))[0]
        own = noise.deviation(found.objective.residuals(curves, targets))
        scales = np.maximum(noise.deviation(found.residuals[None]), ROUNDING) / np.maximum(own, ROUNDING)
    fine = np.isfinite(thetas).all(axis=1)
    return thetas[fine], scales[fine]


def cluster_index(points: Points) -> tuple[Index, int]:
    """(n,) 0..G-1, and G, counting only points that weigh anything; the others get -1."""
    index = np.full(len(points), -1, np.int64)
    seen = points.weights > 0
    found, index[seen] = np.unique(points.clusters[seen], return_inverse=True)
    return index, len(found)


def case_weights(points: Points, n: int, rng: np.random.Generator) -> Matrix:
    """(n, len(points)): the points' weights x how often each cluster was drawn."""
    index, n_clusters = cluster_index(points)
    counts = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n).astype(np.float64)
    return np.where(index >= 0, counts[:, index], 0.0) * points.weights


def identified(found: Fit, weights: Matrix) -> Mask:
    """(B,) resamples that could be fitted at all: more distinct inputs than parameters, and of full rank.

    Rank is that of the Jacobian at the fit's optimum, of the parameters that the fit itself determines; so one size, or
    one amount of data, drawn over and over is noticed for whatever law.
    """
    points, p = found.points, len(found.theta)
    _, cell = np.unique(points.x, axis=0, return_inverse=True)
    order = np.argsort(cell.ravel(), kind="stable")
    first = np.flatnonzero(np.diff(cell.ravel()[order], prepend=-1))
    enough = np.array([np.logical_or.reduceat(one[order] > 0, first).sum() > p for one in weights], dtype=bool)
    jacobian = found.law.log_gradient(points.x, found.theta) * np.sqrt(points.weights)[:, None]
    length = np.linalg.norm(jacobian, axis=0)
    jacobian = jacobian[:, length > FLAT * length.max()] / length[length > FLAT * length.max()]
    counts = np.divide(weights, points.weights, out=np.zeros_like(weights), where=points.weights > 0)
    information = np.einsum("np,bn,nq->bpq", jacobian, counts, jacobian, optimize=True)
    whole = np.linalg.eigvalsh(jacobian.T @ jacobian)[0]
    return enough & (np.linalg.eigvalsh(information)[:, 0] > 1e-6 * whole)


def wild_targets(found: Fit, n: int, rng: np.random.Generator) -> Matrix:
    """(n, len(points)) of y: the curve, plus each cluster's residuals, corrected, times one random number a cluster.

    The correction undoes what the fit takes from the residuals of a cluster, (1 - H_gg)^-1/2 with H the hat matrix of
    the linearised law (HC2 for single points, CR2 of Bell and McCaffrey 2002 for clusters), so that with few clusters
    draws scatter as much as the noise does.
    """
    points, objective = found.points, found.objective
    index, n_clusters = cluster_index(points)
    curve = found.law.log_predict(points.x, found.theta)
    corrected = corrected_residuals(found, index, n_clusters)
    picked = rng.integers(0, 6, (n, n_clusters))
    factor = WEBB[picked % 3] * np.where(picked < 3, 1.0, -1.0)
    moved = np.where(index >= 0, factor[:, index], 0.0) * corrected
    with np.errstate(over="ignore"):
        return np.exp(curve + moved) if objective.logs else np.exp(curve) + moved


def corrected_residuals(found: Fit, index: Index, n_clusters: int) -> Vector:
    """(n,) y minus curve in the objective's unit, leverage undone cluster by cluster."""
    points, residuals = found.points, -found.residuals
    root = np.sqrt(points.weights)
    left = orthonormal(found, found.objective)
    corrected = np.zeros_like(residuals)
    order = np.argsort(index, kind="stable")[(index < 0).sum() :]
    for rows in np.split(order, np.flatnonzero(np.diff(index[order])) + 1):
        # eigenvectors with leverage one carry no residual at all: nothing is left there to scale up
        values, vectors = np.linalg.eigh(np.eye(len(rows)) - left[rows] @ left[rows].T)
        scale = np.where(values > 1e-8, 1 / np.sqrt(np.maximum(values, 1e-8)), 0.0)
        corrected[rows] = vectors @ (scale * (vectors.T @ (root[rows] * residuals[rows]))) / root[rows]
    return corrected


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Normal noise shared by a cluster, and of single points in it, as the residuals of a fit have it."""

    means: Matrix
    """(clusters, n) takes the mean of each cluster's residuals, each in units of its own deviation (1 / weight)."""
    cluster: Index
    """(n,) of each point; -1 for those that weigh nothing."""
    free: int
    """Clusters minus parameters."""
    repeats: int
    """Degrees of freedom of points about their cluster's mean."""

    def deviation(self, residuals: Matrix) -> Vector:
        """(B,) of cluster means about a curve with as many parameters, from residuals (B, n)."""
        return np.sqrt(((residuals @ self.means.T) ** 2).sum(axis=1) / self.free)


def noise_of(found: Fit) -> Noise:
    points = found.points
    cluster, n_clusters = cluster_index(points)
    holds = 1.0 * (cluster == np.arange(n_clusters)[:, None])
    means = holds * _relative(points) / holds.sum(axis=1, keepdims=True)
    seen, p = int((cluster >= 0).sum()), len(found.theta)
    # where clusters hold different inputs the law's slopes follow their points, and take degrees of freedom
    slopes = 0 if clusters_are_cells(points) else p - 1
    repeats = max(seen - n_clusters - slopes, 0)
    return Noise(means=means, cluster=cluster, free=n_clusters - p, repeats=repeats)


def normal_targets(found: Fit, noise: Noise, n: int, rng: np.random.Generator) -> Matrix:
    """(n, len(points)) of y: the curve plus normal noise, shared in a cluster as far as the residuals say.

    Cluster means scatter about the curve as theirs do; points in a cluster about its mean as theirs do, but never more
    than the means can have from it.
    """
    points, residuals, relative = found.points, -found.residuals, _relative(found.points)
    seen = noise.cluster >= 0
    between, runs = float(noise.deviation(residuals[None])[0]) ** 2, seen.sum() / len(noise.means)
    about = (residuals * relative - (noise.means @ residuals)[noise.cluster])[seen]
    within = min(float((about**2).sum()) / noise.repeats, runs * between) if noise.repeats else 0.0
    shared = np.sqrt(max(between - within / runs, 0.0)) * rng.standard_normal((n, len(noise.means)))
    drawn = shared[:, noise.cluster] + np.sqrt(within) * rng.standard_normal((n, len(points)))
    moved = np.divide(drawn, relative, out=np.zeros_like(drawn), where=seen)
    curve = found.law.log_predict(points.x, found.theta)
    with np.errstate(over="ignore"):
        return np.exp(curve + moved) if found.objective.logs else np.exp(curve) + moved


def _relative(points: Points) -> Vector:
    """(n,) 1 / deviation of each point, relative to that of a point of mean weight."""
    return np.sqrt(points.weights / points.weights[points.weights > 0].mean())


def clusters_are_cells(points: Points) -> bool:
    """Whether no cluster holds different inputs, as a trunk would."""
    seen = points.weights > 0
    both = np.unique(np.column_stack([points.clusters[seen], points.x[seen]]), axis=0)
    return len(both) == len(np.unique(points.clusters[seen]))


def orthonormal(found: Fit, objective: Objective) -> Matrix:
    """(n, rank) basis of what the linearised law can follow, in units of equal variance: H = U U'."""
    points = found.points
    jacobian = found.law.log_gradient(points.x, found.theta)
    if not objective.logs:
        jacobian = jacobian * found.predict(points.x)[:, None]
    jacobian = jacobian * np.sqrt(points.weights)[:, None]
    length = np.linalg.norm(jacobian, axis=0)
    left, singular, _ = np.linalg.svd(jacobian / np.where(length > 0, length, 1.0), full_matrices=False)
    return left[:, singular > FLAT * singular[0]]
