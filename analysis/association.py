"""Correlations of few pairs, many at once: coefficients, intervals, p-values. Arrays only; tables are `correlate`'s.

Pairs run along the last axis, the rest broadcasts. Intervals were chosen by measured coverage of a nominal 95 %, over
true correlations 0, .5, .8 and 8, 12, 30 tasks, of normal numbers / of skewed benefits: percentile bootstrap 88-95 % /
81-92 %, BCa 92-95 % / 83-94 %, bootstrap-t on Fisher's scale 94-99 % / 89-99 %, Fisher's 95 % / 85-95 %, jackknife on
his scale with Student's t 94-97 % / 91-95 %; `pearson_interval`, between the last two, 95-97 % / 90-97 %. A bootstrap
that also draws each benefit anew from its error adds that error a second time: it covers the correlation with the true
benefits in 4-100 %. No interval holds for a strong correlation with a heavy-tailed feature (lognormal, sigma 1.2: 70-94
%): take ranks or the logarithm there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.points import Index, Matrix, Stack, Vector

ALL_PERMUTATIONS = 8
"""Up to so many tasks every permutation is tried (8! = 40,320); beyond, PERMUTATIONS random ones."""
PERMUTATIONS = 9_999
LEVEL = 0.95
ROUNDING = 1e-12
"""Relative: sums of the same numbers in another order differ in their last digits."""
PERFECT = 1 - 1e-15
AT_ONCE = 1 << 21
"""Numbers of permuted rows held at a time, 16 MB."""
MIN_RELIABILITY = 0.2
"""Below it errors explain so much of the spread of benefits that a correction for them says nothing."""


def centred(values: Matrix) -> Matrix:
    """Along the last axis."""
    return values - values.mean(-1, keepdims=True)


def standardised(values: Matrix) -> Matrix:
    """Centred, of length 1, so that a product of two is their correlation; 0 where there is no spread."""
    middle = centred(values)
    length = np.linalg.norm(middle, axis=-1, keepdims=True)
    return np.divide(middle, length, out=np.zeros_like(middle), where=length > 0)


def spread(values: Matrix) -> NDArray[np.bool_]:
    """Whether values differ by more than rounding."""
    return np.ptp(values, axis=-1) > ROUNDING * np.maximum(1.0, np.abs(values).max(-1))


def ranks(values: Matrix) -> Matrix:
    """Ties share the mean of their ranks."""
    return np.asarray(stats.rankdata(values, axis=-1), np.float64)


def pearson(x: Matrix, y: Matrix) -> Matrix:
    """(..., n), (..., n) -> (...) Pearson's r; of `ranks`, Spearman's."""
    return np.clip((standardised(x) * standardised(y)).sum(-1), -1.0, 1.0)


def kendall(x: Matrix, y: Matrix) -> Matrix:
    """(..., n), (..., n) -> (...) Kendall's tau-b."""
    sign_x, sign_y = (np.sign(values[..., :, None] - values[..., None, :]) for values in (x, y))
    untied = np.sqrt(np.abs(sign_x).sum((-1, -2)) * np.abs(sign_y).sum((-1, -2)))
    agreeing = np.einsum("...ij,...ij->...", sign_x, sign_y)
    return np.divide(agreeing, untied, out=np.zeros_like(agreeing), where=untied > 0)


def leave_one_out(x: Matrix, y: Matrix) -> Stack:
    """(..., n) Pearson's r without each pair; 0 where the others have no spread, as they then show no correlation."""
    n = x.shape[-1]
    x, y = centred(x), centred(y)
    sums = [(a * b).sum(-1, keepdims=True) - n / (n - 1) * a * b for a, b in ((x, x), (y, y), (x, y))]
    # What is left of a sum of squares by cancellation is rounding.
    least = [64 * np.finfo(float).eps * (a * a).sum(-1, keepdims=True) for a in (x, y)]
    known = (sums[0] > least[0]) & (sums[1] > least[1])
    length = np.sqrt(np.where(known, sums[0] * sums[1], 1.0))
    return np.clip(np.where(known, sums[2] / length, 0.0), -1.0, 1.0)


def fisher_z(r: Matrix) -> Matrix:
    """arctanh, finite for |r| = 1."""
    return np.arctanh(np.clip(r, -PERFECT, PERFECT))


def pearson_interval(r: Matrix, without: Stack) -> tuple[Matrix, Matrix]:
    """95 % interval of Pearson's r from r without each of n pairs, on Fisher's scale.

    For the correlation of the population that the tasks are taken from. Its half is the root mean square of two:
    t(n - 2) x the jackknife error, which knows how the numbers are distributed but scatters, and 1.96 / sqrt(n - 3),
    which is right for normal numbers. Needs four pairs.
    """
    n = without.shape[-1]
    error = np.sqrt((n - 1) / n * (centred(fisher_z(without)) ** 2).sum(-1))
    halves = [stats.t.ppf((1 + LEVEL) / 2, n - 2) * error, stats.norm.ppf((1 + LEVEL) / 2) / math.sqrt(n - 3)]
    half = np.sqrt((halves[0] ** 2 + halves[1] ** 2) / 2)
    return np.tanh(fisher_z(r) - half), np.tanh(fisher_z(r) + half)


def normal_interval(r: Matrix, n: int, *, kind: str = "pearson") -> tuple[Matrix, Matrix]:
    """95 % interval on Fisher's scale with the standard error of a normal sample; NaN for too few pairs.

    pearson: 1 / sqrt(n - 3) (Fisher 1915); spearman: that x sqrt(1 + r^2 / 2) (Bonett and Wright 2000); kendall:
    sqrt(.437 / (n - 4)) (Fieller, Hartley and Pearson 1957). Ranks keep it under any monotone change of scale.
    """
    free = n - (4 if kind == "kendall" else 3)
    if free < 1:
        return np.full_like(r, np.nan), np.full_like(r, np.nan)
    factor = {"pearson": np.ones_like(r), "spearman": np.sqrt(1 + r**2 / 2), "kendall": np.full_like(r, 0.437**0.5)}
    half = stats.norm.ppf((1 + LEVEL) / 2) * factor[kind] / math.sqrt(free)
    return np.tanh(fisher_z(r) - half), np.tanh(fisher_z(r) + half)


def reliability(y: Matrix, se: Matrix) -> Matrix:
    """Share of the variance of measured y (..., n) that is no error: 1 - mean se^2 / variance; may be negative."""
    return 1 - (se**2).mean(-1) / y.var(-1, ddof=1)


def partial(x: Matrix, y: Matrix, control: Vector) -> Matrix:
    """Pearson's r of what a straight line in `control` (n,) leaves of x and of y; NaN where it leaves nothing."""
    c = standardised(control)
    left = [centred(values) - (centred(values) @ c)[..., None] * c for values in (x, y)]
    kept = [
        np.linalg.norm(rest, axis=-1) > 1e-6 * np.linalg.norm(centred(values), axis=-1)
        for rest, values in zip(left, (x, y), strict=True)
    ]
    return np.where(np.logical_and(*kept), pearson(*left), np.nan)


def t_p(r: Matrix, free: int) -> Matrix:
    """Two-sided p of a correlation with so many degrees of freedom, by Student's t."""
    r = np.clip(r, -PERFECT, PERFECT)
    return np.asarray(2 * stats.t.sf(np.abs(r) * np.sqrt(free / (1 - r**2)), free), np.float64)


def orders(n: int, seed: int) -> tuple[Index, int]:
    """(P, n) reorderings, and 1 where they are a random choice, that has to count the order observed."""
    if n <= ALL_PERMUTATIONS:
        return np.array(list(itertools.permutations(range(n)))), 0
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1), 1


def _permuted(x: Matrix, y: Matrix, ordered: Index) -> Iterator[Stack]:
    """|x (F, n) . reordered y (A, n)|, (some P, F, A) at a time."""
    at_once = max(1, AT_ONCE // max(1, y.size))
    for start in range(0, len(ordered), at_once):
        yield np.abs(np.einsum("fn,apn->pfa", x, y[:, ordered[start : start + at_once]], optimize=True))


def permutation_p(x: Matrix, y: Matrix, *, seed: int = 0) -> Matrix:
    """(F, A) share of reorderings of the tasks that correlate at least as strongly, two-sided, never 0.

    x (F, n), y (A, n). Exact for few tasks; holds whatever the distributions, if tasks could change places when nothing
    goes together.
    """
    ordered, extra = orders(x.shape[-1], seed)
    x, y = standardised(x), standardised(y)
    observed = np.abs(x @ y.T) - ROUNDING
    count = sum((r >= observed).sum(0) for r in _permuted(x, y, ordered))
    return np.asarray((count + extra) / (len(ordered) + extra), np.float64)


def family_p(x: Matrix, y: Matrix, tested: NDArray[np.bool_], *, seed: int = 0) -> Matrix:
    """(F, A) p of the strongest of all `tested` pairs (F, A) being as strong (Westfall and Young 1993, max |r|).

    Tasks are reordered for all pairs together, so that what features have in common and algorithms have in common
    costs nothing. A NaN in x or y counts as the mean of the rest: it adds nothing to a correlation.
    """
    ordered, extra = orders(x.shape[-1], seed)
    x, y = (standardised(np.where(np.isnan(v), _mean(v), v)) for v in (x, y))
    observed = np.abs(x @ y.T) - ROUNDING
    strongest = np.concatenate([r[:, tested].max(1, initial=0) for r in _permuted(x, y, ordered)])
    strongest.sort()
    count = len(strongest) - np.searchsorted(strongest, observed, side="left")
    return np.where(tested, (count + extra) / (len(ordered) + extra), np.nan)


def _mean(values: Matrix) -> Matrix:
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(-1, keepdims=True)
    return total / np.maximum(known.sum(-1, keepdims=True), 1)


def kendall_p(x: Matrix, y: Vector) -> Vector:
    """(F,) two-sided p of Kendall's tau, x (F, n), y (n,): exact without ties, or by all reorderings of few tasks; else
    normal, with the variance of ties (Kendall and Gibbons 1990)."""
    if len(y) > ALL_PERMUTATIONS:
        return np.array([float(stats.kendalltau(values, y).pvalue) for values in x])
    ordered, _ = orders(len(y), 0)
    signs_x, signs_y = (np.sign(values[..., :, None] - values[..., None, :]) for values in (x, y))
    shuffled = signs_y[ordered[:, :, None], ordered[:, None, :]].reshape(len(ordered), -1)
    agreeing = np.abs(signs_x.reshape(len(x), -1) @ shuffled.T)  # (F, P), whole numbers
    return np.asarray((agreeing >= np.abs(signs_x.reshape(len(x), -1) @ signs_y.ravel())[:, None]).mean(1), np.float64)


def benjamini_hochberg(p: Vector) -> Vector:
    """q-values, in the order given (Benjamini and Hochberg 1995)."""
    return np.asarray(stats.false_discovery_control(p, method="bh"), np.float64) if len(p) else p


def detectable(n: int, *, level: float = 0.05, power: float | None = None) -> float:
    """Smallest |r| that n tasks can call significant two-sided, by Student's t; 1 for fewer than four.

    With `power`, the smallest true |r| that is called so with this probability: Fisher's z is
    taken as normal about arctanh rho + rho / (2 n - 2) (Fisher 1915), which is right to .01 of the power.
    """
    if n < 4:
        return 1.0
    t = stats.t.ppf(1 - level / 2, n - 2)
    least = float(t / math.sqrt(n - 2 + t**2))
    if power is None:
        return least
    aim = math.atanh(least) + float(stats.norm.ppf(power)) / math.sqrt(n - 3)
    true = least
    for _ in range(20):  # each step takes nine tenths of the error away, or more
        true = math.tanh(aim - true / (2 * (n - 1)))
    return true
