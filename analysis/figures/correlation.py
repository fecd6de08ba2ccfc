"""Task features against benefits: r in a grid, the pairs that survive the false-discovery rate framed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.style import panels, styled

SURVIVES = 0.05


def table(correlations: pd.DataFrame) -> pd.DataFrame:
    """Pearson's r, features x algorithms; NaN where there is no answer."""
    return correlations.pivot(index="feature", columns="algorithm", values="pearson")


def draw(correlations: pd.DataFrame) -> Figure:
    r = table(correlations)
    with styled():
        figure, grid = panels(1, 1, width=1.5 * len(r.columns) + 2.2, height=0.42 * len(r) + 0.8)
        axes = grid[0][0]
        axes.grid(visible=False)
        image = axes.imshow(r.to_numpy(float), cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
        for pair in correlations.itertuples():
            at = (list(r.columns).index(pair.algorithm), list(r.index).index(pair.feature))
            if not np.isfinite(float(pair.pearson)):  # type: ignore[arg-type]
                axes.text(*at, "no answer", ha="center", va="center", fontsize=7, color="#666666")
                continue
            dark = abs(float(pair.pearson)) > 0.65  # type: ignore[arg-type]
            words = f"{pair.pearson:+.2f}\np = {pair.p:.2g}, n = {pair.n_tasks}"
            axes.text(*at, words, ha="center", va="center", fontsize=7, color="white" if dark else "black")
            if float(pair.q) < SURVIVES:  # type: ignore[arg-type]
                axes.add_patch(Rectangle((at[0] - 0.48, at[1] - 0.46), 0.96, 0.92, fill=False, lw=2, ec="black"))
        axes.set_xticks(range(len(r.columns)), list(r.columns))
        axes.set_yticks(range(len(r)), list(r.index))
        figure.colorbar(image, label="Pearson's r", ticks=[-1, 0, 1])
    return figure
