"""Error of the online read-out, and the loss, against images seen: a panel per algorithm, a line per model size."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import few_decades, hover, markers, panels, plain_log, quantity, shortened, styled
from analysis.trajectories import Trajectories

MOST_COLUMNS = 4
"""Panels side by side."""
LIGHTEST = 0.85
"""Of the colour map: what is lighter is lost on white."""
WIDE = 3.0
"""Ratio of the largest to the smallest loss from which its axis is one of logarithms."""
Value = Literal["error", "loss"]


def table(found: Trajectories, value: Value) -> pd.DataFrame:
    """The points drawn: one row per run x point of the series shown, `error` being 1 - AUC, mean over tasks.

    Of each algorithm the mixture with the most model sizes, at its most images.
    """
    if value == "loss":
        rows = found.losses
    else:
        points = found.aucs.groupby(["run", "images_seen"], sort=False)["auc"].agg(["mean", "size"])
        complete = points[points["size"] == len(found.tasks)]["mean"].rename("error")
        rows = found.aucs.drop_duplicates(["run", "images_seen"]).merge(1 - complete, on=["run", "images_seen"])
    columns = ["algorithm", "mixture", "n_images", "model", "n_params", "seed", "run", "images_seen", value]
    chosen = [_shown(mine) for _, mine in rows.groupby("algorithm")]
    drawn = pd.concat(chosen) if chosen else rows.assign(**{value: np.nan})
    return drawn[columns].sort_values(["algorithm", "n_params", "model", "seed", "images_seen"], ignore_index=True)


def _shown(mine: pd.DataFrame) -> pd.DataFrame:
    most = mine.groupby("mixture")["n_images"].transform("max")
    largest = mine[(mine["n_images"] == most) | most.isna()]
    models = largest.groupby("mixture")["model"].nunique()
    return largest[largest["mixture"] == models.idxmax()]


def draw(rows: pd.DataFrame, *, ylabel: str) -> Figure:
    """`rows` as `table`. Seeds are thin lines below their mean, a marker is the end of the run."""
    value: Value = "loss" if "loss" in rows else "error"
    with styled():
        algorithms = sorted(rows["algorithm"].unique())
        sizes = rows.groupby("model")["n_params"].first().sort_values(kind="stable")
        shades = colormaps["viridis"](np.linspace(0, LIGHTEST, len(sizes)))
        colour = {str(model): to_hex(shade) for model, shade in zip(sizes.index, shades, strict=True)}
        marker = markers(colour)
        height = -(-len(algorithms) // MOST_COLUMNS)
        figure, grid = panels(height, -(-len(algorithms) // height), sharey=value == "error")
        places = [axes for row in grid for axes in row]
        for axes in places[len(algorithms) :]:
            axes.set_visible(False)
        for axes, algorithm in zip(places, algorithms, strict=False):
            mine = rows[rows["algorithm"] == algorithm]
            for model in colour:
                _draw_model(axes, mine[mine["model"] == model], value, colour[model], marker[model])
            axes.set_title(_title(mine, rows))
            _finish(axes, rows if value == "error" else mine, value)
        for row in grid:
            row[0].set_ylabel(ylabel)
        figure.legend(handles=_handles(rows, sizes, colour, marker), loc="outside lower center", ncols=4)
    return figure


def _draw_model(axes: Axes, mine: pd.DataFrame, value: Value, colour: str, marker: str) -> None:
    if mine.empty:
        return
    seeds = mine["run"].nunique()
    if seeds > 1:
        for _, run in mine.groupby("run"):
            axes.plot(run["images_seen"], run[value], lw=0.6, color=colour, alpha=0.45)
    at = mine.groupby("images_seen")[value].agg(["mean", "size"])
    mean = at[at["size"] == seeds]["mean"]  # where all seeds were looked at
    axes.plot(mean.index, mean, lw=1.4, color=colour)
    last = mine.sort_values("images_seen").drop_duplicates("run", keep="last")
    axes.plot([last["images_seen"].mean()], [last[value].mean()], marker=marker, ms=5, lw=0, color=colour)
    words = [
        f"{run['algorithm']}, {run['model']}, seed {run['seed']:g}\n{value} {run[value]:.4g} at "
        f"{quantity(run['images_seen'])} images\nrun {run['run']}"
        for run in last.to_dict("records")
    ]
    hover(axes, last["images_seen"], last[value], words)


def _title(mine: pd.DataFrame, rows: pd.DataFrame) -> str:
    """With the mixture where algorithms differ in it, or the size of the data where it is known."""
    first = mine.iloc[0]
    mixture = f", {first['mixture']}" if rows["mixture"].nunique() > 1 else ""
    images = f"\n{first['n_images']:,.0f} unique images" if np.isfinite(first["n_images"]) else ""
    return shortened(f"{first['algorithm']}{mixture}") + images


def _finish(axes: Axes, seen: pd.DataFrame, value: Value) -> None:
    axes.set_xscale("log")
    low, high = seen[value].min(), seen[value].max()
    if low > 0 and (value == "error" or high > WIDE * low):
        axes.set_yscale("log")
        plain_log(axes.yaxis)
    few_decades(axes.xaxis, at_most=7)
    axes.set_xlabel("images seen")


def _handles(rows: pd.DataFrame, sizes: pd.Series, colour: dict[str, str], marker: dict[str, str]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=c, marker=marker[model], ms=5, lw=1.4, label=_size(model, sizes[model]))
        for model, c in colour.items()
    ]
    if (rows.groupby(["algorithm", "model"])["run"].nunique() > 1).any():
        handles.append(Line2D([], [], color="black", lw=0.6, alpha=0.45, label="one seed"))
    return handles


def _size(model: str, n_params: float) -> str:
    return f"{model} ({quantity(n_params)})" if np.isfinite(n_params) else model
