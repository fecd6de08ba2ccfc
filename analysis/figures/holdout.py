"""Runs that no law was fitted to: what was predicted of them, with its interval, against what was measured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import PALETTE, hover, panels, plain_log, shortened, styled

MOST_NAMED = 24
"""Runs shown by name; more are points about a diagonal."""
INSIDE, OUTSIDE = PALETTE[0], PALETTE[1]


def table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Columns name, predicted, low, high, measured, times_beyond (others stay), with how far off each prediction was.

    off: predicted / measured - 1. inside: whether the interval holds the measured value; missing without an interval.
    Far predictions come last.
    """
    rows = predictions.sort_values("times_beyond", kind="stable").reset_index(drop=True)
    known = np.isfinite(rows["low"]) & np.isfinite(rows["high"]) & np.isfinite(rows["measured"])
    inside = (rows["low"] <= rows["measured"]) & (rows["measured"] <= rows["high"])
    return rows.assign(off=rows["predicted"] / rows["measured"] - 1, inside=inside.astype(object).where(known, None))


def score(rows: pd.DataFrame) -> dict[str, float]:
    """Of a `table`: n, n_intervals, n_inside, and rmsle, the root of the mean squared ln(predicted / measured)."""
    known = rows["inside"].notna()
    good = (rows["predicted"] > 0) & (rows["measured"] > 0)
    logs = np.log(rows.loc[good, "predicted"] / rows.loc[good, "measured"])
    return {
        "n": len(rows),
        "n_intervals": int(known.sum()),
        "n_inside": int(rows.loc[known, "inside"].astype(bool).sum()),
        "rmsle": float(np.sqrt(np.mean(logs**2))) if len(logs) else np.nan,
    }


def draw(rows: pd.DataFrame, *, label: str) -> Figure:
    """`rows` as of `table`. A bar is the interval of the prediction, a diamond what was measured.

    Measured values outside their interval are of the second colour; a prediction without interval is a hollow point.
    """
    with styled():
        by_name = len(rows) <= MOST_NAMED
        height = 0.34 * len(rows) + 0.7 if by_name else 4.2
        figure, grid = panels(1, 1, width=5.6 if by_name else 4.6, height=height)
        axes = grid[0][0]
        (_draw_by_name if by_name else _draw_against)(axes, rows, label)
        found = score(rows)
        words = f"{found['n_inside']} of {found['n_intervals']} inside their interval, {found['n']} held-out runs"
        axes.set_title(words if found["n_intervals"] else f"{found['n']} held-out runs, no intervals")
        figure.legend(handles=_handles(rows, by_name=by_name), loc="outside lower center", ncols=2)
    return figure


def _draw_by_name(axes: Axes, rows: pd.DataFrame, label: str) -> None:
    values = rows[["predicted", "measured"]].to_numpy(float)
    positive = bool((values[np.isfinite(values)] > 0).all())
    if positive:
        axes.set_xscale("log")
    for y, row in enumerate(rows.to_dict("records")):
        colour = OUTSIDE if row["inside"] is False else INSIDE
        known = row["inside"] is not None
        if known:
            axes.plot([row["low"], row["high"]], [y, y], color=colour, lw=2, alpha=0.5, solid_capstyle="butt")
        axes.plot([row["predicted"]], [y], "o", ms=5, color=colour, mfc=None if known else "white")
        axes.plot([row["measured"]], [y], "D", ms=4, color="black")
        hover(axes, [row["predicted"], row["measured"]], [y, y], [_words(row)] * 2)
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows.to_dict("records")])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(label)
    low, high = _seen(rows)
    if np.isfinite(low):
        axes.set_xlim(low, high)
        if positive:
            plain_log(axes.xaxis, at_most=6)


def _draw_against(axes: Axes, rows: pd.DataFrame, label: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    known = rows["inside"].notna()
    for inside, colour in ((True, INSIDE), (False, OUTSIDE)):
        mine = rows[known & (rows["inside"] == inside)]
        ends = [mine["predicted"] - mine["low"], mine["high"] - mine["predicted"]]
        axes.errorbar(
            mine["measured"], mine["predicted"], yerr=ends, fmt="o", ms=3.5, lw=0, elinewidth=0.8, color=colour
        )
    bare = rows[~known]
    axes.plot(bare["measured"], bare["predicted"], "o", ms=3.5, lw=0, color=INSIDE, mfc="white")
    hover(axes, rows["measured"], rows["predicted"], [_words(row) for row in rows.to_dict("records")])
    low, high = _seen(rows)
    if np.isfinite(low):
        axes.plot([low, high], [low, high], color="black", lw=0.8)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        plain_log(axes.xaxis)
        plain_log(axes.yaxis)
    axes.set_xlabel(f"measured {label}")
    axes.set_ylabel(f"predicted {label}")


def _seen(rows: pd.DataFrame) -> tuple[float, float]:
    """Ends of an axis that shows every point, and of intervals what fits; NaN where there is no point."""
    values = rows[["predicted", "measured"]].to_numpy(float)
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan
    low, high = float(values.min()), float(values.max())
    if low <= 0:
        space = 0.5 * (high - low) or 1.0
        return low - space, high + space
    factor = max(1.1, (high / low) ** 0.5)
    ends = rows[["low", "high"]].to_numpy(float)
    ends = ends[np.isfinite(ends) & (ends > low / factor) & (ends < high * factor)]
    return min([low, *ends]) / 1.05, max([high, *ends]) * 1.05


def _name(row: Mapping[object, object]) -> str:
    return f"{shortened(str(row['name']))} ({row['times_beyond']:.3g}x)"


def _words(row: Mapping[object, object]) -> str:
    interval = f" [{row['low']:.4g}, {row['high']:.4g}]" if row["inside"] is not None else ", no interval"
    return (
        f"{row['name']}\npredicted {row['predicted']:.4g}{interval}\nmeasured {row['measured']:.4g}\n"
        f"{row['times_beyond']:.3g} times beyond the runs fitted"
    )


def _handles(rows: pd.DataFrame, *, by_name: bool) -> list[Line2D]:
    handles = []
    if (rows["inside"] == True).any():  # noqa: E712 - missing is neither
        handles.append(Line2D([], [], color=INSIDE, marker="o", ms=5, lw=2, label="predicted, holds what was measured"))
    if (rows["inside"] == False).any():  # noqa: E712
        handles.append(Line2D([], [], color=OUTSIDE, marker="o", ms=5, lw=2, label="predicted, does not hold it"))
    if rows["inside"].isna().any():
        label = "predicted, no interval"
        handles.append(Line2D([], [], color=INSIDE, marker="o", ms=5, lw=0, mfc="white", label=label))
    if by_name:
        handles.append(Line2D([], [], color="black", marker="D", ms=4, lw=0, label="measured"))
        handles.append(Line2D([], [], lw=0, label="(3x): three times the largest fitted"))
    else:
        handles.append(Line2D([], [], color="black", lw=0.8, label="predicted as measured"))
    return handles
