"""What each task gains: a point and its 95 % interval per algorithm."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import colours, hover, markers, panels, shortened, styled

REACH = 3.0
"""An interval is drawn to so many times the largest benefit; one from three points may span the page."""
LANE = 0.15
"""Inches a point needs below its neighbour."""


def table(headline: pd.DataFrame, *, column: str = "exponent") -> pd.DataFrame:
    """The rows drawn, tasks in the order of their mean benefit, those without one first."""
    order = headline.groupby("task")[column].mean().sort_values(na_position="first", kind="stable").index
    return headline.set_index("task").loc[order].reset_index()


def draw(rows: pd.DataFrame, *, xlabel: str, column: str = "exponent") -> Figure:
    """A hollow point has no interval; a task without a benefit says so; an arrow is an interval that goes on."""
    with styled():
        tasks = list(dict.fromkeys(rows["task"]))
        algorithms = sorted(rows["algorithm"].unique())
        height = LANE * max(2, len(algorithms) + 0.5)
        figure, grid = panels(1, 1, width=5.6, height=height * len(tasks) + 1.0)
        axes = grid[0][0]
        colour, marker = colours(algorithms), markers(algorithms)
        largest = np.abs(rows[column].to_numpy(float))
        reach = REACH * (float(np.nanmax(largest)) if np.isfinite(largest).any() else 1.0) or 1.0
        lane = LANE / height
        rows = rows.assign(
            y=[
                tasks.index(task) + lane * (algorithms.index(algorithm) - (len(algorithms) - 1) / 2)
                for task, algorithm in zip(rows["task"], rows["algorithm"], strict=True)
            ]
        )
        for row in rows.to_dict("records"):
            _point(axes, row, column, reach, colour[row["algorithm"]], marker[row["algorithm"]])
        hover(axes, rows[column], rows["y"], [_words(row, column) for row in rows.to_dict("records")])
        axes.axvline(0, color="black", lw=0.8)
        axes.set_yticks(range(len(tasks)), [shortened(str(task)) for task in tasks])
        axes.set_ylim(-0.6, len(tasks) - 0.4)
        axes.set_xlabel(xlabel)
        handles = [
            Line2D([], [], color=colour[a], marker=marker[a], ms=5, lw=1.2, label=shortened(a)) for a in algorithms
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(algorithms)))
    return figure


def _point(axes: Axes, row: dict[Hashable, Any], column: str, reach: float, colour: str, marker: str) -> None:
    value, low, high, y = (float(row[name]) for name in (column, f"{column}_low", f"{column}_high", "y"))
    if not np.isfinite(value):
        axes.text(0, y, f" {shortened(str(row['algorithm']), 20)}: no number", fontsize=6, color=colour, va="center")
        return
    known = bool(np.isfinite(low))
    if known:
        axes.plot([max(low, -reach), min(high, reach)], [y, y], color=colour, lw=1.2)
        for end, outside, arrow in ((-reach, low < -reach, "<"), (reach, high > reach, ">")):
            if outside:
                axes.plot([end], [y], arrow, color=colour, ms=4, clip_on=False)
    axes.plot([value], [y], marker, color=colour, ms=5, mfc=None if known else "white")


def _words(row: dict[Hashable, Any], column: str) -> str:
    return (
        f"{row['task']}, {row['algorithm']}: {row[column]:.4g} [{row[f'{column}_low']:.4g}, "
        f"{row[f'{column}_high']:.4g}], {row['n_sizes']} sizes, {row['n_runs']} runs"
    )
