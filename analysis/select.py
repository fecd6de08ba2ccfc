"""Which law: each is fitted to the smaller sizes and judged by the larger ones, as it will be used.

Good at: telling laws apart where they differ, beyond the data. Bad at few sizes, where one held-out point decides, and
blind to what sets in only beyond the data. So the laws that did nearly as well as the best are kept: their weighted
geometric mean is the prediction. How far all laws that were judged are from it is part of its interval: what a law may
be wrong by is more than what the few that agree with it differ by.

The smallest sizes are left out of a law's fit where that foretells clearly better: laws are asymptotic, and what
happens early (warm-up, chance level, another regime) would bend a form that is right later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from analysis.fit import Fit, fit
from analysis.laws import LAWS
from analysis.laws.law import Law
from analysis.objective import LOG_SQUARED, Objective
from analysis.points import Index, Matrix, Points, Vector
from analysis.uncertainty import Band, Uncertainty, uncertainty

MOST_CUTS = 4
LEFT_OUT = (0.0, 0.2, 0.4)
"""Parts of the sizes, smallest first, that a fit may go without."""
CLEARLY = 0.5
"""Score over that of the fit to all sizes below which a fit to fewer is taken: half the error is hardly noise."""
RIGID = 3
"""Parameters of a law up to which sizes may be left out; laws of more have an early part of their own."""
FEWEST_SIZES = 3
"""In the smaller part: a line has two parameters."""
GOOD = 1.5
"""Score over the winner's up to which a law is good too: with a handful of held-out points a ratio of 1.5 of two root
mean squares is no evidence for either."""
EXACT = 1e-6
"""Scores below it are all perfect; the law of fewer parameters comes first."""
ONE_INPUT = ("power", "saturating", "m3", "m4", "broken1")
"""Laws of one size; more breaks on request. No law whose x is a loss."""


def sizes_laws(n_inputs: int = 1) -> tuple[Law, ...]:
    """The laws tried when none are named: those of one size."""
    return tuple(LAWS[name] for name in ONE_INPUT if len(LAWS[name].inputs) == n_inputs)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    law: Law
    fit: Fit
    """To all points but those of the sizes left out."""
    left_out: int
    """How many of the smallest sizes the fit does better without."""
    errors: dict[int, float]
    """Sizes fitted -> root mean squared log error on all larger ones; only cuts at which the law could be fitted."""
    score: float
    """Mean of the errors over all cuts, RMSLE; a cut that this law cannot fit counts what the others made of it, scaled
    by how this law compares elsewhere. NaN without a cut."""
    weight: float
    """Of its prediction, 0-1; 0 unless it is good."""
    reason: str
    """Why it has no score or no fit, else what the fit's status says; empty where all is well."""

    @property
    def applicable(self) -> bool:
        return bool(np.isfinite(self.score))


@dataclass(frozen=True, kw_only=True)
class Selection:
    candidates: tuple[Candidate, ...]
    """Best first, those without a score last."""
    cuts: tuple[int, ...]
    """How many of the distinct sizes, smallest first, were fitted in each round."""
    reason: str
    """Why there is no winner, or why it was not chosen by extrapolation; empty otherwise."""
    sure: Callable[[Fit], Uncertainty] = uncertainty
    """What the intervals of a good law's fit are; all of one level."""

    @property
    def good(self) -> tuple[Candidate, ...]:
        """The winner and those that did nearly as well."""
        return tuple(c for c in self.candidates if c.weight > 0)

    @property
    def winner(self) -> Candidate | None:
        """The best, if any law could be fitted."""
        return self.good[0] if self.good else None

    @cached_property
    def _uncertainties(self) -> tuple[Uncertainty, ...]:
        return tuple(self.sure(c.fit) for c in self.good)

    def predict(self, x: Matrix | Vector) -> Vector:
        """y (m,) at x (m, k): the good laws' geometric mean. Raises ValueError where no law could be fitted."""
        return np.exp(self._weights @ _logs(self.good, x))

    def curve(self, x: Matrix | Vector) -> Band:
        """The prediction with its interval: what each good law leaves open, and how far all judged laws are from it.

        What it is worth, measured on seven planted shapes over three decades (results/coverage.md): 95 % intervals hold
        the curve in 83 to 100 % of data sets at ten times the largest of 6 sizes, and in 97 to 100 % of 12 and 24,
        where they are one and a half to five times as wide as the right law's. Lowest where all laws tried are wrong
        alike. Laws that the sizes are too few to score have no word in it, nor has what sets in beyond the data. Laws
        of two sizes were not measured.
        """
        return self._band(x, lambda u, at: u.curve(at))

    def new_runs(self, x: Matrix | Vector) -> Band:
        """The same for one more run at each x."""
        return self._band(x, lambda u, at: u.new_runs(at))

    @property
    def _weights(self) -> Vector:
        if not self.good:
            raise ValueError(f"no law to predict with: {self.reason}")
        return np.array([c.weight for c in self.good])

    def _disagreement(self, x: Matrix | Vector, value: Vector) -> Vector:
        """(m,) mean square distance from `value`, ln y, of all laws with a score, by its inverse.

        The larger sizes are the same in all rounds, so that a score tells about as much as one held-out error, and the
        likelihood of one normal error, at the best scale, goes as its inverse. Nothing where the winner is perfect.
        """
        scored = [c for c in self.candidates if c.applicable and c.fit.status.usable]
        if not scored or scored[0].score <= EXACT:
            return np.zeros_like(value)
        odds = 1 / np.array([c.score for c in scored])
        return np.asarray(odds @ (_logs(scored, x) - value) ** 2 / odds.sum())

    def _band(self, x: Matrix | Vector, of: Callable[[Uncertainty, Matrix | Vector], Band]) -> Band:
        """Variances of logarithms, each side of the value by itself; ends are NaN where no good law has an interval."""
        weights, logs = self._weights, _logs(self.good, x)
        value = weights @ logs
        bands = [of(u, x) for u in self._uncertainties]
        normal = float(stats.norm.ppf((1 + self._uncertainties[0].level) / 2))
        disagreement = normal**2 * self._disagreement(x, value)
        with np.errstate(divide="ignore"):
            below = np.stack([logs[i] - np.log(band.low) for i, band in enumerate(bands)])
            above = np.stack([np.log(band.high) - logs[i] for i, band in enumerate(bands)])
        low = value - np.sqrt(_average(weights, below**2) + disagreement)
        high = value + np.sqrt(_average(weights, above**2) + disagreement)
        with np.errstate(over="ignore"):
            return Band(value=np.exp(value), low=np.exp(low), high=np.exp(high))


def select(
    given: Points,
    laws: Sequence[Law] | None = None,
    *,
    objective: Objective = LOG_SQUARED,
    scale: Vector | None = None,
    parts: Sequence[float] = LEFT_OUT,
    sure: Callable[[Fit], Uncertainty] = uncertainty,
) -> Selection:
    """The laws in order of how well they foretell the larger sizes from the smaller.

    `laws`: all of one size unless given. `scale` (n,) orders the points from small to large: the product of the inputs
    unless given (compute, for instance). `parts` of the sizes, smallest first, are left out where that foretells
    clearly better; (0,) fits all. Never raises for data.
    """
    laws = sizes_laws() if laws is None else laws
    order = _order(given, scale)
    n_sizes = int(order.max()) + 1 if len(order) else 0
    cuts = _cuts(n_sizes)
    tried = [_Tried(law, n, given, order, cuts, objective) for law in laws for n in _windows(law, n_sizes, parts)]
    scores = dict(zip(map(id, tried), _scores([t.errors for t in tried], cuts), strict=True))
    kept = [_best_window([t for t in tried if t.fit.law is law], scores) for law in laws]
    fits, kept_scores = [t.fit for t in kept], [scores[id(t)] for t in kept]
    candidates = [
        Candidate(
            law=t.fit.law, fit=t.fit, left_out=t.left_out, errors=t.errors, score=s, weight=w, reason=_reason(t, s)
        )
        for t, s, w in zip(kept, kept_scores, _weigh(fits, kept_scores), strict=True)
    ]
    candidates.sort(key=lambda c: (not c.weight, *_rank(c.fit, c.score)))
    reason = ""
    if not any(c.weight for c in candidates):
        reason = f"{candidates[0].law.name}: {candidates[0].reason}" if candidates else "no law was named"
    elif not np.isfinite(kept_scores).any():
        reason = "too few sizes to hold any out; the law of fewest parameters"
    return Selection(candidates=tuple(candidates), cuts=tuple(cuts), reason=reason, sure=sure)


class _Tried:
    """One law without some of the smallest sizes: fitted to all others, and to those below each cut."""

    def __init__(
        self, law: Law, left_out: int, given: Points, order: Index, cuts: Sequence[int], objective: Objective
    ) -> None:
        self.left_out = left_out
        self.fit = fit(law, given.chosen(order >= left_out) if left_out else given, objective=objective)
        self.errors: dict[int, float] = {}
        for cut in cuts if self.fit.status.usable else ():
            small, large = given.chosen((order >= left_out) & (order < cut)), given.chosen(order >= cut)
            past = fit(law, small, objective=objective)
            if past.status.usable and large.weights.sum() > 0:
                missed = law.log_predict(large.x, past.theta) - np.log(large.y)
                self.errors[cut] = float(np.sqrt(np.average(missed**2, weights=large.weights)))


def _windows(law: Law, n_sizes: int, parts: Sequence[float]) -> list[int]:
    return sorted({int(part * n_sizes) for part in (0.0, *parts)}) if len(law.parameters) <= RIGID else [0]


def _best_window(tried: Sequence[_Tried], scores: dict[int, float]) -> _Tried:
    """All sizes, unless fewer are clearly better."""
    whole = tried[0]
    scored = [t for t in tried[1:] if np.isfinite(scores[id(t)])]
    if not scored or not np.isfinite(scores[id(whole)]):
        return whole
    best = min(scored, key=lambda t: scores[id(t)])
    return best if max(scores[id(best)], EXACT) < CLEARLY * scores[id(whole)] else whole


def _order(given: Points, scale: Vector | None) -> Index:
    """(n,) the rank of each point's size; points of one size share one."""
    size = np.prod(given.x, axis=1) if scale is None else np.asarray(scale, np.float64)
    # sizes that differ by rounding are one
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.unique(np.round(np.log(size), 9), return_inverse=True)[1].ravel().astype(np.int64)


def _cuts(n_sizes: int) -> list[int]:
    """From half of the sizes on, evenly, to all but one."""
    first = max(FEWEST_SIZES, -(-n_sizes // 2))
    if first > n_sizes - 1:
        return []
    return sorted({round(j) for j in np.linspace(first, n_sizes - 1, MOST_CUTS)})


def _scores(errors: Sequence[dict[int, float]], cuts: Sequence[int]) -> list[float]:
    """Means over all cuts. How hard a cut is, is judged by the laws that have them all."""
    complete = [e for e in errors if e and len(e) == max(map(len, errors))]
    hardness = {
        cut: float(np.exp(np.mean([np.log(max(e[cut], EXACT)) for e in complete if cut in e])))
        for cut in cuts
        if any(cut in e for e in complete)
    }
    scores = []
    for e in errors:
        own = [cut for cut in e if cut in hardness]
        if not own:
            scores.append(np.nan)
            continue
        ratio = sum(e[cut] for cut in own) / sum(hardness[cut] for cut in own)
        scores.append(float(ratio * np.mean(list(hardness.values()))))
    return scores


def _rank(found: Fit, score: float) -> tuple[float, int]:
    return (max(score, EXACT) if np.isfinite(score) else np.inf, len(found.law.parameters))


def _weigh(fits: Sequence[Fit], scores: Sequence[float]) -> list[float]:
    """By the inverse square of the score among the good ones; all to the simplest law where nothing was scored."""
    scored = np.array([max(s, EXACT) if np.isfinite(s) else np.inf for s in scores])
    if np.isfinite(scored).any():
        best = scored.min()
        raw = np.where(scored <= GOOD * best, (best / scored) ** 2, 0.0)
        if best == EXACT:  # several are perfect: the simplest says it all
            simplest = min(range(len(fits)), key=lambda i: _rank(fits[i], scores[i]))
            raw = np.eye(len(fits))[simplest]
    else:
        usable = [i for i, f in enumerate(fits) if f.status.usable]
        raw = np.zeros(len(fits))
        if usable:
            raw[min(usable, key=lambda i: len(fits[i].law.parameters))] = 1.0
    return list(map(float, raw / raw.sum())) if raw.any() else [0.0] * len(fits)


def _reason(tried: _Tried, score: float) -> str:
    found = tried.fit
    if not found.status.usable or np.isfinite(score):
        return found.reason
    needed = len(found.law.parameters) + 1
    return f"not scored: no smaller part of the sizes allows a fit, which needs {needed} of them and one held out"


def _logs(candidates: Sequence[Candidate], x: Matrix | Vector) -> Matrix:
    """(laws, m) ln y."""
    at = x[:, None] if x.ndim == 1 else x
    return np.stack([c.law.log_predict(at, c.fit.theta) for c in candidates])


def _average(weights: Vector, squares: Matrix) -> Vector:
    """Over the laws that have an interval; NaN where none has."""
    there = ~np.isnan(squares)
    total = weights @ there
    with np.errstate(invalid="ignore"):
        return (weights[:, None] * np.where(there, squares, 0.0)).sum(axis=0) / np.where(total > 0, total, np.nan)
