"""What a law is fitted to: points in natural units, each with a weight and with the luck it shares."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
"""One number a point, or a parameter."""
Matrix = NDArray[np.float64]
"""Points x inputs, or resamples x parameters, or resamples x points."""
Stack = NDArray[np.float64]
"""Resamples x points x parameters."""
Index = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Points:
    """One row a run, or a mean of runs."""

    x: Matrix
    """(n, n_inputs), the law's inputs in its order, natural units."""
    y: Vector
    """(n,) what the law predicts: an error or a loss, positive."""
    weights: Vector
    """(n,) of the objective; 1 where nothing else is known."""
    clusters: Index
    """(n,) equal for points that share luck (seeds of a cell, durations of a trunk): resampled together."""
    n_runs: int
    """Runs behind the points."""

    def __len__(self) -> int:
        return len(self.y)

    def chosen(self, mask: NDArray) -> Points:
        """The points of a mask or an index."""
        return replace(
            self,
            x=self.x[mask],
            y=self.y[mask],
            weights=self.weights[mask],
            clusters=self.clusters[mask],
            n_runs=len(self.y[mask]),
        )


def points(x: Matrix | Vector, y: Vector, *, weights: Vector | None = None, clusters: Index | None = None) -> Points:
    """From plain arrays; `x` may be one column. Without `clusters`, points of the same inputs share one (a cell)."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x = x[:, None] if x.ndim == 1 else x
    if clusters is None:
        _, clusters = np.unique(x, axis=0, return_inverse=True) if len(x) else (x, np.empty(0, np.int64))
    weights = np.ones_like(y) if weights is None else np.asarray(weights, np.float64)
    return Points(x=x, y=y, weights=weights, clusters=np.asarray(clusters, np.int64).ravel(), n_runs=len(y))


def cell_means(given: Points) -> Points:
    """One point per distinct inputs: the geometric mean of y there, weighted; each cell weighs 1.

    Seeds of one cell share whatever else is peculiar to it (a learning rate that suits this size, say), so they are no
    independent evidence on the law: each cell counts once, however many seeds it has. Clusters larger than a cell (a
    trunk) stay.
    """
    if not len(given):
        return given
    cells, first, index = np.unique(given.x, axis=0, return_index=True, return_inverse=True)
    index = index.ravel()
    total = np.bincount(index, given.weights)
    logs = np.bincount(index, given.weights * np.log(given.y)) / total
    return Points(
        x=cells,
        y=np.exp(logs),
        weights=np.ones(len(cells)),
        clusters=given.clusters[first],
        n_runs=given.n_runs,
    )
