"""Task features against benefits: r in a grid, the pairs that survive the false-discovery rate framed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.style import panels, styled

DISCOVERIES = 0.05
"""False-discovery rate at which a pair is framed."""
LUMA = (0.299, 0.587, 0.114)
"""Brightness of red, green and blue (ITU-R BT.601), to write white on dark."""


def table(correlations: pd.DataFrame) -> pd.DataFrame:
    """Pearson's r, features x algorithms; NaN where there is no answer."""
    return correlations.pivot(index="feature", columns="algorithm", values="pearson")


def draw(correlations: pd.DataFrame) -> Figure:
    r = table(correlations)
    with styled():
        figure, grid = panels(1, 1, width=1.9 * len(r.columns) + 2.2, height=0.42 * len(r) + 0.8)
        axes = grid[0][0]
        axes.grid(visible=False)
        image = axes.imshow(r.to_numpy(float), cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
        for pair in correlations.to_dict("records"):
            at = (list(r.columns).index(pair["algorithm"]), list(r.index).index(pair["feature"]))
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
        axes.set_xticks(range(len(r.columns)), list(r.columns))
        axes.set_yticks(range(len(r)), list(r.index))
        axes.set_xlabel("exponent of the error along encoder parameters, by algorithm")
        axes.set_ylabel("task feature")
        figure.colorbar(image, label="Pearson's r", ticks=[-1, 0, 1])
    return figure
