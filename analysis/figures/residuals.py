"""What a law leaves over: residuals against the fitted value, to see curvature, outliers and unequal scatter."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import PALETTE, hover, panels, plain_log, quantity, styled
from analysis.fit import Fit


def table(found: Fit) -> pd.DataFrame:
    """One row per point: the law's inputs, y, fitted, weight and residual = ln(y / fitted), positive where the run is
    worse than the law says. Empty for a fit without parameters.
    """
    points = found.points
    columns = [*found.law.inputs, "y", "fitted", "weight", "residual"]
    if not found.status.usable:
        return pd.DataFrame(columns=columns, dtype=float)
    fitted = found.predict(points.x)
    rows = np.column_stack([points.x, points.y, fitted, points.weights, np.log(points.y / fitted)])
    return pd.DataFrame(rows, columns=columns)


def draw(rows: pd.DataFrame, *, label: str) -> Figure:
    """`rows` as of `table`, not empty. The dashed lines are plus and minus two root mean squares; a point of weight 0
    was not fitted and is hollow."""
    with styled():
        figure, grid = panels(1, 1, width=4.6, height=2.8)
        axes = grid[0][0]
        axes.set_xscale("log")
        used = rows["weight"] > 0
        percent = 100 * np.expm1(rows["residual"])
        scatter = float(np.sqrt((rows.loc[used, "residual"] ** 2).mean()))
        axes.axhline(0, color="black", lw=0.8)
        for side in (-2, 2):
            axes.axhline(100 * np.expm1(side * scatter), color="black", lw=0.8, ls=(0, (4, 2)))
        for mask, fill in ((used, PALETTE[0]), (~used, "white")):
            axes.plot(rows.loc[mask, "fitted"], percent[mask], "o", ms=4, lw=0, color=PALETTE[0], mfc=fill)
        inputs = [name for name in rows if name not in ("y", "fitted", "weight", "residual")]
        words = [
            "\n".join(
                [
                    *(f"{name} {quantity(row[name])}" for name in inputs),
                    f"measured {row['y']:.4g}",
                    f"law {row['fitted']:.4g}",
                ]
            )
            for row in rows.to_dict("records")
        ]
        hover(axes, rows["fitted"], percent, words)
        low, high = rows["fitted"].min(), rows["fitted"].max()
        space = max(1.02, (high / low) ** 0.06)
        axes.set_xlim(low / space, high * space)
        plain_log(axes.xaxis, at_most=6)
        axes.set_xlabel(f"fitted {label}")
        axes.set_ylabel("measured over fitted - 1, %")
        handles = [Line2D([], [], color="black", lw=0.8, ls=(0, (4, 2)), label="two root mean squares")]
        if (~used).any():
            handles.append(Line2D([], [], color=PALETTE[0], marker="o", ms=4, lw=0, mfc="white", label="not fitted"))
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure
