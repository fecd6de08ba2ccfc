"""What each task gains: a point and its 95 % interval per algorithm."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import colours, markers, panels, styled

REACH = 3.0
"""An interval is drawn to so many times the largest exponent; one from three points may span the page."""


def table(headline: pd.DataFrame) -> pd.DataFrame:
    """The rows drawn, tasks in the order of their mean exponent, those without one first."""
    order = headline.groupby("task")["exponent"].mean().sort_values(na_position="first", kind="stable").index
    return headline.set_index("task").loc[order].reset_index()


def draw(rows: pd.DataFrame, *, xlabel: str) -> Figure:
    """A hollow point has no interval; a task without a law says so; an arrow is an interval that goes on."""
    with styled():
        tasks = list(dict.fromkeys(rows["task"]))
        figure, grid = panels(1, 1, width=5.6, height=0.3 * len(tasks) + 1.2)
        axes = grid[0][0]
        algorithms = sorted(rows["algorithm"].unique())
        colour, marker = colours(algorithms), markers(algorithms)
        answered = rows[rows["exponent"].notna()]
        reach = REACH * max(0.05, float(answered["exponent"].abs().max()) if len(answered) else 0.0)
        for row in rows.to_dict("records"):
            name = row["algorithm"]
            y = tasks.index(row["task"]) + 0.22 * (algorithms.index(name) - (len(algorithms) - 1) / 2)
            if not np.isfinite(row["exponent"]):
                axes.text(0, y, f" {name}: no law", fontsize=6, color=colour[name], va="center")
                continue
            low, high = row["exponent_low"], row["exponent_high"]
            known = bool(np.isfinite(low))
            if known:
                axes.plot([max(low, -reach), min(high, reach)], [y, y], color=colour[name], lw=1.2)
                for end, outside, arrow in ((-reach, low < -reach, "<"), (reach, high > reach, ">")):
                    if outside:
                        axes.plot([end], [y], arrow, color=colour[name], ms=4, clip_on=False)
            axes.plot([row["exponent"]], [y], marker[name], color=colour[name], ms=5, mfc=None if known else "white")
        axes.axvline(0, color="black", lw=0.8)
        axes.set_yticks(range(len(tasks)), tasks)
        axes.set_ylim(-0.6, len(tasks) - 0.4)
        axes.set_xlabel(xlabel)
        handles = [Line2D([], [], color=colour[a], marker=marker[a], ms=5, lw=1.2, label=a) for a in algorithms]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(algorithms)))
    return figure
