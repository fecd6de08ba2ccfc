"""What each task gains from scale: along model size, data size or compute, with everything else held.

Thousands of short series are answered at once, in closed form. A size counts once, however many seeds it has: seeds
share whatever else is peculiar to their size. Intervals are Student's t from the scatter of sizes about their line,
with as many degrees of freedom as there are sizes beyond two: exact where that scatter is alike at all sizes, and
measured to cover 94-95 % where small test sets make it twice as large at one end as at the other. Weights from the
probe's standard errors were tried: they took 8 % off the standard error at best and covered no better, so none are
used; where the test images alone are less certain than the scatter says, `gain_se_images` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.fit import Status
from analysis.floor import floor_exponents
from analysis.points import Index, Vector

AXES = {
    "n_params": ["algorithm", "mixture", "n_images"],
    "n_images": ["algorithm", "mixture", "model"],
    "train_flops": ["algorithm", "mixture", "n_images"],
}
"""Axis -> what stays fixed along it."""
DEFINITIONS: Mapping[str, str] = {
    "exponent": "exponent of the error, -d ln(1 - AUC) / d ln x",
    "floor_exponent": "exponent of the error above its floor, 1 - AUC = a x^-b + c",
    "slope_log_auc": "slope of log AUC, d ln AUC / d ln x",
    "gain": "gain in AUC from the smallest to the largest size",
}
"""Each definition of benefit, a column of `benefits`, in words for a figure's axis; positive when scale helps.

AUC is bounded by 1. `exponent` is of the error 1 - AUC, so that a solved task has none and a nearly solved one may have
a large one; `slope_log_auc`, the reference study's (BioVFM-21M, arXiv 2505.09329), tends to 0 as a task is solved,
whatever the law; so does `gain`. A correlation with one of them says nothing about the others.
"""
LEVEL = 0.95
ROUNDING = 1e-12
"""Least scatter believed: sizes on a line to the last digit are no proof of a line without noise."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Benefit:
    """The columns of `benefits`: one task's gain along one axis in one series of runs. Every interval is of 95 %."""

    task: str
    algorithm: str
    mixture: str
    axis: str
    at: str
    """What is fixed: n_images or model."""
    n_sizes: int
    n_runs: int
    exponent: float
    """b of the power law error = a x^-b; positive when scale helps. NaN where `status` says that there is no law."""
    exponent_se: float
    exponent_low: float
    exponent_high: float
    """NaN unless the law converged."""
    floor_exponent: float
    """b of the saturating law error = a x^-b + c, where the data show a floor; else NaN and `floor_status`."""
    floor_exponent_se: float
    floor_exponent_low: float
    floor_exponent_high: float
    """By the profile of the sum of squares."""
    floor_status: str
    """What came of the saturating law."""
    slope_log_auc: float
    """d ln AUC / d ln x, the reference study's benefit (BioVFM-21M, arXiv 2505.09329)."""
    slope_log_auc_se: float
    slope_log_auc_low: float
    slope_log_auc_high: float
    """NaN with fewer than three sizes."""
    gain: float
    """Mean AUC of the seeds at the largest size minus that at the smallest."""
    gain_se: float
    """From the scatter of sizes about the power law, or where there is none about the line of AUC on ln x. NaN with
    fewer than three sizes."""
    gain_low: float
    gain_high: float
    """Covers at least 95 %: a curve that is no power law adds to its scatter."""
    gain_se_images: float
    """From the test images alone, and at most: seeds and sizes are tested on the same images, so their errors go
    together, but are added here as if they did not. NaN where a run has no `auc_se`."""
    status: str
    """What came of the power law, `analysis.fit.Status`."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Every size of every series, sorted by series, then size."""

    series: Index
    """(n,) from 0."""
    ln_x: Vector
    auc: Vector
    """(n,) means of seeds."""
    ln_error: Vector
    """(n,) mean of the logarithms; not finite where a run has no error."""
    auc_se: Vector
    """(n,) means, as seeds share their test images; NaN where a run has none."""
    n_runs: Vector

    def sums(self, values: Vector) -> Vector:
        """(n_series,)"""
        return np.asarray(np.bincount(self.series, values), np.float64)

    @property
    def first(self) -> Index:
        """(n_series,) position of each series' smallest size."""
        return np.flatnonzero(np.diff(self.series, prepend=-1))

    @property
    def last(self) -> Index:
        return np.append(self.first[1:], len(self.series)) - 1

    @property
    def sizes(self) -> Index:
        """(n_series,) distinct sizes."""
        return np.bincount(self.series).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Least-squares lines y = level + slope ln x of many series; NaN where a y is not finite or one size is all."""

    slope: Vector
    se: Vector
    half: Vector
    """Half the interval of the slope; like se and scatter NaN with fewer than three sizes."""
    scatter: Vector
    """Standard deviation of a size about its line."""
    fitted: Vector
    """(n_cells,)"""


def lines(cells: Cells, y: Vector) -> Lines:
    """The line of each series through its cells, one weight each."""
    k = cells.sizes
    with np.errstate(divide="ignore", invalid="ignore"):
        centred = cells.ln_x - (cells.sums(cells.ln_x) / k)[cells.series]
        level = cells.sums(y) / k
        spread = cells.sums(centred**2)
        slope = cells.sums(centred * y) / spread
        fitted = level[cells.series] + slope[cells.series] * centred
        free = np.where(k > 2, k - 2, np.nan)
        scatter = np.maximum(np.sqrt(cells.sums((y - fitted) ** 2) / free), ROUNDING)
        se = scatter / np.sqrt(spread)
    return Lines(slope=slope, se=se, half=t_quantile(free) * se, scatter=scatter, fitted=fitted)


def t_quantile(free: Vector) -> Vector:
    """Student's t that leaves out 2.5 % on either side; NaN for NaN degrees of freedom."""
    return np.asarray(stats.t.ppf((1 + LEVEL) / 2, free), np.float64)


def benefits(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per task, series and axis with at least two sizes, from rows that may be fitted; columns as `Benefit`."""
    found = [table for axis, fixed in AXES.items() if len(table := _along(rows, axis, fixed))]
    columns = list(Benefit.__dataclass_fields__)
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def _along(rows: pd.DataFrame, axis: str, fixed: list[str]) -> pd.DataFrame:
    """Runs without a place on the axis are in no series of it."""
    placed = rows[np.isfinite(rows[axis]) & (rows[axis] > 0)]
    grouped = placed.groupby([*fixed, "task"], sort=True, dropna=False)
    placed = placed[grouped[axis].transform("nunique") >= 2] if len(placed) else placed
    if placed.empty:
        return placed
    grouped = placed.groupby([*fixed, "task"], sort=True, dropna=False)
    cells = _cells(placed, axis, grouped.ngroup().to_numpy())
    keys = pd.DataFrame([*grouped.groups], columns=[*fixed, "task"])
    held = keys[fixed[2]]
    at = [_count(n) for n in held] if fixed[2] == "n_images" else held.astype(str)
    table = keys[["task", "algorithm", "mixture"]].astype(str).assign(axis=axis, at=at)
    return table.assign(n_sizes=cells.sizes, n_runs=cells.sums(cells.n_runs).astype(int), **_measures(cells))


def _count(n: float) -> str:
    """Empty where a table has no such size."""
    return f"{n:.0f}" if np.isfinite(n) else ""


def _cells(placed: pd.DataFrame, axis: str, series: Index) -> Cells:
    x = placed[axis].to_numpy(float)
    order = np.lexsort((x, series))
    series, x = series[order], x[order]
    new = (np.diff(series, prepend=-1) != 0) | (np.diff(x, prepend=np.nan) != 0)
    cell = np.cumsum(new) - 1
    n_runs = np.bincount(cell).astype(np.float64)

    def mean(values: Vector) -> Vector:
        return np.bincount(cell, values[order]) / n_runs

    auc, error = placed["auc"].to_numpy(float), placed["error"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Cells(
            series=series[new],
            ln_x=np.log(x[new]),
            auc=mean(auc),
            ln_error=mean(np.log(error)),
            auc_se=mean(placed["auc_se"].to_numpy(float)),
            n_runs=n_runs,
        )


def _measures(cells: Cells) -> dict[str, Vector | list[str]]:
    """The numeric columns of `Benefit`, one value a series."""
    with np.errstate(divide="ignore"):
        log_auc = lines(cells, np.log(cells.auc))
    power, plain = lines(cells, cells.ln_error), lines(cells, cells.auc)
    finite = cells.sums(~np.isfinite(cells.ln_error)) == 0
    few = cells.sizes < 3
    lawful = finite & ~few
    status = np.select([few, ~finite], [Status.TOO_FEW.value, Status.NOT_POSITIVE.value], Status.CONVERGED.value)
    first, last = cells.first, cells.last
    gain = cells.auc[last] - cells.auc[first]
    with np.errstate(invalid="ignore"):
        ends = np.hypot(np.exp(power.fitted[first]), np.exp(power.fitted[last]))
    gain_se = np.where(lawful, power.scatter * ends, plain.scatter * np.sqrt(2))
    gain_half = t_quantile(np.where(few, np.nan, cells.sizes - 2)) * gain_se
    floor = floor_exponents(cells.series, cells.ln_x, cells.ln_error)

    def where(mask: Mask, values: Vector) -> Vector:
        return np.where(mask, values, np.nan)

    return {
        "exponent": where(lawful, -power.slope),
        "exponent_se": where(lawful, power.se),
        "exponent_low": where(lawful, -power.slope - power.half),
        "exponent_high": where(lawful, -power.slope + power.half),
        "floor_exponent": floor.exponent,
        "floor_exponent_se": floor.se,
        "floor_exponent_low": floor.low,
        "floor_exponent_high": floor.high,
        "floor_status": floor.status,
        **_finite("slope_log_auc", log_auc.slope, log_auc.se, log_auc.half),
        **_finite("gain", gain, gain_se, gain_half),
        "gain_se_images": np.hypot(cells.auc_se[first], cells.auc_se[last]),
        "status": status.tolist(),
    }


def _finite(name: str, value: Vector, se: Vector, half: Vector) -> dict[str, Vector | list[str]]:
    """Value, standard error and ends; the logarithm of an AUC of 0 leaves no number."""
    ok = np.isfinite(value)
    with np.errstate(invalid="ignore"):
        columns = {name: value, f"{name}_se": se, f"{name}_low": value - half, f"{name}_high": value + half}
    return {column: np.where(ok, values, np.nan) for column, values in columns.items()}


def headline(table: pd.DataFrame, axis: str = "n_params") -> pd.DataFrame:
    """Per algorithm the benefits of one series: that with the most sizes, then the largest data, then the most runs.

    Among equals the first mixture by name. Results have no say in the choice, and tasks without a law stay, with their
    status.
    """
    along = table[table["axis"] == axis]
    chosen = []
    for _, mine in along.groupby("algorithm"):
        rank = mine.groupby(["mixture", "at"]).agg(sizes=("n_sizes", "max"), runs=("n_runs", "sum")).reset_index()
        rank["order"] = pd.to_numeric(rank["at"], errors="coerce")
        best = rank.sort_values(["sizes", "order", "runs"], ascending=False, kind="stable").iloc[0]
        chosen.append(mine[(mine["mixture"] == best["mixture"]) & (mine["at"] == best["at"])])
    return pd.concat(chosen, ignore_index=True) if chosen else along
