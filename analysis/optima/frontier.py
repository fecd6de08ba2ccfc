"""Compute-optimal model and data sizes by three approaches side by side, each with intervals or with why it has none.

Approach 1: the runs that no cheaper run equals, and a line through them. Approach 2: the minimum of every budget's
runs, and a line through those. Approach 3: a law of N and D, and its optimum in closed form. Hoffmann et al. 2022
(arXiv 2203.15556), section 3. What they disagree by is part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.fit import Fit, Status, fit
from analysis.laws.chinchilla import CHINCHILLA, CHINCHILLA_TIED, untied
from analysis.laws.law import Law
from analysis.objective import LOG_HUBER, Objective
from analysis.optima.allocation import Answer, Approach, Frontier, Line, Optimum, Runs, natural, notes
from analysis.optima.flops import Flops, measured
from analysis.optima.isoflop import OWN_ERROR, WINDOW, budget_labels, minima
from analysis.points import Index, Matrix, Vector, points
from analysis.uncertainty import Estimate, Uncertainty, uncertainty

NEAR = 2.0
"""Factor of FLOPs within which a run can show that a smaller or a larger model does worse."""
BIAS = (
    "a parabola's vertex is off even without noise: by some per cent where sizes are not centred on the minimum, by "
    "more for unequal exponents (arXiv 2603.22339); where they disagree, trust the cubic and approach 3"
)
DISAGREE = 0.10
"""Difference of a budget's minimum by parabola and by cubic, a share, worth a warning."""
KNOWN = 0.7
"""Standard error of ln N_opt, a factor of two, up to which its interval is searched for by profile."""
LogOptimum = Callable[[Matrix], tuple[Vector, Vector, Vector]]
BOUND = 1e-6
"""Distance of an exponent from its bound that counts as being there."""


def frontier(
    n_params: Vector,
    n_images: Vector,
    y: Vector,
    *,
    flops: Vector | None = None,
    flops_per: float | None = None,
    budgets: Sequence[float] = (),
    groups: Index | None = None,
    weights: Vector | None = None,
    clusters: Index | None = None,
    law: Law = CHINCHILLA,
    objective: Objective = LOG_HUBER,
    n_bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Frontier:
    """All approaches on the same runs; never raises for data.

    n_params, n_images, y (n,): sizes and losses of runs; n_images is what FLOPs grow with: images seen, where a run
    sees some twice. flops (n,): of each run; without them k N D with k = `flops_per` (6 unless given). `flops_per` with
    `flops` overrules the relation measured from them. budgets: FLOPs. groups (n,): isoFLOP budgets by label, -1
    for none; without them they are found. weights, clusters: of the law's fit. law: chinchilla or chinchilla_tied.
    Raises ValueError for another law, for lengths that differ and for budgets that are no positive numbers.
    """
    columns: dict[str, Any] = {"n_params": n_params, "n_images": n_images, "y": y, "flops": flops, "weights": weights}
    _refuse_misuse(law, columns | {"clusters": clusters, "groups": groups}, budgets)
    given = [np.asarray(column, np.float64) for column in (n_params, n_images, y, flops) if column is not None]
    if any(not (np.isfinite(column) & (column > 0)).all() for column in given) or not len(given[0]):
        return _nothing(law)
    cost = Flops() if flops_per is None else Flops(k=flops_per)
    if flops is not None and flops_per is None:
        cost = measured(given[0], given[1], given[3])
    spent = given[3] if flops is not None else cost.of(given[0], given[1])
    runs = Runs(
        n_params=given[0],
        n_images=given[1],
        flops=spent,
        y=given[2],
        weights=np.ones(len(spent)) if weights is None else np.asarray(weights, np.float64),
        clusters=clusters,
        cost=cost,
    )
    labels = budget_labels(runs.n_params, spent) if groups is None else np.asarray(groups, np.int64)
    asked = tuple(map(float, budgets))
    parabola, cubic = (_by_minima(runs, labels, asked, degree, n_bootstrap, seed, level) for degree in (2, 3))
    return Frontier(
        approaches=(
            _by_envelope(runs, asked, n_bootstrap, seed, level),
            _compared(parabola, cubic),
            cubic,
            _by_law(runs, asked, law, objective, n_bootstrap, seed, level),
        ),
        flops=cost,
        largest=float(spent.max()),
        warnings=cost_warnings(cost),
    )


def _refuse_misuse(law: Law, columns: dict[str, Any], budgets: Sequence[float]) -> None:
    if law not in (CHINCHILLA, CHINCHILLA_TIED):
        raise ValueError(f"law: {law.name!r} has no frontier in closed form; allowed: chinchilla, chinchilla_tied")
    lengths = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of different lengths: {lengths}")
    if bad := [budget for budget in budgets if not (np.isfinite(budget) and budget > 0)]:
        raise ValueError(f"budgets: {bad[0]!r} is no positive number of FLOPs")


def _nothing(law: Law) -> Frontier:
    """Of input that has no logarithms."""
    named = (("envelope", 1), ("parabola", 2), ("cubic", 2), (law.name, 3))
    why = Answer.BAD_INPUT
    return Frontier(
        approaches=tuple(Approach(name=name, number=n, status=why, reason=why.value) for name, n in named),
        flops=Flops(),
        largest=np.nan,
        warnings=(),
    )


def cost_warnings(cost: Flops) -> tuple[str, ...]:
    if cost.spread <= DISAGREE:
        return ()
    return (f"FLOPs depart from k N^{cost.power:.2f} D by up to {cost.spread:.0%}: data sizes are as uncertain",)


def _by_envelope(runs: Runs, budgets: Sequence[float], n: int, seed: int, level: float) -> Approach:
    """Approach 1; its draws are Student's t of the line through the runs."""
    cells, index = np.unique(np.column_stack([runs.n_params, runs.n_images]), axis=0, return_inverse=True)
    index = index.ravel()
    count = np.bincount(index)
    y, flops = np.bincount(index, runs.y) / count, np.exp(np.bincount(index, np.log(runs.flops)) / count)
    on = _envelope(flops, y)
    inner = np.array([cell for cell in on if _interior(cell, cells[:, 0], flops, y)], np.int64)
    rows = np.flatnonzero(np.isin(index, inner))
    blank = Approach(name="envelope", number=1, status=Answer.ANSWERED, reason="", rows=rows)
    if len(inner) < 3:
        status = Answer.TOO_FEW if len(on) < 3 else Answer.NO_MINIMUM
        reason = (
            f"{len(on)} runs have a loss that no cheaper run equals, and {len(inner)} of them a smaller and a larger "
            f"model within {NEAR:g} times their FLOPs that do worse; 3 are needed"
        )
        return replace(blank, status=status, reason=reason)
    ln_n, ln_c = np.log(cells[inner, 0]), np.log(flops[inner])
    if np.ptp(ln_n) == 0:
        return replace(blank, status=Answer.NO_MINIMUM, reason="one model size does best at all budgets")
    centre, free = float(ln_c.mean()), len(inner) - 2
    squares = float(((ln_c - centre) ** 2).sum())
    slope = float((ln_c - centre) @ ln_n / squares)
    middle = float(ln_n.mean())
    residual = ((ln_n - middle - slope * (ln_c - centre)) ** 2).sum() / free
    steps = np.array([_step(cell, cells[:, 0], flops) for cell in inner])
    # the best size on offer is as far from the best one as the sizes' spacing allows, even if all lie on one line
    scatter = np.sqrt(max(residual, np.mean(steps**2) / 12))
    rng = np.random.default_rng(seed)
    # one chi-squared for both numbers of a draw: the two are independent given the scatter
    scale = scatter * np.sqrt(free / rng.chisquare(free, n))
    line = Line(
        centre=centre,
        level=middle,
        slope=slope,
        levels=middle + scale * rng.standard_normal(n) / np.sqrt(len(inner)),
        slopes=slope + scale * rng.standard_normal(n) / np.sqrt(squares),
    )
    warnings = ("model sizes come in steps, and the best of noisy runs looks better than it is",)
    return line.answered(runs, budgets, level, replace(blank, warnings=warnings))


def _envelope(flops: Vector, y: Vector) -> Index:
    """Rows whose y no row of at most their FLOPs equals, by rising FLOPs."""
    order = np.lexsort((y, flops))
    lowest_before = np.concatenate([[np.inf], np.minimum.accumulate(y[order])[:-1]])
    return order[y[order] < lowest_before]


def _near(row: int, flops: Vector) -> NDArray[np.bool_]:
    return np.abs(np.log(flops / flops[row])) <= np.log(NEAR)


def _interior(row: int, n_params: Vector, flops: Vector, y: Vector) -> bool:
    """Whether near its FLOPs both a smaller and a larger model do worse: else the best size may lie outside."""
    worse = n_params[_near(row, flops) & (y > y[row])]
    return bool((worse < n_params[row]).any() and (worse > n_params[row]).any())


def _step(row: int, n_params: Vector, flops: Vector) -> float:
    """Half the distance in ln N from the next smaller to the next larger model near its FLOPs."""
    sizes = n_params[_near(row, flops)]
    return float(np.log(sizes[sizes > n_params[row]].min() / sizes[sizes < n_params[row]].max())) / 2


def _by_minima(
    runs: Runs, labels: Index, budgets: Sequence[float], degree: int, n: int, seed: int, level: float
) -> Approach:
    """Approach 2, the minima weighted by how well each is known."""
    rng = np.random.default_rng(seed)
    all_minima = minima(runs.n_params, runs.flops, runs.y, labels, degree=degree, n_draws=n, rng=rng)
    name = {2: "parabola", 3: "cubic"}[degree]
    blank = Approach(name=name, number=2, status=Answer.ANSWERED, reason="", minima=all_minima)
    found = [minimum for minimum in all_minima if minimum.found]
    if not all_minima:
        reason = "no budget holds four model sizes whose FLOPs agree within 10 %"
        return replace(blank, status=Answer.TOO_FEW, reason=reason)
    if len(found) < 2 or np.ptp([np.log(minimum.flops) for minimum in found]) < np.log1p(WINDOW):
        lost = [minimum.reason for minimum in all_minima if not minimum.found]
        reason = f"{len(found)} of {len(all_minima)} budgets show a minimum, two are needed for a line in FLOPs"
        status = Answer.NO_MINIMUM if lost else Answer.TOO_FEW
        return replace(blank, status=status, reason="; ".join([reason, *lost[:3]]))
    ln_c = np.log([minimum.flops for minimum in found])
    ln_n = np.log([minimum.n_params for minimum in found])
    draws = np.stack([minimum.draws for minimum in found], axis=1)
    weights = 1 / (np.array([minimum.log_se for minimum in found]) ** 2 + OWN_ERROR**2)
    centre = float(weights @ ln_c / weights.sum())
    level_of = weights / weights.sum()
    slope_of = weights * (ln_c - centre) / (weights @ (ln_c - centre) ** 2)
    middle, slope = float(level_of @ ln_n), float(slope_of @ ln_n)
    stretch = 1.0
    if len(found) > 2:
        # minima that scatter about the line by more than their errors say so about the errors: Birge's ratio
        squares = float(weights @ (ln_n - middle - slope * (ln_c - centre)) ** 2)
        stretch = max(1.0, np.sqrt(squares / (len(found) - 2)))
    line = Line(
        centre=centre,
        level=middle,
        slope=slope,
        levels=middle + stretch * (draws @ level_of - middle),
        slopes=slope + stretch * (draws @ slope_of - slope),
    )
    warnings = [BIAS] if degree == 2 else []
    if len(found) < len(all_minima):
        warnings.append(
            f"{len(all_minima) - len(found)} of {len(all_minima)} budgets have no minimum and were left out"
        )
    return line.answered(runs, budgets, level, replace(blank, warnings=tuple(warnings)))


def _compared(parabola: Approach, cubic: Approach) -> Approach:
    """The parabola, warned where the cubic sees other minima."""
    pairs = zip(parabola.minima, cubic.minima, strict=True)
    apart = [abs(p.n_params / c.n_params - 1) for p, c in pairs if p.found and c.found]
    if not apart or max(apart) <= DISAGREE:
        return parabola
    warning = f"parabola and cubic place a budget's minimum up to {max(apart):.0%} apart: these curves are no parabolas"
    return replace(parabola, warnings=(*parabola.warnings, warning))


def _by_law(
    runs: Runs,
    budgets: Sequence[float],
    law: Law,
    objective: Objective,
    n: int,
    seed: int,
    level: float,
) -> Approach:
    """Approach 3."""
    x = np.column_stack([runs.n_params, runs.n_images])
    found = fit(law, points(x, runs.y, weights=runs.weights, clusters=runs.clusters), objective=objective)
    status, reason = _no_optimum(found)
    if status is not Answer.ANSWERED:
        return Approach(name=law.name, number=3, status=status, reason=reason, fit=found)
    functions = [partial(log_optimum, log_flops=float(np.log(budget)), cost=runs.cost) for budget in budgets]
    spread = _spread(found, functions, n, seed, level)

    def estimated(which: int, function: Callable[[Matrix], tuple[Vector, ...]]) -> Estimate:
        return spread.of(lambda thetas: function(_free(law, thetas))[which])

    optima = []
    for budget, at in zip(budgets, functions, strict=True):
        n_params, n_images, y = (natural(estimated(which, at)) for which in range(3))
        optima.append(
            Optimum(
                budget=budget,
                n_params=n_params,
                n_images=n_images,
                y=y,
                beyond=float(budget / runs.flops.max()),
                notes=notes(runs, budget, n_params, n_images),
            )
        )
    at_one = log_optimum(_free(law, found.theta[None]), log_flops=0.0, cost=runs.cost)
    return Approach(
        name=law.name,
        number=3,
        status=Answer.ANSWERED,
        reason="",
        a=estimated(0, partial(exponents, cost=runs.cost)),
        b=estimated(1, partial(exponents, cost=runs.cost)),
        coefficient=float(np.exp(at_one[0][0])),
        optima=tuple(optima),
        warnings=tuple(([found.reason] if found.reason else []) + list(spread.warnings)),
        fit=found,
    )


def _spread(found: Fit, functions: Sequence[LogOptimum], n: int, seed: int, level: float) -> Uncertainty:
    """By profile only where the sizes are known to a few times themselves: the search for an end that may lie at
    infinity takes minutes, and resamples show as well that nothing is known."""
    if found.objective.delta is None and found.objective.overestimate == 1:
        quick = uncertainty(found, method="delta", level=level)
        errors = [quick.of(partial(_log_n_params, law=found.law, at=at)).se for at in functions]
        if found.status is not Status.CONVERGED or not all(error < KNOWN for error in errors):
            return uncertainty(found, method="wild", n=n, seed=seed, level=level)
    return uncertainty(found, n=n, seed=seed, level=level)


def _log_n_params(thetas: Matrix, *, law: Law, at: LogOptimum) -> Vector:
    return at(_free(law, thetas))[0]


def _free(law: Law, thetas: Matrix) -> Matrix:
    """(B, 5), whichever the law."""
    return untied(thetas) if law is CHINCHILLA_TIED else thetas


def _no_optimum(found: Fit) -> tuple[Answer, str]:
    """Why a fit has no compute-optimal sizes."""
    if found.status is Status.UNIDENTIFIED or found.status is Status.FLAT:
        return Answer.UNIDENTIFIED, found.reason
    if found.status is Status.TOO_FEW:
        return Answer.TOO_FEW, found.reason
    if not found.status.usable:
        return Answer.NO_FIT, found.reason
    low, high = found.law.bounds(found.points.x, found.points.y)
    at_bound = np.minimum(found.theta - low, high - found.theta) < BOUND
    at_bound[found.law.names.index("E")] = False
    if at_bound.any():
        return Answer.NO_MINIMUM, f"{found.reason}; more of one size at the cost of the other never stops to pay"
    return Answer.ANSWERED, ""


def exponents(thetas: Matrix, cost: Flops) -> tuple[Vector, Vector]:
    """a and b of thetas (B, 5): N_opt ~ C^a, D_opt ~ C^b."""
    alpha, beta = np.maximum(thetas[:, 3:], BOUND).T
    a = beta / (alpha + cost.power * beta)
    return a, 1 - cost.power * a


def log_optimum(thetas: Matrix, *, log_flops: float, cost: Flops) -> tuple[Vector, Vector, Vector]:
    """ln N, ln D and ln L (B,) of the best use of C FLOPs, thetas (B, 5).

    Where alpha A N^-alpha = power beta B D^-beta, D = C / (k N^power); with power 1 it is N = G (C/k)^a of Hoffmann et
    al. 2022, equation 4.
    """
    ln_a, ln_b, ln_e = thetas[:, :3].T
    alpha, beta = np.maximum(thetas[:, 3:], BOUND).T  # at its bound of 0 the optimum is at infinity
    marginal = np.log(alpha) + ln_a - np.log(cost.power * beta) - ln_b
    ln_n = (marginal + beta * (log_flops - np.log(cost.k))) / (alpha + cost.power * beta)
    ln_d = cost.log_n_images(log_flops, ln_n)
    ln_y = np.logaddexp(np.logaddexp(ln_a - alpha * ln_n, ln_b - beta * ln_d), ln_e)
    return ln_n, ln_d, ln_y
