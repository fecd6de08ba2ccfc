"""Categories side by side: which parameters of a law they share, and which of two wins beyond the largest run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.fit import Fit, Status, fit
from analysis.laws.across import across
from analysis.laws.law import Law
from analysis.laws.power import POWER
from analysis.objective import LOG_SQUARED
from analysis.points import Points, Vector, cell_means, points

FEWEST = 3
"""Common sizes below which two series are not compared: the ratio's line needs a degree of freedom."""


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Whether categories may share one parameter, all others of each its own."""

    parameter: str
    f: float
    """F statistic: what sharing adds to the sum of squares per parameter saved, over the residual variance. NaN where
    `status` says that there is no test."""
    saved: int
    """Parameters that sharing saves: categories - 1."""
    free: int
    """Degrees of freedom left by the law with nothing shared."""
    p: float
    """Of F; exact for laws linear in their parameters, approximate for others."""
    q: float
    """p after Holm over the parameters tested."""
    status: str
    """Empty, or why there is no test."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One pattern of sharing."""

    separate: tuple[str, ...]
    """Parameters of each category its own."""
    fit: Fit
    aicc: float
    """Akaike's criterion for few points (Hurvich and Tsai 1989), lower is better; NaN where it has no value."""


def sharing(base: Law, groups: tuple[str, ...], given: Points) -> list[Sharing]:
    """Of each parameter of `base` the test of one value for all categories against one for each.

    An exponent is tested with all else of each category its own; a coefficient with all exponents shared, as equal
    coefficients of curves of different slope would only say where they cross, which changes with the unit of x.
    `given.x` has the category as its last column (`across`). Cells count once; squares of logarithms, as F asks for.
    """
    means, found = cell_means(given), []
    fits = {names: fit(across(base, groups, names), means) for names in (base.names, _coefficients(base))}
    for name in base.names:
        full = _coefficients(base) if name in _coefficients(base) else base.names
        whole = fits[full]
        if not whole.status.usable or whole.free < 1:
            why = whole.reason if not whole.status.usable else "no degree of freedom is left"
            found.append(_untested(name, len(groups), whole, why))
            continue
        rest = tuple(other for other in full if other != name)
        shared = fit(across(base, groups, rest), means)
        if not shared.status.usable:
            found.append(_untested(name, len(groups), whole, f"with one {name} for all: {shared.reason}"))
            continue
        saved = len(groups) - 1
        more = max(0.0, shared.value - whole.value)
        f = more / saved / max(whole.value / whole.free, np.finfo(float).tiny)
        p = float(stats.f.sf(f, saved, whole.free))
        found.append(
            Sharing(parameter=name, f=float(f), saved=saved, free=whole.free, p=p, q=p, status=_doubt(whole, shared))
        )
    return _holm(found)


def _coefficients(base: Law) -> tuple[str, ...]:
    """Parameters that stretch or lift a curve; the others bend it."""
    return tuple(parameter.name for parameter in base.parameters if parameter.log)


def _doubt(whole: Fit, shared: Fit) -> str:
    """F's distribution holds inside the bounds alone."""
    stuck = [found.reason for found in (whole, shared) if found.status is not Status.CONVERGED]
    return f"approximate: {stuck[0]}" if stuck else ""


def _untested(name: str, n_groups: int, whole: Fit, why: str) -> Sharing:
    free = max(0, whole.free)
    return Sharing(parameter=name, f=np.nan, saved=n_groups - 1, free=free, p=np.nan, q=np.nan, status=why)


def _holm(found: list[Sharing]) -> list[Sharing]:
    """Holm 1979: the smallest p counts as often as there are tests, the next one time less, never falling."""
    order = sorted((i for i, test in enumerate(found) if np.isfinite(test.p)), key=lambda i: found[i].p)
    worst, q = 0.0, {}
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, found[i].p * (len(order) - rank)))
        q[i] = worst
    return [Sharing(**{**vars(test), "q": q[i]}) if i in q else test for i, test in enumerate(found)]


def patterns(base: Law, groups: tuple[str, ...], given: Points) -> list[Choice]:
    """Every pattern of shared and separate parameters that can be fitted, the best by AICc first.

    Where an exponent is separate all coefficients are: what they would share depends on the unit of x.
    """
    coefficients = set(_coefficients(base))
    means, found = cell_means(given), []
    for n in range(len(base.names) + 1):
        for separate in itertools.combinations(base.names, n):
            if set(separate) - coefficients and not coefficients <= set(separate):
                continue
            fitted = fit(across(base, groups, separate), means)
            if fitted.status.usable:
                found.append(Choice(separate=separate, fit=fitted, aicc=_aicc(fitted)))
    return sorted(found, key=lambda choice: (np.isnan(choice.aicc), choice.aicc))


def _aicc(found: Fit) -> float:
    """Of squares: n ln(S / n) + 2 k n / (n - k - 1), k counting the residual variance too."""
    n, k = len(found.points), len(found.law.parameters) + 1
    if n - k - 1 < 1:
        return np.nan
    return float(n * np.log(max(2 * found.value / n, 1e-300)) + 2 * k * n / (n - k - 1))


@dataclass(frozen=True, kw_only=True)
class Duel:
    """Two series of runs at a size of which neither has a run."""

    first: str
    second: str
    x: float
    """The size asked about."""
    times_beyond: float
    """x over the largest common size."""
    ratio: float
    """Error of the first over error of the second at x; NaN where `status` says that there is no answer."""
    low: float
    high: float
    """95 % interval of the ratio, by Student's t."""
    p_first: float
    """Probability that the first has the lower error at x, if the ratio of the errors goes on as a power law."""
    n_sizes: int
    """Common sizes."""
    status: str


def duel(first: str, second: str, one: Points, other: Points, x: float, *, level: float = 0.95) -> Duel:
    """Paired by size: what both have in common (the images of the test sets, the tasks' difficulty) cancels.

    The ratio of two power laws is a power law; it is fitted to the ratios of the series' cell means at common sizes.
    Where floors make the ratio bend this does not hold, and extrapolating it far says little.
    """
    mine, theirs = cell_means(one), cell_means(other)
    common, i, j = np.intersect1d(mine.x[:, 0], theirs.x[:, 0], return_indices=True)

    def answer(
        status: str, ratio: float = np.nan, ends: tuple[float, float] = (np.nan, np.nan), p: float = np.nan
    ) -> Duel:
        return Duel(
            first=first,
            second=second,
            x=x,
            times_beyond=float(x / common.max()) if len(common) else np.nan,
            ratio=ratio,
            low=ends[0],
            high=ends[1],
            p_first=p,
            n_sizes=len(common),
            status=status,
        )

    if len(common) < FEWEST:
        return answer(f"{len(common)} common sizes; at least {FEWEST} are needed")
    ratios: Vector = mine.y[i] / theirs.y[j]
    found = fit(POWER, points(common, ratios), objective=LOG_SQUARED)
    if found.status is not Status.CONVERGED:
        return answer(found.reason)
    gradient = found.law.log_gradient(np.array([[x]]), found.theta)[0]
    inverse = np.linalg.pinv(found.law.log_gradient(found.points.x, found.theta))
    deviation = np.sqrt(2 * found.value / found.free * (gradient @ inverse @ inverse.T @ gradient))
    middle = float(np.log(found.predict(np.array([[x]]))[0]))
    if deviation < 1e-12:  # ratios equal to the last digit prove no law without noise
        return answer("the ratios lie on a line to the last digit: there is no scatter to judge by", np.exp(middle))
    half = float(stats.t.ppf((1 + level) / 2, found.free) * deviation)
    p_first = float(stats.t.cdf(-middle / deviation, found.free))
    return answer("", float(np.exp(middle)), (float(np.exp(middle - half)), float(np.exp(middle + half))), p_first)
