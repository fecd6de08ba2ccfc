"""The strongest pairs of task feature and benefit: every task a point with the interval of its benefit."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.correlate import feature_numbers
from analysis.figures.correlation import series
from analysis.figures.style import PALETTE, REFERENCE, hover, panels, quantity, shortened, styled

MOST = 6
REACH = 1.0
"""Intervals are drawn to so many times the spread of the benefits beyond them."""
COLUMNS = 3


def table(
    correlations: pd.DataFrame,
    benefits: pd.DataFrame,
    tasks: pd.DataFrame,
    *,
    column: str = "exponent",
    by: Sequence[str] = ("algorithm",),
    key: str = "task",
    most: int = MOST,
) -> pd.DataFrame:
    """One row per point of the `most` pairs with the least p: feature, series, task, x, y, low, high, title and
    influential, the task that moves r most.

    Arguments as given to `analysis.correlate.correlate`. Ends are NaN where a benefit has no interval.
    """
    named = tasks.assign(**{key: tasks[key].astype(str)}).set_index(key)
    answered = correlations.assign(series=series(correlations)).dropna(subset="p")
    best = answered.sort_values(["p", "pearson"], key=lambda v: v if v.name == "p" else -v.abs(), kind="stable")
    names = benefits[list(by)].astype(str).agg(" / ".join, axis=1) if by else pd.Series("", index=benefits.index)
    found = []
    for pair in best.head(most).to_dict("records"):
        mine = benefits[names == pair["series"]]
        points = pd.DataFrame({"task": mine[key].astype(str)})
        for name, source in (("y", column), ("low", f"{column}_low"), ("high", f"{column}_high")):
            points[name] = pd.to_numeric(mine[source], errors="coerce") if source in mine else np.nan
        x = pd.Series(feature_numbers(named, pair["feature"]), index=named.index)
        points["x"] = x.reindex(points["task"]).to_numpy()
        found.append(points.dropna(subset=["x", "y"]).assign(**_titles(pair)))
    columns = ["feature", "series", "task", "x", "y", "low", "high", "title", "influential"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def _titles(pair: dict[Hashable, Any]) -> dict[str, str]:
    title = (
        f"{shortened(str(pair['series']))}\nr = {pair['pearson']:+.2f} [{pair['pearson_low']:+.2f}, "
        f"{pair['pearson_high']:+.2f}], p = {pair['p']:.2g}, q = {pair['q']:.2g}"
    )
    return {name: str(pair[name]) for name in ("feature", "series", "influential")} | {"title": title}


def draw(rows: pd.DataFrame, *, ylabel: str) -> Figure:
    """The least-squares line is dashed, the task that moves r most is ringed and named; a hollow point has no interval,
    a bar that ends at the panel's edge goes on."""
    pairs = [mine for _, mine in rows.groupby(["feature", "series"], sort=False)]
    with styled():
        n_columns = max(1, min(COLUMNS, len(pairs)))
        n_rows = max(1, -(-len(pairs) // n_columns))
        figure, grid = panels(n_rows, n_columns, width=2.9, height=2.6, sharey=False)
        flat = [axes for row in grid for axes in row]
        for axes, mine in zip(flat, pairs, strict=False):
            _panel(axes, mine)
        for axes in flat[len(pairs) :]:
            axes.set_visible(False)
        figure.supylabel(ylabel, fontsize=9)
    return figure


def _panel(axes: Axes, mine: pd.DataFrame) -> None:
    x, y, low, high = (mine[name].to_numpy(float) for name in ("x", "y", "low", "high"))
    known = np.isfinite(low) & np.isfinite(high)
    margin = REACH * (np.ptp(y) or abs(y[0]) or 1.0)
    bottom, top = y.min() - margin, y.max() + margin
    axes.vlines(
        x[known], np.maximum(low, bottom)[known], np.minimum(high, top)[known], color=PALETTE[0], lw=1, alpha=0.6
    )
    axes.plot(x[known], y[known], "o", color=PALETTE[0], ms=4.5)
    axes.plot(x[~known], y[~known], "o", color=PALETTE[0], ms=4.5, mfc="white")
    if np.ptp(x) > 0:
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, np.polyval(np.polyfit(x - x.mean(), y, 1), ends - x.mean()), "--", color=REFERENCE, lw=1)
    for i in np.flatnonzero(mine["task"] == mine["influential"]):
        axes.plot(x[i], y[i], "o", ms=9, mfc="none", mec="black", mew=1)
        right = x[i] > (x.min() + x.max()) / 2
        axes.annotate(
            shortened(str(mine["task"].iloc[i]), 20),
            (x[i], y[i]),
            xytext=(-7 if right else 7, 5),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=7,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )
    hover(axes, x, y, [f"{task}: {a:.4g}, {b:.4g}" for task, a, b in zip(mine["task"], x, y, strict=True)])
    shown = np.concatenate([y, low[known], high[known]])
    axes.set_ylim(*_limits(max(bottom, shown.min()), min(top, shown.max())))
    axes.axhline(0, color="black", lw=0.6)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=5)
    if np.abs(x).max() >= 1e4:
        axes.xaxis.set_major_formatter(FuncFormatter(quantity))
    axes.set_xlabel(shortened(str(mine["feature"].iloc[0])))
    axes.set_title(mine["title"].iloc[0], fontsize=8)


def _limits(bottom: float, top: float) -> tuple[float, float]:
    pad = 0.05 * (top - bottom) or 1.0
    return bottom - pad, top + pad
