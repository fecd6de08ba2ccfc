"""How far off a fit may be: intervals of its parameters, of its curve, of new runs and of anything that follows.

`profile`: Student's t for curved laws; squares of cells. `delta`: its fast approximation, equal for laws linear in
theta. `bootstrap`: cases by cluster; many clusters, any objective. `parametric`: normal noise drawn anew, every draw in
units of its own residual deviation (a bootstrap-t); few clusters, any objective. `wild`: residuals by cluster; squares.
`auto`: bootstrap from `MANY` clusters on; below, for squares of cells delta where it is exact, else profile; else
parametric. Coverage is measured: results/coverage.md.

Runs of equal inputs and one cluster (seeds of a cell) share whatever is peculiar to that cell, so profile and delta
count each cell once: residuals and degrees of freedom are those of cell means. A caller who knows runs to be
independent says so by giving each its own cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy import stats

from analysis import profile
from analysis.fit import Fit, Status
from analysis.points import Matrix, Vector
from analysis.resampling import ROUNDING, cluster_index, clusters_are_cells, resampled
from analysis.rows import Rows

Method = Literal["auto", "profile", "bootstrap", "parametric", "wild", "delta"]
MANY, MANY_EACH = 20, 6
"""Clusters, in all and a parameter, from which on case resampling covers; of fewer, draws scatter too little. It then
holds for noise that differs from size to size, too, where methods that take it as equal were seen to cover 77 %."""
DROPPED = 0.5
"""Share of resamples that may fail; above it the others are a selection and there is no interval."""
AT_ONCE = 2000
"""Predictions made at a time: a thousand draws of so many are 100 MB."""
FEWEST_DRAWS = 40
"""Resamples without which the outer 2.5 % are no draw's."""
NORMAL = float(stats.norm.ppf(0.975))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    value: float
    se: float
    """Standard error in the value's own unit; NaN where the data do not tell."""
    low: float
    high: float
    """At the confidence asked for; NaN where there is no interval. 0, a bound or infinity where the end is open."""

    @property
    def significant(self) -> bool:
        """Whether zero lies outside; False where there is no interval."""
        return bool(self.low > 0 or self.high < 0)


class Band(NamedTuple):
    """(m,) arrays."""

    value: Vector
    low: Vector
    high: Vector


def uncertainty(
    found: Fit, *, method: Method = "auto", n: int = 1000, seed: int = 0, level: float = 0.95
) -> Uncertainty:
    """Of a fit; `n` resamples where the method resamples. A fit that failed has no intervals, and a warning says so."""
    if method not in get_args(Method):
        raise ValueError(f"method: {method!r} is none; there are {', '.join(get_args(Method))}")
    if not found.status.usable:
        return Uncertainty(fit=found, method=method, level=level, free=0, draws=_none(found), notes=(found.reason,))
    _, n_clusters = cluster_index(found.points)
    chosen, notes = (method, []) if method != "auto" else _chosen(found, n_clusters)
    if chosen in ("profile", "delta"):
        free = len(_cells(found).weights) - len(found.theta)
        if found.objective.delta is not None or found.objective.overestimate != 1:
            notes.append(f"{chosen} intervals are those of least squares, not of {found.objective.name}: none given")
            free = 0
        return Uncertainty(fit=found, method=chosen, level=level, free=free, draws=_none(found), notes=tuple(notes))
    free = n_clusters - len(found.theta)
    draws, scales = resampled(found, chosen, n, seed) if free > 0 else (_none(found), np.empty(0))
    if (n_dropped := n - len(draws)) and free > 0:
        notes.append(f"{n_dropped} of {n} resamples left out: too few distinct sizes in them, or no optimum")
    if chosen == "wild" and (found.objective.delta is not None or n_clusters < MANY):
        notes.append(
            "wild intervals of few clusters or of a robust objective cover too little; parametric ones do better"
        )
    if chosen == "bootstrap" and n_clusters < MANY:
        notes.append(f"{n_clusters} clusters are few for a bootstrap of cases (from {MANY} on it covers as stated)")
    if 0 < len(draws) < FEWEST_DRAWS:
        notes.append(f"{len(draws)} resamples are too few for an interval; {FEWEST_DRAWS} are needed, 1,000 usual")
    if n_dropped > DROPPED * n or len(draws) < FEWEST_DRAWS:
        draws = _none(found)
    return Uncertainty(fit=found, method=chosen, level=level, free=free, draws=draws, scales=scales, notes=tuple(notes))


def _none(found: Fit) -> Matrix:
    return np.empty((0, len(found.law.parameters)))


def _chosen(found: Fit, n_clusters: int) -> tuple[Method, list[str]]:
    if n_clusters >= max(MANY, MANY_EACH * len(found.theta)):
        return "bootstrap", []
    trunks = not clusters_are_cells(found.points)
    if trunks:
        return "parametric", [f"{n_clusters} trunks are few: 95 % intervals cover about 90 %"]
    if found.objective.delta is not None or found.objective.overestimate != 1:
        return "parametric", []
    return ("delta" if _linear(found) else "profile"), []


def _linear(found: Fit) -> bool:
    """Whether residuals are linear in theta: their gradient is the same elsewhere."""
    if not found.objective.logs:
        return False
    here, there = (found.law.log_gradient(found.points.x, found.theta + shift) for shift in (0.0, 0.1))
    return bool(np.array_equal(here, there))


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """Runs of equal inputs and one cluster as one point each: ln y, or y / scale, as the objective has it."""

    x: Matrix
    measured: Vector
    weights: Vector
    """Sum of the runs' weights."""
    within: float
    """Variance of a run of weight 1 about its cell; 0 where no cell has two."""
    repeats: int
    """Degrees of freedom of `within`."""
    scale: float
    """The geometric mean of y where residuals are no logarithms, so that y's unit changes nothing; else 1."""


def _cells(found: Fit) -> _Cells:
    points = found.points.chosen(found.points.weights > 0)
    scale = 1.0 if found.objective.logs else float(np.exp(np.log(points.y).mean()))
    measured = np.log(points.y) if found.objective.logs else points.y / scale
    keys = np.column_stack([points.clusters, points.x])
    _, first, index = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    index = index.ravel()
    total = np.bincount(index, points.weights).astype(np.float64)
    means = np.bincount(index, points.weights * measured) / total
    spread = float((points.weights * (measured - means[index]) ** 2).sum())
    repeats = len(points) - len(first)
    return _Cells(
        x=points.x[first],
        measured=means,
        weights=total,
        within=spread / max(repeats, 1),
        repeats=repeats,
        scale=scale,
    )


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    fit: Fit
    method: Method
    """The one in use, never `auto` for a fit that is usable."""
    level: float
    free: int
    """Degrees of freedom of Student's t: cells, or clusters where resampled, minus parameters."""
    draws: Matrix
    """(B, p) thetas of resamples; empty for methods without."""
    scales: Vector = field(default_factory=lambda: np.empty(0))
    """(B,) by which a draw's distance from the optimum is scaled: residual deviation over that of the draw itself."""
    notes: tuple[str, ...] = ()
    """What was known before any interval was asked for."""

    def parameters(self) -> dict[str, Estimate]:
        """By name, natural values; empty for a failed fit."""
        return dict(self._parameters)

    def curve(self, x: Matrix | Vector) -> Band:
        """The law's curve at x (m, k), with its pointwise interval."""
        return self._band(x, new=False)

    def new_runs(self, x: Matrix | Vector) -> Band:
        """One more run at each x: the curve's interval widened by the scatter of single runs."""
        return self._band(x, new=True)

    def of(self, function: Callable[[Matrix], Vector]) -> Estimate:
        """Any smooth number that follows from thetas (B, p) -> (B,)."""
        theta = self.fit.theta
        if not self.fit.status.usable:
            return Estimate(value=np.nan, se=np.nan, low=np.nan, high=np.nan)
        value = float(function(theta[None])[0])
        if self._resampled:
            drawn = function(self.draws)
            low, high = self._stretched(np.array([value]), drawn[:, None])
            return Estimate(value=value, se=_deviation(drawn), low=float(low[0]), high=float(high[0]))
        rows = self._rows
        scalars = profile.number(function, rows.low[0], rows.high[0])
        ends, se = self._ends(scalars), self._errors(scalars)
        return Estimate(value=value, se=float(se[0]), low=float(ends.low[0, 0]), high=float(ends.high[0, 0]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before believing the intervals."""
        found = list(self.notes)
        if self.fit.status.usable and self.free == 0 and not self.notes:
            found.append("no degree of freedom is left: no interval")
        if self.free in (1, 2):
            times = self._t / NORMAL
            found.append(f"{self.free} degree(s) of freedom: intervals are {times:.1f} times those of many points")
        return tuple(found + self._open_ends)

    @property
    def _resampled(self) -> bool:
        return self.method in ("bootstrap", "parametric", "wild")

    @cached_property
    def _t(self) -> float:
        """Student's quantile; NaN without a degree of freedom."""
        return float(stats.t.ppf((1 + self.level) / 2, self.free)) if self.free > 0 else np.nan

    @cached_property
    def _rows(self) -> Rows:
        found, cells = self.fit, _cells(self.fit)
        low, high = found.law.bounds(found.points.x, found.points.y)
        return Rows(
            evaluate=found.law.evaluate if found.objective.logs else profile.natural(found.law, cells.scale),
            x=cells.x,
            measured=cells.measured[None],
            weights=cells.weights[None],
            thetas=found.theta[None],
            low=low[None],
            high=high[None],
            logs=found.law.logs,
        )

    @cached_property
    def _thetas(self) -> profile.Scalars:
        return profile.coordinates(self._rows.low[0], self._rows.high[0])

    @cached_property
    def _theta_ends(self) -> profile.Ends:
        return self._ends(self._thetas)

    @cached_property
    def _variance(self) -> float:
        """Of a residual of weight 1, about the curve."""
        if self.free < 1:
            return np.nan
        rows = self._rows
        return max(float(rows.squares(rows.thetas)[0]) / self.free, ROUNDING**2)

    @cached_property
    def _luck(self) -> tuple[float, float]:
        """Variance of one more run about the curve in two parts: of means over a cell's runs, with `free` degrees of
        freedom, and what averaging removed, with those of the cells' repeats.

        Points that are means already tell only how many runs are behind them: all is then taken as luck of single
        runs, which is too wide, never too narrow, where cells have luck of their own.
        """
        cells, points = _cells(self.fit), self.fit.points
        weight = float(points.weights[points.weights > 0].mean())
        if not cells.repeats:
            return self._variance * max(points.n_runs, len(points)) / len(points) / weight, 0.0
        runs = float(cells.weights.mean()) / weight
        return self._variance / (runs * weight), cells.within / weight * (1 - 1 / runs)

    def _one_run(self, curve: Vector) -> Vector:
        """(K,) variance of one more run, to be added to the `curve`'s own (K,) and taken t^2 times."""
        of_cells, of_runs = self._luck
        if not of_runs:
            return np.full_like(curve, of_cells)
        curve = np.nan_to_num(curve)  # what depends on nothing that the data determine
        return profile.variance_of_a_run(
            curve, of_cells, self.free, of_runs, _cells(self.fit).repeats, level=self.level
        )

    @cached_property
    def _parameters(self) -> dict[str, Estimate]:
        found = self.fit
        if not found.status.usable:
            return {}
        law, value = found.law, found.law.natural(found.theta)
        if self._resampled:
            low, high = self._stretched(found.theta, self.draws)
            bottom, top = law.bounds(found.points.x, found.points.y)
            low, high = np.clip(low, bottom, top), np.clip(high, bottom, top)
            natural = law.natural(self.draws)
            se = [_deviation(natural[:, j]) for j in range(len(value))]
        else:
            ends = self._theta_ends
            low, high = ends.low[0], ends.high[0]
            se = list(self._errors(self._thetas) * np.where(law.logs, value, 1.0))
        with np.errstate(over="ignore"):
            low, high = law.natural(low), law.natural(high)
        if not self._resampled:
            low = np.where(ends.low_open[0] & law.logs, 0.0, low)
        return {
            name: Estimate(value=float(v), se=float(s), low=float(a), high=float(b))
            for name, v, s, a, b in zip(law.names, value, se, low, high, strict=True)
        }

    @cached_property
    def _open_ends(self) -> list[str]:
        """Sentences on what the data leave open."""
        if self._resampled or not self.fit.status.usable or self.free < 1 or self.method == "delta":
            if self.method == "delta" and self.fit.status is Status.AT_BOUND:
                return ["a parameter at its bound has no delta interval; profile gives one"]
            return []
        ends, found = self._theta_ends, []
        for side, which in (("below", ends.low_open[0]), ("above", ends.high_open[0])):
            if names := [name for name, is_open in zip(self.fit.law.names, which, strict=True) if is_open]:
                found.append(f"the data set no limit {side} to {', '.join(names)}")
        if ends.better[0]:
            found.append("another curve fits better than the fit's optimum: the intervals may miss it")
        return found

    def _band(self, x: Matrix | Vector, *, new: bool) -> Band:
        x = np.asarray(x, np.float64)
        x = x[:, None] if x.ndim == 1 else x
        nothing = np.full(len(x), np.nan)
        if not self.fit.status.usable:
            return Band(nothing, nothing, nothing)
        if len(x) > AT_ONCE:
            parts = [self._band(x[i : i + AT_ONCE], new=new) for i in range(0, len(x), AT_ONCE)]
            return Band(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        law, value = self.fit.law, self.fit.predict(x)
        logs = self.fit.objective.logs or not new
        if self._resampled:
            drawn, middle = law.evaluate(x, self.draws)[0], np.log(value)
            if not logs:
                drawn, middle = np.exp(drawn), value
            low, high = self._stretched(middle, drawn + self._scatter(drawn.shape) if new else drawn)
        else:
            scale = _cells(self.fit).scale
            scalars = profile.log_curve(law, x) if logs else profile.plain_curve(law, x, scale)
            ends = self._ends(scalars, new=new)
            low, high = (end[0] if logs else scale * end[0] for end in (ends.low, ends.high))
        if logs:
            with np.errstate(over="ignore"):  # few points may leave the curve unknown by more than numbers can say
                low, high = np.exp(low), np.exp(high)
        return Band(value, low, high)

    def _errors(self, scalars: profile.Scalars) -> Vector:
        """(K,) standard errors by the delta method; NaN for what depends on nothing that the data determine."""
        spread = self._rows.spread(scalars.evaluate(self._rows.thetas)[1])[0]
        return np.sqrt(np.where(spread > 0, spread, np.nan) * self._variance)

    def _ends(self, scalars: profile.Scalars, *, new: bool = False) -> profile.Ends:
        curve = self._errors(scalars) ** 2
        # without noise there is nothing to profile, and delta says so to the last digit
        if self.method == "profile" and self._variance > 1e4 * ROUNDING**2:
            t, variance = np.array([self._t]), np.array([self._variance])
            weights = self._variance / self._one_run(curve)[None] if new else None
            return profile.interval_ends(self._rows, scalars, t, variance, weights)
        half = self._t * np.sqrt(curve + (self._one_run(curve) if new else 0.0))
        if self.fit.status is not Status.CONVERGED:  # what is not determined has no error, rather than none
            half = np.full_like(half, np.nan)
        value = scalars.evaluate(self.fit.theta[None])[0]
        shut = np.zeros(value.shape, bool)
        return profile.Ends(low=value - half, high=value + half, low_open=shut, high_open=shut, better=shut[:, 0])

    def _stretched(self, value: Vector, drawn: Matrix) -> tuple[Vector, Vector]:
        """Percentiles of draws (B, K), their distance from the value stretched by Student's t over the normal quantile.

        Draws of cases scatter by sqrt((G - p) / G) of what they should besides (Hesterberg 2015, section 4.3).
        """
        if not len(drawn):
            return np.full_like(value, np.nan), np.full_like(value, np.nan)
        tail = (1 - self.level) / 2
        stretch = 1.0 if self.method == "parametric" else self._t / float(stats.norm.ppf(1 - tail))
        if self.method == "bootstrap":
            stretch *= float(np.sqrt(1 + len(self.fit.theta) / self.free))
        low, high = np.quantile((drawn - value) * self.scales[:, None], (tail, 1 - tail), axis=0)
        return value + stretch * low, value + stretch * high

    def _scatter(self, shape: tuple[int, ...]) -> Matrix:
        """What single runs add to the curve's draws: the runs' own residuals where they are many, else normal noise."""
        rng = np.random.default_rng(0)
        if self.method != "bootstrap":
            return np.sqrt(sum(self._luck)) * rng.standard_normal(shape)
        points = self.fit.points
        seen = points.weights > 0
        residuals = -self.fit.residuals[seen] * np.sqrt(points.weights[seen] / points.weights[seen].mean())
        runs = max(points.n_runs, len(points)) / len(points)
        return rng.choice(residuals, shape) * np.sqrt(runs)


def _deviation(drawn: Vector) -> float:
    return float(drawn.std(ddof=1)) if len(drawn) > 1 else np.nan


def mean_interval(values: Vector, *, level: float = 0.95) -> Estimate:
    """Of a mean of independent values, by Student's t; NaN ends for fewer than two, NaN all over for none."""
    values = np.asarray(values, np.float64)
    mean = float(values.mean()) if len(values) else np.nan
    if len(values) < 2:
        return Estimate(value=mean, se=np.nan, low=np.nan, high=np.nan)
    se = float(values.std(ddof=1) / np.sqrt(len(values)))
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * se
    return Estimate(value=mean, se=se, low=mean - half, high=mean + half)
