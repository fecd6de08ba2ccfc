"""Task features against benefits: r in a grid, the pairs that survive the false-discovery rate framed; intervals beside
what one task does to them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.figures.style import PALETTE, REFERENCE, hover, panels, shortened, styled

DISCOVERIES = 0.05
"""False-discovery rate at which a pair is framed."""
LUMA = (0.299, 0.587, 0.114)
"""Brightness of red, green and blue (ITU-R BT.601), to write white on dark."""
COLUMNS = 4
"""Panels of intervals side by side."""
MEASURED, TRUE = PALETTE[0], PALETTE[1]


def series(correlations: pd.DataFrame) -> pd.Series:
    """What tells series of benefits apart, in one text a row: the columns between feature and n_tasks."""
    columns = list(correlations.columns)
    by = columns[columns.index("feature") + 1 : columns.index("n_tasks")]
    if not by:
        return pd.Series("", index=correlations.index)
    return correlations[by].astype(str).agg(" / ".join, axis=1)


def table(correlations: pd.DataFrame) -> pd.DataFrame:
    """Pearson's r, features x series of benefits; NaN where there is no answer."""
    return correlations.assign(series=series(correlations)).pivot(index="feature", columns="series", values="pearson")


def draw(correlations: pd.DataFrame, *, xlabel: str = "benefit") -> Figure:
    r = table(correlations)
    names = series(correlations)
    with styled():
        figure, grid = panels(1, 1, width=1.9 * len(r.columns) + 2.2, height=0.42 * len(r) + 0.8)
        axes = grid[0][0]
        axes.grid(visible=False)
        image = axes.imshow(r.to_numpy(float), cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
        for name, pair in zip(names, correlations.to_dict("records"), strict=True):
            at = (list(r.columns).index(name), list(r.index).index(pair["feature"]))
            if not np.isfinite(pair["pearson"]):
                axes.text(*at, "no answer", ha="center", va="center", fontsize=7, color="#666666")
                continue
            words = (
                f"{pair['pearson']:+.2f} [{pair['pearson_low']:+.2f}, {pair['pearson_high']:+.2f}]\n"
                f"p = {pair['p']:.2g}, q = {pair['q']:.2g}, n = {pair['n_tasks']}"
            )
            dark = np.dot(image.to_rgba(pair["pearson"])[:3], LUMA) < 0.55
            axes.text(*at, words, ha="center", va="center", fontsize=7, color="white" if dark else "black")
            if pair["q"] < DISCOVERIES:
                axes.add_patch(Rectangle((at[0] - 0.48, at[1] - 0.46), 0.96, 0.92, fill=False, lw=2, ec="black"))
        axes.set_xticks(range(len(r.columns)), [shortened(str(name), 24) for name in r.columns])
        axes.set_yticks(range(len(r)), [shortened(str(name)) for name in r.index])
        axes.set_xlabel(xlabel)
        axes.set_ylabel("task feature")
        figure.colorbar(image, label="Pearson's r", ticks=[-1, 0, 1])
    return figure


def interval_table(correlations: pd.DataFrame) -> pd.DataFrame:
    """The pairs with an answer, features in the order of their strongest r, the strongest last, as they are drawn
    upwards."""
    rows = correlations.assign(series=series(correlations)).dropna(subset="pearson")
    order = rows["pearson"].abs().groupby(rows["feature"]).max().sort_values(kind="stable").index
    return rows.set_index("feature").loc[order].reset_index()


def draw_intervals(rows: pd.DataFrame, *, xlabel: str = "Pearson's r with the benefit") -> Figure:
    """One panel a series: r with its interval, r with the true benefits below it, and the range of r with one task left
    out as a grey bar. Between the dotted lines no r of so many tasks is significant."""
    names = list(dict.fromkeys(rows["series"]))
    features = list(dict.fromkeys(rows["feature"]))
    with styled():
        n_columns = max(1, min(COLUMNS, len(names)))
        n_rows = max(1, -(-len(names) // n_columns))
        figure, grid = panels(n_rows, n_columns, width=3.0, height=0.36 * len(features) + 0.9)
        flat = [axes for row in grid for axes in row]
        for axes in flat[len(names) :]:
            axes.set_visible(False)
        for axes, name in zip(flat, names, strict=False):
            mine = rows[rows["series"] == name]
            for pair in mine.to_dict("records"):
                _pair(axes, pair, features.index(pair["feature"]))
            least = float(mine["detectable"].min())
            for side in (-least, least):
                axes.axvline(side, color=REFERENCE, lw=0.9, ls=":")
            axes.axvline(0, color="black", lw=0.8)
            axes.set_xlim(-1.04, 1.04)
            axes.set_xticks([-1, -0.5, 0, 0.5, 1])
            axes.set_title(shortened(str(name)))
            axes.set_xlabel(xlabel)
            places = [features.index(feature) for feature in mine["feature"]]
            hover(axes, mine["pearson"], places, [_words(pair) for pair in mine.to_dict("records")])
        for row in grid:
            row[0].set_yticks(range(len(features)), [shortened(str(feature)) for feature in features])
        flat[0].set_ylim(-0.6, len(features) - 0.4)
        handles = [
            Line2D([], [], color=MEASURED, marker="o", ms=5, lw=1.4, label="r with benefits as measured, 95 %"),
            Line2D([], [], color=TRUE, marker="D", ms=4, lw=1.4, label="corrected for their errors, 95 %"),
            Line2D([], [], color="#bbbbbb", lw=5, label="r with one task left out"),
            Line2D([], [], color=REFERENCE, lw=0.9, ls=":", label="least significant r"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(2, n_columns))
    return figure


def _pair(axes: Axes, pair: dict[Hashable, Any], y: int) -> None:
    axes.plot([pair["without_low"], pair["without_high"]], [y + 0.12] * 2, color="#bbbbbb", lw=5, solid_capstyle="butt")
    for name, offset, colour, marker, size in (
        ("pearson", 0.12, MEASURED, "o", 5),
        ("corrected", -0.16, TRUE, "D", 4),
    ):
        if np.isfinite(pair[name]):
            ends = [pair[f"{name}_low"], pair[f"{name}_high"]]
            axes.plot(ends, [y + offset] * 2, color=colour, lw=1.4)
            axes.plot([pair[name]], [y + offset], marker, color=colour, ms=size)


def _words(pair: dict[Hashable, Any]) -> str:
    return (
        f"{pair['feature']}: r {pair['pearson']:+.2f}, p {pair['p']:.2g}, q {pair['q']:.2g}, n {pair['n_tasks']}; "
        f"without {pair['influential']} most changed"
    )
