"""Minima of the loss among runs of equal FLOPs: Hoffmann et al. 2022 (arXiv 2203.15556), section 3.2.

A polynomial of ln N through each budget's runs. Good at: showing what the data alone say. Bad at: wide or uncentred
ranges of N and unequal exponents, where a parabola's vertex is off even without noise (Czech et al. 2026, arXiv
2603.22339); the cubic, beside it, is much less so.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace

import numpy as np

from analysis.points import Index, Matrix, Vector

WINDOW = 0.10
"""Spread of FLOPs, largest over smallest minus one, that counts as one budget: runs stop at whole steps and epochs."""
FEWEST = 4
"""Model sizes of a budget: through three any parabola goes, and nothing is left to judge it by."""
LOST = 0.025
"""Share of draws without a minimum above which a 95 % interval of it has no end."""
OWN_ERROR = 1e-3
"""Of ln N: a vertex is never better known than that, so that no weight is infinite."""


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """The model size that does best at one budget, or why the runs do not show it."""

    flops: float
    """Geometric mean of the budget's runs."""
    rows: Index
    """Which runs, as rows of what was given."""
    sizes: tuple[float, float]
    """Smallest and largest model among them."""
    centre: float
    """ln N that the coefficients count from."""
    coefficients: Vector
    """Of ln N - centre, constant first; empty where there were too few sizes."""
    reason: str
    """Why there is no minimum; empty where there is one."""
    n_params: float = np.nan
    """NaN with a reason."""
    log_se: float = np.nan
    """Standard error of ln n_params."""
    draws: Vector = field(default_factory=lambda: np.empty(0))
    """(B,) of ln n_params, all finite."""

    @property
    def found(self) -> bool:
        return not self.reason


def budget_labels(n_params: Vector, flops: Vector) -> Index:
    """(n,) 0, 1, ... by rising FLOPs for runs that share a budget; -1 for the others.

    Greedy: the window of FLOPs with the most distinct model sizes becomes a budget (of equals the narrowest), until
    none holds `FEWEST`. Where FLOPs take many values a window may catch runs that no one meant as a budget, which
    does no harm: what matters is that their FLOPs are nearly equal.
    """
    order = np.argsort(flops, kind="stable")
    logs, sizes = np.log(flops[order]), n_params[order]
    ends = np.searchsorted(logs, logs + np.log1p(WINDOW), side="right")
    left = np.ones(len(logs), bool)

    def window(start: int) -> tuple[int, float, int]:
        """Of a heap whose least is the best: minus distinct sizes, spread, start."""
        rows = start + np.flatnonzero(left[start : ends[start]])
        spread = float(logs[rows[-1]] - logs[start]) if len(rows) else 0.0
        return -len(set(sizes[rows].tolist())), spread, start

    heap = [window(start) for start in range(len(logs))]
    heapq.heapify(heap)
    found: list[Index] = []
    while heap and -heap[0][0] >= FEWEST:
        start = heap[0][2]
        now = window(start) if left[start] else (0, 0.0, start)
        # windows only lose runs, so one that is still the best after a fresh look is the best
        if now > heap[0]:
            heapq.heapreplace(heap, now)
            continue
        rows = start + np.flatnonzero(left[start : ends[start]])
        found.append(order[rows])
        left[rows] = False
    labels = np.full(len(flops), -1, np.int64)
    for label, rows in enumerate(sorted(found, key=lambda rows: float(flops[rows].min()))):
        labels[rows] = label
    return labels


def minima(
    n_params: Vector, flops: Vector, y: Vector, labels: Index, *, degree: int, n_draws: int, rng: np.random.Generator
) -> tuple[Minimum, ...]:
    """One per label >= 0, in the order of labels; least squares of y, `degree` 2 or 3.

    Runs of one size and label are averaged first, so seeds count as one. Draws: every budget's polynomial moved as
    noise of y would move it. The noise is relative, one for all budgets, and as uncertain as its degrees of freedom
    make it (chi-squared), which gives intervals the width of Student's t.
    """
    curves = [
        _Curve(n_params, y, np.flatnonzero(labels == label), degree) for label in range(labels.max(initial=-1) + 1)
    ]
    fitted = [curve for curve in curves if curve.solved]
    free = sum(curve.free for curve in fitted)
    squares = sum(curve.squares for curve in fitted)
    noise = float(np.sqrt(squares / free)) if free else np.nan
    drawn = noise * np.sqrt(free / rng.chisquare(free, n_draws)) if free else np.empty(0)
    return tuple(_minimum(curve, flops, noise, drawn, rng) for curve in curves)


class _Curve:
    """One budget's polynomial."""

    def __init__(self, n_params: Vector, y: Vector, rows: Index, degree: int) -> None:
        self.rows, self.degree = rows, degree
        self.sizes, index, counts = np.unique(n_params[rows], return_inverse=True, return_counts=True)
        self.y = np.bincount(index.ravel(), y[rows]) / counts
        self.free = len(self.sizes) - degree - 1
        self.solved = len(self.sizes) >= max(FEWEST, degree + 2)
        logs = np.log(self.sizes)
        self.centre = float(logs.mean())
        self.level = float(self.y.mean())
        if not self.solved:
            return
        design = np.vander(logs - self.centre, degree + 1, increasing=True)
        orthonormal, triangle = np.linalg.qr(design)
        self.coefficients = np.linalg.solve(triangle, orthonormal.T @ self.y)
        self.root = np.linalg.inv(triangle)
        self.squares = float(np.sum((self.y - design @ self.coefficients) ** 2)) / self.level**2


def lowest(coefficients: Matrix) -> Vector:
    """(B, 3 or 4) of a parabola or cubic, constant first -> (B,) where its minimum is; NaN where it has none.

    The root of c1 + 2 c2 t + 3 c3 t^2 at which the curve turns upwards, written so that c3 = 0 is no special case.
    """
    c1, c2 = coefficients[:, 1], coefficients[:, 2]
    c3 = coefficients[:, 3] if coefficients.shape[1] > 3 else np.zeros(len(coefficients))
    inside = c2**2 - 3 * c1 * c3
    below = c2 + np.sqrt(np.maximum(inside, 0.0))
    exists = (inside > 0) & (below > 1e-12 * (np.abs(c1) + np.abs(c2)))
    return np.where(exists, -c1 / np.where(exists, below, 1.0), np.nan)


def _minimum(curve: _Curve, flops: Vector, noise: float, drawn: Vector, rng: np.random.Generator) -> Minimum:
    budget = float(np.exp(np.log(flops[curve.rows]).mean()))
    smallest, largest = float(curve.sizes[0]), float(curve.sizes[-1])
    nothing = Minimum(
        flops=budget,
        rows=curve.rows,
        sizes=(smallest, largest),
        centre=curve.centre,
        coefficients=curve.coefficients if curve.solved else np.empty(0),
        reason="",
    )
    at = f"at {budget:.3g} FLOPs"
    if not curve.solved:
        needed = max(FEWEST, curve.degree + 2)
        return replace(nothing, reason=f"{at} there are {len(curve.sizes)} model sizes; {needed} are needed")
    where = float(lowest(curve.coefficients[None])[0])
    if np.isnan(where):
        return replace(nothing, reason=f"{at} the loss does not curve upwards in ln N: no minimum")
    if not np.log(smallest) <= where + curve.centre <= np.log(largest):
        side, size = ("largest", largest) if where > 0 else ("smallest", smallest)
        return replace(nothing, reason=f"{at} the minimum lies beyond the {side} model, of size {size:.3g}")
    normal = rng.standard_normal((len(drawn), curve.degree + 1)) * drawn[:, None] * curve.level
    moved = lowest(curve.coefficients + normal @ curve.root.T)
    if len(moved) and (lost := float(np.isnan(moved).mean())) > LOST:
        return replace(nothing, reason=f"{at} the curvature is within the noise: {lost:.0%} of draws have no minimum")
    return replace(
        nothing,
        n_params=float(np.exp(where + curve.centre)),
        log_se=noise * curve.level * float(np.linalg.norm(_slopes(curve, where) @ curve.root)),
        draws=np.where(np.isnan(moved), where, moved) + curve.centre,
    )


def _slopes(curve: _Curve, where: float) -> Vector:
    """d where / d coefficients (degree + 1,): of the root of the curve's derivative, implicitly."""
    powers = np.arange(1, curve.degree + 1)
    bend = float((powers[1:] * (powers[1:] - 1)) @ (curve.coefficients[2:] * where ** (powers[1:] - 2.0)))
    return np.concatenate([[0.0], -powers * where ** (powers - 1.0) / bend])
