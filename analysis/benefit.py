"""What each task gains from scale: along model size at fixed data, and along data size at a fixed model."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.fit import cell_means, fit
from analysis.laws import LAWS
from analysis.uncertainty import parameter_intervals

AXES = {"n_params": ["algorithm", "mixture", "n_images"], "n_images": ["algorithm", "mixture", "model"]}
"""Axis -> what stays fixed along it."""


@dataclass(frozen=True, kw_only=True)
class Benefit:
    """One task's gain along one axis in one series of runs."""

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
    exponent_low: float
    exponent_high: float
    """95 %; NaN unless the law converged."""
    slope_log_auc: float
    """d ln AUC / d ln x, the reference study's benefit (BioVFM-21M, arXiv 2505.09329)."""
    slope_log_auc_low: float
    slope_log_auc_high: float
    """95 %; NaN with fewer than three sizes."""
    gain: float
    """Mean AUC of the seeds at the largest size minus that at the smallest."""
    gain_se: float
    """From the test images alone, and at most: seeds and sizes are tested on the same images, so their errors go
    together, but are added here as if they did not. NaN where a run has no `auc_se`."""
    status: str
    """What came of the law, `analysis.fit.Status`."""


def slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Least-squares slope of y on x with its 95 % t interval; NaN ends with fewer than three points."""
    if len(x) < 2:
        return np.nan, np.nan, np.nan
    value = float(np.polyfit(x, y, 1)[0])
    if len(x) < 3:
        return value, np.nan, np.nan
    line = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(x) - 2) * line.stderr)
    return value, value - half, value + half


def benefits(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per task, series and axis with at least two sizes, from rows that may be fitted."""
    found = []
    for axis, fixed in AXES.items():
        for key, series in rows.groupby([*fixed, "task"], sort=True):
            if series[axis].nunique() >= 2:
                found.append(_benefit(series, axis, str(key[2])))
    columns = list(Benefit.__dataclass_fields__)
    return pd.DataFrame([asdict(benefit) for benefit in found], columns=columns)


def _benefit(series: pd.DataFrame, axis: str, at: str) -> Benefit:
    x, auc = series[axis].to_numpy(float), series["auc"].to_numpy(float)
    log_slope = (np.nan, np.nan, np.nan)
    if (auc > 0).all():
        sizes, mean_auc = cell_means(x, auc)
        log_slope = slope(np.log(sizes), np.log(mean_auc))
    fitted = fit(LAWS["power"], x, series["error"].to_numpy(float))
    interval = parameter_intervals(fitted).get("b")
    smallest, largest = (series[series[axis] == size] for size in (x.min(), x.max()))
    gain_se = np.hypot(*(end["auc_se"].mean(skipna=False) for end in (smallest, largest)))
    return Benefit(
        task=str(series["task"].iloc[0]),
        algorithm=str(series["algorithm"].iloc[0]),
        mixture=str(series["mixture"].iloc[0]),
        axis=axis,
        at=at.removesuffix(".0"),
        n_sizes=len(np.unique(x)),
        n_runs=len(series),
        exponent=interval.value if interval else np.nan,
        exponent_low=interval.low if interval else np.nan,
        exponent_high=interval.high if interval else np.nan,
        slope_log_auc=log_slope[0],
        slope_log_auc_low=log_slope[1],
        slope_log_auc_high=log_slope[2],
        gain=float(largest["auc"].mean() - smallest["auc"].mean()),
        gain_se=float(gain_se),
        status=str(fitted.status),
    )


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
