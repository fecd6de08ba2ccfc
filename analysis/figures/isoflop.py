"""Losses of runs of equal compute against model size, the polynomial through each budget, and its minimum."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import few_decades, hover, panels, plain_log, power, quantity, styled
from analysis.optima.isoflop import Minimum
from analysis.points import Vector

DARKEST = 0.92
"""Of the colour map; its end is too pale on paper."""


def table(minima: Sequence[Minimum]) -> pd.DataFrame:
    """One row per budget: flops, n_runs, smallest, largest, n_params with a 95 % interval, reason where it has none."""
    rows = []
    for minimum in minima:
        low, high = np.exp(np.percentile(minimum.draws, [2.5, 97.5])) if len(minimum.draws) else (np.nan, np.nan)
        rows.append(
            {
                "flops": minimum.flops,
                "n_runs": len(minimum.rows),
                "smallest": minimum.sizes[0],
                "largest": minimum.sizes[1],
                "n_params": minimum.n_params,
                "n_params_low": low,
                "n_params_high": high,
                "reason": minimum.reason,
            }
        )
    columns = ["flops", "n_runs", "smallest", "largest", "n_params", "n_params_low", "n_params_high", "reason"]
    return pd.DataFrame(rows, columns=columns)


def draw(minima: Sequence[Minimum], n_params: Vector, y: Vector, *, ylabel: str, unit: str = "parameters") -> Figure:
    """n_params, y (n,): of the runs that `Minimum.rows` counts. A star is a minimum with its 95 % interval; a dotted
    curve is a budget without one.
    """
    with styled():
        figure, grid = panels(1, 1, width=5.2, height=3.4)
        axes = grid[0][0]
        axes.set_xscale("log")
        axes.set_yscale("log")
        order = sorted(minima, key=lambda minimum: minimum.flops)
        shades = matplotlib.colormaps["viridis"](np.linspace(0, DARKEST, len(order)))
        handles, rows = [], table(order)
        seen = [y[minimum.rows] for minimum in order]
        for minimum, shade, row in zip(order, shades, rows.to_dict("records"), strict=True):
            sizes, losses = n_params[minimum.rows], y[minimum.rows]
            axes.plot(sizes, losses, "o", ms=3.5, lw=0, color=shade)
            words = f"{minimum.flops:.3g} FLOPs\n"
            hover(
                axes,
                sizes,
                losses,
                [f"{words}{quantity(n)} {unit}: {v:.4g}" for n, v in zip(sizes, losses, strict=True)],
            )
            if len(minimum.coefficients):
                n = np.geomspace(*minimum.sizes, 80)
                axes.plot(n, _curve(minimum, n), color=shade, lw=1.2, ls="-" if minimum.found else ":")
            if minimum.found:
                at = float(_curve(minimum, np.array([minimum.n_params]))[0])
                axes.plot([row["n_params_low"], row["n_params_high"]], [at, at], color="black", lw=1)
                axes.plot([minimum.n_params], [at], "*", ms=9, color="black", mfc=shade, mew=0.7)
                ends = f" [{quantity(row['n_params_low'])}, {quantity(row['n_params_high'])}]"
                hover(axes, [minimum.n_params], [at], [f"{words}minimum at {quantity(minimum.n_params)}{ends}"])
            handles.append(Line2D([], [], color=shade, marker="o", ms=3.5, lw=1.2, label=power(minimum.flops)))
        if seen:
            low, high = np.concatenate(seen).min(), np.concatenate(seen).max()
            axes.set_ylim(low / (high / low) ** 0.08, high * (high / low) ** 0.08)
            plain_log(axes.yaxis)
        axes.set_xlabel(f"model size, {unit}")
        axes.set_ylabel(ylabel)
        few_decades(axes.xaxis)
        _legends(figure, handles, minima)
    return figure


def _curve(minimum: Minimum, n: Vector) -> Vector:
    return np.asarray(np.polynomial.polynomial.polyval(np.log(n) - minimum.centre, minimum.coefficients), np.float64)


def _legends(figure: Figure, budgets: list[Line2D], minima: Sequence[Minimum]) -> None:
    if budgets:
        figure.legend(handles=budgets, title="training FLOPs", loc="outside right upper", fontsize=8)
    handles = []
    if any(minimum.found for minimum in minima):
        bare = all(not len(minimum.draws) for minimum in minima if minimum.found)
        label = "minimum (no interval)" if bare else "minimum with its 95 % interval"
        handles.append(Line2D([], [], color="black", marker="*", ms=9, mfc="white", lw=1, label=label))
    if any(not minimum.found for minimum in minima):
        handles.append(Line2D([], [], color="black", ls=":", lw=1.2, label="no minimum inside the runs"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
