"""What each task gains: a point and its 95 % interval per algorithm."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import colours, markers, panels, styled


def table(headline: pd.DataFrame) -> pd.DataFrame:
    """The rows drawn, tasks in the order of their mean exponent."""
    order = headline.groupby("task")["exponent"].mean().sort_values().index
    return headline.set_index("task").loc[order].reset_index()


def draw(rows: pd.DataFrame, *, xlabel: str) -> Figure:
    with styled():
        tasks = list(dict.fromkeys(rows["task"]))
        figure, grid = panels(1, 1, width=5.6, height=0.5 * len(tasks) + 0.9)
        axes = grid[0][0]
        algorithms = sorted(rows["algorithm"].unique())
        colour, marker = colours(algorithms), markers(algorithms)
        for j, algorithm in enumerate(algorithms):
            mine = rows[rows["algorithm"] == algorithm]
            y = [tasks.index(task) + 0.16 * (j - (len(algorithms) - 1) / 2) for task in mine["task"]]
            below, above = mine["exponent"] - mine["exponent_low"], mine["exponent_high"] - mine["exponent"]
            ends = np.nan_to_num([below, above])
            axes.errorbar(
                mine["exponent"],
                y,
                xerr=ends,
                fmt=marker[algorithm],
                color=colour[algorithm],
                ms=5,
                lw=1.2,
                label=algorithm,
            )
        middle = rows["exponent"].to_numpy(float)
        reach = 3 * max(0.05, float(np.abs(middle).max()))  # an interval from three points may span the page
        axes.set_xlim(max(axes.get_xlim()[0], -reach), min(axes.get_xlim()[1], reach))
        axes.axvline(0, color="black", lw=0.8)
        axes.set_yticks(range(len(tasks)), tasks)
        axes.set_ylim(-0.6, len(tasks) - 0.4)
        axes.set_xlabel(xlabel)
        figure.legend(loc="outside lower center", ncols=len(algorithms))
    return figure
