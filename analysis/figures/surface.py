"""A law of model and data size as contours, with the runs that it was fitted to and the best use of every budget."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import PALETTE, few_decades, hover, panels, quantity, styled
from analysis.fit import Fit

LEVELS = 9
SPACE = 1.5
"""Factor of free space about the runs."""


def table(runs: pd.DataFrame, found: Fit) -> pd.DataFrame:
    """Runs (columns n_params, n_images, y; others stay) with the law's value `fitted`, and off = fitted / y - 1."""
    if not found.status.usable:
        return runs.assign(fitted=np.nan, off=np.nan)
    fitted = found.predict(runs[["n_params", "n_images"]].to_numpy(float))
    return runs.assign(fitted=fitted, off=fitted / runs["y"] - 1)


def draw(
    found: Fit, runs: pd.DataFrame, frontier: pd.DataFrame | None = None, *, label: str, unit: str = "parameters"
) -> Figure:
    """A law of inputs n_params, n_images. `runs`: as of `table`, with `held_out` where some are. `frontier`: columns
    n_params, n_images, of one approach. Contours are the curve alone: their interval is not drawn, and it is said.

    Raises ValueError for a fit without parameters.
    """
    if not found.status.usable:
        raise ValueError(f"no surface to draw: {found.reason}")
    with styled():
        figure, grid = panels(1, 1, width=5.0, height=3.8)
        axes = grid[0][0]
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(visible=False)
        x, y = (np.geomspace(runs[c].min() / SPACE, runs[c].max() * SPACE, 80) for c in ("n_params", "n_images"))
        mesh = np.stack(np.meshgrid(x, y), axis=-1)
        values = found.predict(mesh.reshape(-1, 2)).reshape(mesh.shape[:2])
        levels = np.geomspace(values.min(), values.max(), LEVELS + 2)
        if levels[-1] > levels[0]:
            shades = axes.contourf(x, y, values, levels=levels, cmap="viridis_r", alpha=0.75)
            shades.set_edgecolor("face")  # no seams between areas in vector formats
            bar = figure.colorbar(shades, ax=axes, label=label)
            bar.set_ticks(list(levels[1:-1]), labels=[f"{level:.3g}" for level in levels[1:-1]])
            bar.ax.minorticks_off()
        held_out = runs["held_out"].astype(bool) if "held_out" in runs else pd.Series(False, index=runs.index)
        for mask, fill in ((~held_out, "black"), (held_out, "white")):
            axes.plot(
                runs.loc[mask, "n_params"], runs.loc[mask, "n_images"], "o", ms=3.5, lw=0, color="black", mfc=fill
            )
        words = [
            f"{quantity(row['n_params'])} {unit}, {quantity(row['n_images'])} images\n"
            f"measured {row['y']:.4g}, law {row['fitted']:.4g}"
            for row in table(runs, found).to_dict("records")
        ]
        hover(axes, runs["n_params"], runs["n_images"], words)
        handles = [Line2D([], [], color="black", marker="o", ms=3.5, lw=0, label="runs (law without interval)")]
        if held_out.any():
            handles.append(Line2D([], [], color="black", marker="o", ms=3.5, lw=0, mfc="white", label="held out"))
        if frontier is not None and len(frontier):
            axes.plot(frontier["n_params"], frontier["n_images"], color=PALETTE[1], lw=2)
            handles.append(Line2D([], [], color=PALETTE[1], lw=2, label="best use of compute"))
        axes.set_xlim(x[0], x[-1])
        axes.set_ylim(y[0], y[-1])
        axes.set_xlabel(f"model size, {unit}")
        axes.set_ylabel("data size, images")
        few_decades(axes.xaxis)
        few_decades(axes.yaxis)
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
