"""Profile intervals: all values of a number that some curve through the data still allows.

S(v) is the least sum of squares among the curves for which a scalar g of the parameters is v. The interval holds every
v with (S(v) - S_min) / s^2 <= t^2, s^2 = S_min / (n - p): for a law linear in its parameters Student's t interval
itself, for others good wherever the law is nearly flat on the scale of the noise, however far the interval reaches
(Bates and Watts 1988, chapter 6). Near a parameter's bound `bounded` says what t such an S(v) amounts to. Not good at:
errors that are no independent normal ones of one variance.

S(v) comes from the solver that fits: a pseudo-point is added whose model value is g and whose target is v. At its
optimum with g = g*, S is least among all curves with that g*, whatever the weight, so no weight has to be huge. A new
run at some x is such a point with a run's own weight. All numbers, ends and data sets are searched in one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from analysis.bounded import root
from analysis.laws.law import Law
from analysis.objective import LARGEST_LOG, LOG_SQUARED
from analysis.points import Matrix, Stack, Vector
from analysis.rows import Rows
from analysis.solver import Evaluate, Mask, minimise

STIFF = 1e3
"""Weight of the pseudo-point relative to what the data say of g: the attained value is near its aim."""
REACH = 600.0
"""Farthest aim in units of g's own error: beyond, the end counts as open. (The solver takes e^aim as its target.)"""
CLOSE = 1e-6
"""Relative error of t at which an end is found; ends are nearly linear in t, so as exact themselves."""
STUCK = 1e-2
"""Share of a step towards the aim that must be attained; less, with the data agreeing still, and g goes no further."""
ROUNDS = 40
"""Of the search; ten are usual."""
LATE = 12
"""Turn from which on near a bound, where roots have kinks, every other step is a bisection."""
JUMP, NARROW = 0.05, 0.01
"""Share of t by which roots differ between ends that lie less than this share of g's error apart: a jump, as there is
where the bounded parameter leaves its bound, and where only halving the bracket leads on."""
LEAST_LUCK = 0.01
"""Share of a single run's variance by which the interval of a new run is wider than the curve's at least."""


@dataclass(frozen=True, kw_only=True)
class Scalars:
    """K numbers that follow from the parameters."""

    evaluate: Callable[[Matrix], tuple[Matrix, Stack]]
    """(B, p) thetas -> values (B, K), gradients (B, K, p)."""
    caps: Vector
    """(K,) largest first step of each; infinite where nothing is known."""


def coordinates(low: Vector, high: Vector) -> Scalars:
    """The thetas themselves, between their bounds."""
    p = len(low)
    span = np.where(np.isfinite(high - low), high - low, 40.0)
    return Scalars(
        evaluate=lambda thetas: (thetas, np.broadcast_to(np.eye(p), (len(thetas), p, p))), caps=np.minimum(1, span / 20)
    )


def log_curve(law: Law, x: Matrix) -> Scalars:
    """ln y at x (K, k)."""
    return Scalars(evaluate=lambda thetas: law.evaluate(x, thetas), caps=np.ones(len(x)))


def plain_curve(law: Law, x: Matrix, scale: float) -> Scalars:
    """y / scale at x (K, k)."""
    rows = natural(law, scale)
    return Scalars(evaluate=lambda thetas: rows(x, thetas), caps=np.full(len(x), np.inf))


def natural(law: Law, scale: float) -> Evaluate:
    """The law's y / scale and its gradient, where residuals are no logarithms."""
    shift = np.log(scale)

    def evaluate(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
        curves, gradient = law.evaluate(x, thetas)
        plain = np.exp(np.minimum(curves - shift, LARGEST_LOG))
        return plain, gradient * plain[..., None]

    return evaluate


def number(function: Callable[[Matrix], Vector], low: Vector, high: Vector) -> Scalars:
    """Any smooth function (B, p) -> (B,), its gradient by central differences that stay between the bounds."""

    def evaluate(thetas: Matrix) -> tuple[Matrix, Stack]:
        values, p = function(thetas), thetas.shape[1]
        gradient = np.empty(thetas.shape)
        for j in range(p):
            h = 1e-6 * np.maximum(1.0, np.abs(thetas[:, j]))
            up, down = thetas.copy(), thetas.copy()
            up[:, j] = np.minimum(thetas[:, j] + h, high[j])
            down[:, j] = np.maximum(thetas[:, j] - h, low[j])
            width = up[:, j] - down[:, j]
            gradient[:, j] = (function(up) - function(down)) / np.where(width > 0, width, 1.0)
        return values[:, None], gradient[:, None, :]

    return Scalars(evaluate=evaluate, caps=np.full(1, np.inf))


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Of K numbers in D data sets."""

    low: Matrix
    high: Matrix
    """(D, K); where open, the farthest value that the law attains. NaN where the search failed."""
    low_open: Mask
    high_open: Mask
    """(D, K) whether the data agree with everything on this side."""
    better: Mask
    """(D,) whether the search met a curve that fits better than the optimum it was given."""


def interval_ends(rows: Rows, scalars: Scalars, t: Vector, variance: Vector, new: Matrix | None = None) -> Ends:
    """Ends at Student's quantile t (D,), for the residual variance (D,) of a point of weight 1.

    new (D, K): the weight of one new run; then the ends are those of a run at the scalars, which are in the residuals'
    unit, and not of the curve.
    """
    search = _Search(rows, scalars, t, variance, new)
    search.run()
    shape = (len(rows.thetas), search.n_scalars, 2)
    ends, is_open = search.ends.reshape(shape), search.open.reshape(shape)
    return Ends(
        low=ends[..., 0],
        high=ends[..., 1],
        low_open=is_open[..., 0],
        high_open=is_open[..., 1],
        better=np.any(search.better.reshape(len(rows.thetas), -1), axis=1),
    )


def variance_of_a_run(
    curve: Matrix,
    of_cells: Matrix | float,
    n_cells: float,
    of_runs: Matrix | float,
    n_runs: float,
    *,
    level: float = 0.95,
) -> Matrix:
    """What one more run adds to the variance of the curve, to be taken t^2 times, t of `n_cells` degrees of freedom.

    Its own variance has two parts: of means over the runs of a cell, estimated with `n_cells` degrees of freedom as the
    curve's is, and what averaging removed, with `n_runs`. Half widths by Graybill and Wang (1980), each part by its own
    t, cover 95 to 99 %, by Satterthwaite 87 to 98 %. Taken here is the first by the share of the part known with
    fewer degrees of freedom, the second by the other's share. For a plain sum that covers 94.5 to 97.9 % with two
    degrees of freedom or more, whatever the ratio of the parts, and 92 to 98 % with one (beside two or more).
    """
    tail, first = (1 + level) / 2, curve + of_cells
    total, t = first + of_runs, stats.t.ppf(tail, n_cells)
    apart = np.sqrt(t**2 * first + stats.t.ppf(tail, n_runs) ** 2 * of_runs)
    free = total**2 / (first**2 / n_cells + of_runs**2 / n_runs)
    share = (first if n_cells <= n_runs else of_runs) / total
    half = share * apart + (1 - share) * stats.t.ppf(tail, free) * np.sqrt(total)
    added: Matrix = np.maximum((half / t) ** 2 - curve, LEAST_LUCK * (of_cells + of_runs))
    return added


@dataclass
class _At:
    """A place on the way to an end, one entry a member."""

    aim: Vector
    """Target of the pseudo-point, in which the search is done."""
    value: Vector
    """What the number came to be."""
    root: Vector
    """Signed root of (S - S_min) / s^2, nearly linear in both."""
    theta: Matrix

    def put(self, ids: Vector, other: _At, which: Mask) -> None:
        for name in ("aim", "value", "root", "theta"):
            getattr(self, name)[ids[which]] = getattr(other, name)[which]

    def copy(self) -> _At:
        return _At(self.aim.copy(), self.value.copy(), self.root.copy(), self.theta.copy())


@dataclass
class _Search:
    """One member for each data set, number and side, in this order."""

    rows: Rows
    scalars: Scalars
    t_of_set: Vector
    variance_of_set: Vector
    new: Matrix | None
    n_scalars: int = field(init=False)

    def __post_init__(self) -> None:
        rows = self.rows
        best, gradient = self.scalars.evaluate(rows.thetas)
        n_sets, self.n_scalars = best.shape
        members = np.arange(n_sets * self.n_scalars * 2)
        self.set, self.scalar = members // (2 * self.n_scalars), members // 2 % self.n_scalars
        self.side = np.where(members % 2, 1.0, -1.0)
        self.t, self.variance = self.t_of_set[self.set], self.variance_of_set[self.set]
        self.least = rows.squares(rows.thetas)[self.set]
        self.best, gradient = best.reshape(-1).repeat(2), gradient.reshape(-1, gradient.shape[-1]).repeat(2, axis=0)
        towards = np.einsum("mpq,mq->mp", rows.covariance()[self.set], gradient)
        spread = np.einsum("mp,mp->m", towards, gradient)
        with np.errstate(divide="ignore", invalid="ignore"):
            self.direction = np.where(spread[:, None] > 0, towards / spread[:, None], 0.0)
        error = np.sqrt(spread * self.variance)
        caps = self.scalars.caps[self.scalar]
        error = np.where(error > 0, np.minimum(error, caps), np.where(np.isfinite(caps), caps, 1.0))
        self.weight = STIFF * self.variance / error**2
        if self.new is not None:
            self.weight = self.new[self.set, self.scalar]
            error = np.sqrt(error**2 + self.variance / self.weight)
        self.error = error
        # one zero and one unit for each number, common to all data sets, as the solver's pseudo-points have them
        self.zero, self.unit = np.median(best, axis=0), np.median(error.reshape(n_sets, -1, 2)[..., 0], axis=0)
        self.ends, self.open = np.full(len(members), np.nan), np.zeros(len(members), bool)
        self.better = np.zeros(len(members), bool)
        # within 2 t of its bound in its own errors the interval of some number may reach curves that feel it
        self.near = rows.nearest.cost <= (2 * self.t_of_set) ** 2 * self.variance_of_set

    def run(self) -> None:
        ids = np.arange(len(self.set))
        ids = ids[np.isfinite(self.t) & np.isfinite(self.error) & (self.error > 0)]
        inside = _At(self.best.copy(), self.best.copy(), np.zeros(len(self.set)), self.rows.thetas[self.set])
        outside = inside.copy()
        outside.aim[:] = np.nan
        last = inside.copy()
        aim = (self.best + self.side * self.error * np.minimum(self.t, 3.0))[ids]
        for turn in range(ROUNDS):
            met = self._constrained(ids, aim, inside, outside)
            usable, below = np.isfinite(met.root), met.root < self.t[ids]
            self.better[ids] |= met.root < -1e-3
            bracketed = np.isfinite(outside.aim[ids])
            found = np.abs(met.root - self.t[ids]) <= CLOSE * self.t[ids]
            found |= bracketed & (np.abs(outside.aim - inside.aim)[ids] <= CLOSE * self.error[ids])
            stuck = np.abs(met.value - inside.value[ids]) <= STUCK * np.abs(aim - inside.aim[ids])
            stuck |= np.abs(aim - self.zero[self.scalar[ids]]) >= self._reach(ids)
            is_open = below & ~bracketed & ~found & stuck
            previous = last.copy()
            last.put(ids, met, usable)
            inside.put(ids, met, below & usable)
            outside.put(ids, met, ~below & usable)
            self.ends[ids[found | is_open]] = met.value[found | is_open]
            self.open[ids[is_open]] = True
            ids = ids[~found & ~is_open & usable]
            if not len(ids):
                break
            aim = self._next(ids, turn, inside, outside, last, previous)

    def _reach(self, ids: Vector) -> Vector:
        return 0.99 * REACH * self.unit[self.scalar[ids]]

    def _next(self, ids: Vector, turn: int, inside: _At, outside: _At, last: _At, previous: _At) -> Vector:
        """The secant through the last two places; a bisection where it leaves the bracket, or every third turn."""
        t, side, least, most = self.t[ids], self.side[ids], inside.aim[ids], outside.aim[ids]
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (last.aim - previous.aim)[ids] / (last.root - previous.root)[ids]
            aim = last.aim[ids] + (t - last.root[ids]) * slope
            within = (aim - least) * (aim - most) < 0
        bracketed = np.isfinite(most)
        far = np.abs(last.root[ids] - t) > 0.1 * t
        jumps = (outside.root - inside.root)[ids] > JUMP * t
        jumps &= np.abs(most - least) < NARROW * self.error[ids]
        late = self.near[self.set[ids]] & (turn >= LATE) & (turn % 2 == 0)
        bisect = bracketed & (~within | (far & (turn % 3 == 2)) | jumps | late)
        # without a bracket: at most four times as far from the optimum as now, and no leap into another basin
        gone = (least - self.best[ids]) * side
        distance = np.where(np.isfinite(aim), (aim - self.best[ids]) * side, np.inf)
        leap = np.maximum(3 * self.scalars.caps[self.scalar[ids]], gone / 2)
        leap = np.minimum(leap, 3 * np.maximum(gone, self.error[ids]))
        distance = np.clip(distance, 1.02 * gone, gone + leap)
        aim = np.where(bracketed, np.where(bisect, (least + most) / 2, aim), self.best[ids] + side * distance)
        zero, reach = self.zero[self.scalar[ids]], self._reach(ids)
        return np.clip(aim, zero - reach, zero + reach)

    def _constrained(self, ids: Vector, aim: Vector, inside: _At, outside: _At) -> _At:
        """The best curves with the numbers near `aim`."""
        rows, n_scalars = self.rows, self.n_scalars
        sets, scalar = self.set[ids], self.scalar[ids]
        n_points = rows.measured.shape[1]
        own = np.arange(len(ids)), n_points + scalar
        targets = np.ones((len(ids), n_points + n_scalars))
        targets[:, :n_points] = np.exp(rows.measured[sets])
        targets[own] = np.exp(np.clip((aim - self.zero[scalar]) / self.unit[scalar], -REACH, REACH))
        weights = np.zeros_like(targets)
        weights[:, :n_points] = rows.weights[sets]
        weights[own] = self.weight[ids] * self.unit[scalar] ** 2
        padded = np.concatenate([rows.x, np.repeat(rows.x[:1], n_scalars, axis=0)])
        starts = self._starts(ids, aim, inside, outside)
        low, high = np.tile(rows.low[sets], (2, 1)), np.tile(rows.high[sets], (2, 1))
        targets, weights = np.tile(targets, (2, 1)), np.tile(weights, (2, 1))
        found = minimise(self._evaluate, padded, targets, weights, starts, low, high, LOG_SQUARED)
        # one that still crawls along a flat valley has nearly its least value, all that is asked of it
        values = np.where(np.isfinite(found.values), found.values, np.inf).reshape(2, -1)
        best = np.argmin(values, axis=0)
        thetas = found.thetas.reshape(2, len(ids), -1)[best, np.arange(len(ids))]
        value = self.scalars.evaluate(thetas)[0][np.arange(len(ids)), scalar]
        total = rows.squares(thetas, sets)
        gap = value - aim
        if self.new is not None:
            total = total + self.weight[ids] * gap**2
            value = aim.copy()
        excess = (total - self.least[ids]) / self.variance[ids]
        found = np.sign(excess) * np.sqrt(np.abs(excess))
        near = self.near[sets] & (found > 0)
        found[near] = self._near_bound(ids[near], thetas[near], gap[near], total[near], found[near])
        return _At(aim, value, found, thetas)

    def _near_bound(self, ids: Vector, thetas: Matrix, gap: Vector, total: Vector, found: Vector) -> Vector:
        """Roots where a bound is near."""
        sets, scalar = self.set[ids], self.scalar[ids]
        gradient = self.scalars.evaluate(thetas)[1][np.arange(len(ids)), scalar]
        luck = np.zeros(len(ids)) if self.new is None else 1 / self.weight[ids]
        place = self.rows.place(thetas, sets, gradient, luck, gap)
        return root(total, self.least[ids], place, self.rows.free[sets], found)

    def _starts(self, ids: Vector, aim: Vector, inside: _At, outside: _At) -> Matrix:
        """(2 x members, p): from the last curve inside, because the profile is continuous; and a guess ahead.

        The guess follows the law's linearisation at the optimum, or lies between the bracket's curves once it has two.
        """
        begin, move = inside.theta[ids], (aim - inside.aim[ids])[:, None]
        width = (outside.aim - inside.aim)[ids][:, None]
        bracketed = np.isfinite(width) & (width != 0)
        between = (outside.theta[ids] - begin) / np.where(bracketed, width, 1.0)
        ahead = np.zeros_like(begin) if self.new is not None else self.direction[ids]
        return np.concatenate([begin, begin + move * np.where(bracketed, between, ahead)])

    def _evaluate(self, padded: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
        curves, gradient = self.rows.evaluate(self.rows.x, thetas)
        values, slopes = self.scalars.evaluate(thetas)
        values, slopes = (values - self.zero) / self.unit, slopes / self.unit[:, None]
        return np.concatenate([curves, values], axis=1), np.concatenate([gradient, slopes], axis=1)
