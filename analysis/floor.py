"""Exponents above a floor, of many short series at once: error = a x^-b + c where the data show that c is not nothing.

Given b and the share of the floor the law is a shift of a known curve in ln error, so the sums of squares of all series
on a grid of both are one matrix product. The best of the grid is followed to its optimum by the one optimiser, which
also gives the profile over b, hence the interval. Measured: where a floor shows nearly always (its sizes reach it),
intervals cover 93-96 %; where it shows by luck only, what shows is too large a floor and its exponent too large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.fit import Status
from analysis.laws import LAWS
from analysis.objective import OBJECTIVES
from analysis.points import Index, Matrix, Vector
from analysis.solver import minimise

LAW = LAWS["saturating"]
SQUARES = OBJECTIVES["log_squared"]
LEVEL = 0.95
EXPONENTS = np.geomspace(0.005, 8.0, 100)
SHARES = np.exp(np.linspace(-9.0, 7.0, 65))
"""Of the grid to start from: floor over removable error at the middle of the sizes (of their logarithms)."""
FACTORS = np.concatenate([1 / np.geomspace(1.001, 50, 24), np.geomspace(1.001, 50, 24)])
"""On the best exponent, at which the profile is computed."""
AT_ONCE = 256
"""Series whose grids are held at a time: 13 MB."""
UNSEEN = "no floor shows: a power law without one fits as well"
OPEN = "a floor shows, but the data do not bound the exponent above it"


@dataclass(frozen=True, kw_only=True)
class FloorExponents:
    """One value a series; NaN where `status` is not that of a fit that converged."""

    exponent: Vector
    se: Vector
    """By the linear approximation at the optimum."""
    low: Vector
    high: Vector
    """95 % by the profile of the sum of squares (F with 1 and k - 3 degrees of freedom)."""
    status: list[str]


def floor_exponents(series: Index, ln_x: Vector, ln_error: Vector) -> FloorExponents:
    """Of cells sorted by series, then size. A floor shows where it improves on the power law at 5 % (F test)."""
    sizes = np.bincount(series)
    starts = np.append(0, np.cumsum(sizes))
    numbers = np.full((4, len(sizes)), np.nan)
    status = np.full(len(sizes), Status.TOO_FEW.value, dtype=object)
    designs: dict[bytes, list[int]] = {}
    for i in np.flatnonzero(sizes >= 4):
        cells = slice(starts[i], starts[i + 1])
        if not np.isfinite(ln_error[cells]).all():
            status[i] = Status.NOT_POSITIVE.value
            continue
        designs.setdefault(ln_x[cells].tobytes(), []).append(int(i))
    for members in designs.values():
        for chunk in (members[j : j + AT_ONCE] for j in range(0, len(members), AT_ONCE)):
            x = ln_x[starts[chunk[0]] : starts[chunk[0] + 1]]
            y = np.stack([ln_error[starts[i] : starts[i + 1]] for i in chunk])
            numbers[:, chunk], status[chunk] = _of_design(x, y)
    return FloorExponents(
        exponent=numbers[0], se=numbers[1], low=numbers[2], high=numbers[3], status=[str(s) for s in status]
    )


def _of_design(ln_x: Vector, y: Matrix) -> tuple[Matrix, list[str]]:
    """(4, m) exponent, se, low, high of m series (m, k) of the same sizes, and their statuses."""
    free = len(ln_x) - 3
    thetas, least = _optimum(ln_x, y, *_best_of_grid(ln_x, y))
    limit = least * (1 + stats.f.ppf(LEVEL, 1, free) / free)
    shown = np.flatnonzero(np.isfinite(least) & (_power_squares(ln_x, y) > limit))
    numbers, status = np.full((4, len(y)), np.nan), [UNSEEN] * len(y)
    low, high = _profile_ends(ln_x, y[shown], thetas[shown], least[shown], limit[shown])
    for j, i in enumerate(shown):
        bounded = np.isfinite(low[j]) and np.isfinite(high[j])
        status[i] = Status.CONVERGED.value if bounded else OPEN
        if bounded:
            numbers[:, i] = thetas[i, 1], _se(ln_x, thetas[i], least[i] / free), low[j], high[j]
    return numbers, status


def _best_of_grid(ln_x: Vector, y: Matrix) -> tuple[Vector, Vector]:
    """(m,) exponents and (m,) shares of the floor with the least sum of squares."""
    middle = ln_x - ln_x.mean()
    curves = np.log(np.exp(-EXPONENTS[:, None, None] * middle) + SHARES[None, :, None]).reshape(-1, len(ln_x))
    curves -= curves.mean(1, keepdims=True)
    centred = y - y.mean(1, keepdims=True)
    best = ((curves**2).sum(1) - 2 * centred @ curves.T).argmin(1)
    return EXPONENTS[best // len(SHARES)], SHARES[best % len(SHARES)]


def _power_squares(ln_x: Vector, y: Matrix) -> Vector:
    """(m,) sum of squares about the power law."""
    middle = ln_x - ln_x.mean()
    centred = y - y.mean(1, keepdims=True)
    slope = centred @ middle / (middle @ middle)
    return ((centred - slope[:, None] * middle) ** 2).sum(1)


def _optimum(ln_x: Vector, y: Matrix, exponents: Vector, shares: Vector) -> tuple[Matrix, Vector]:
    """(m, 3) thetas of the saturating law and (m,) sums of squares, infinite where there is none between the bounds."""
    shape = np.log(np.exp(-exponents[:, None] * (ln_x - ln_x.mean())) + shares[:, None])
    scale = (y - shape).mean(1)
    starts = np.column_stack([scale + exponents * ln_x.mean(), exponents, scale + np.log(shares)])
    low, high = _bounds(ln_x, y)
    starts = np.clip(starts, low, high)
    ends = minimise(LAW.evaluate, _column(ln_x), np.exp(y), np.ones(len(ln_x)), starts, low, high, SQUARES)
    inner = ends.converged & ((ends.thetas > low) & (ends.thetas < high)).all(1)
    return ends.thetas, np.where(inner, 2 * ends.values, np.inf)


def _profile_ends(ln_x: Vector, y: Matrix, thetas: Matrix, least: Vector, limit: Vector) -> tuple[Vector, Vector]:
    """(m,) exponents on either side at which the sum of squares, least over the rest, reaches `limit`; NaN where none
    within the factors tried does."""
    m, n = len(y), len(FACTORS)
    starts = np.repeat(thetas, n, axis=0)
    starts[:, 1] *= np.tile(FACTORS, m)
    starts[:, 0] += (starts[:, 1] - np.repeat(thetas[:, 1], n)) * ln_x.mean()
    low, high = (np.repeat(ends, n, axis=0) for ends in _bounds(ln_x, y))
    low[:, 1] = high[:, 1] = starts[:, 1]
    starts = np.clip(starts, low, high)
    targets = np.repeat(np.exp(y), n, axis=0)
    ends = minimise(LAW.evaluate, _column(ln_x), targets, np.ones(len(ln_x)), starts, low, high, SQUARES)
    squares = np.where(ends.converged, 2 * ends.values, np.inf).reshape(m, n)
    # The root of the rise is nearly straight in ln b, so that a line between two factors finds the crossing.
    rise = np.sqrt(np.maximum(squares - least[:, None], 0) / (limit - least)[:, None])
    low_factor, high_factor = (np.array([_crossing(row, side) for row in rise]) for side in (-1, 1))
    return thetas[:, 1] * low_factor, thetas[:, 1] * high_factor


def _crossing(rise: Vector, side: int) -> float:
    """The factor nearest to 1 on one side (-1 below, 1 above) at which `rise` passes 1; NaN where it does not."""
    logs = np.log(FACTORS) * side
    mine = np.flatnonzero(logs > 0)
    mine = mine[np.argsort(logs[mine])]
    inner_log, inner = 0.0, 0.0
    for i in mine:
        if rise[i] >= 1:
            share = (1 - inner) / (rise[i] - inner) if np.isfinite(rise[i]) else 1.0
            return float(np.exp(side * (inner_log + share * (logs[i] - inner_log))))
        inner_log, inner = logs[i], rise[i]
    return np.nan


def _bounds(ln_x: Vector, y: Matrix) -> tuple[Matrix, Matrix]:
    """(m, 3) each."""
    ends = np.array([LAW.bounds(_column(ln_x), target) for target in np.exp(y)]).reshape(-1, 2, 3)
    return ends[:, 0], ends[:, 1]


def _column(ln_x: Vector) -> Matrix:
    return np.exp(ln_x)[:, None]


def _se(ln_x: Vector, theta: Vector, variance: float) -> float:
    jacobian = LAW.log_gradient(_column(ln_x), theta)
    length = np.linalg.norm(jacobian, axis=0)
    inverse = np.linalg.pinv(jacobian / length)
    return float(np.sqrt(variance * (inverse @ inverse.T)[1, 1]) / length[1])
