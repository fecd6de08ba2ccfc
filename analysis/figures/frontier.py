"""Compute-optimal model and data sizes against compute, by every approach side by side, with intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import REFERENCE, colours, few_decades, hover, markers, panels, quantity, styled
from analysis.optima.allocation import Frontier

SIZES = {"n_params": "optimal model size, {unit}", "n_images": "optimal data size, images seen"}
BEYOND = (0, (3, 2))


def table(found: Frontier) -> pd.DataFrame:
    """One row per approach and budget, or one with the reason where an approach has no answer.

    Columns approach, status, reason, flops, n_params, n_params_low, n_params_high, n_images (with ends), beyond (times
    the costliest run's FLOPs).
    """
    rows: list[dict[str, object]] = []
    for approach in found.approaches:
        named: dict[str, object] = {"approach": label(approach.name, approach.number), "status": approach.status.key}
        if not approach.answered:
            rows.append({**named, "reason": approach.reason})
        for optimum in approach.optima:
            row = {**named, "reason": "; ".join(optimum.notes), "flops": optimum.budget, "beyond": optimum.beyond}
            for size, estimate in (("n_params", optimum.n_params), ("n_images", optimum.n_images)):
                row |= {size: estimate.value, f"{size}_low": estimate.low, f"{size}_high": estimate.high}
            rows.append(row)
    columns = ["approach", "status", "reason", "flops", "beyond"]
    sizes = [f"{size}{end}" for size in SIZES for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*columns, *sizes])


def exponents(found: Frontier) -> pd.DataFrame:
    """One row per approach: a of N_opt ~ C^a and b of D_opt ~ C^b with their ends, or the reason why it has none."""
    rows: list[dict[str, object]] = []
    for approach in found.approaches:
        row: dict[str, object] = {"approach": label(approach.name, approach.number), "status": approach.status.key}
        for name, estimate in (("a", approach.a), ("b", approach.b)):
            ends = (estimate.value, estimate.low, estimate.high) if estimate else (np.nan, np.nan, np.nan)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        rows.append({**row, "reason": "; ".join([approach.reason, *approach.warnings]).strip("; ")})
    return pd.DataFrame(rows)


def label(name: str, number: int) -> str:
    return f"{number}: {name}"


def draw(rows: pd.DataFrame, runs: pd.DataFrame, slopes: pd.DataFrame, *, unit: str = "parameters") -> Figure:
    """`rows` as of `table`; `runs`: columns n_params, n_images, flops, shown in grey; `slopes` as of `exponents`.

    Lines are dashed beyond the costliest run; an approach without an interval has a line alone and says so.
    """
    with styled():
        figure, grid = panels(1, 3, width=3.4, height=2.8, sharey=False)
        answered = rows[rows["flops"].notna()]
        approaches = list(dict.fromkeys(rows["approach"]))
        colour, marker = colours(approaches), markers(approaches)
        for axes, size in zip(grid[0][:2], SIZES, strict=True):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.plot(runs["flops"], runs[size], ".", ms=3, color="#aaaaaa", zorder=1)
            for name, mine in answered.groupby("approach", sort=False):
                _draw_approach(axes, mine.sort_values("flops"), size, colour[str(name)], marker[str(name)])
            _limit(axes, answered, runs, size)
            axes.set_xlabel("compute, training FLOPs")
            axes.set_ylabel(SIZES[size].format(unit=unit))
            few_decades(axes.xaxis)
            few_decades(axes.yaxis)
        _draw_exponents(grid[0][2], slopes, colour, marker)
        figure.legend(handles=_handles(rows, colour, marker), loc="outside lower center", ncols=3)
    return figure


def _draw_exponents(axes: Axes, slopes: pd.DataFrame, colour: dict[str, str], marker: dict[str, str]) -> None:
    """What the approaches agree or disagree by."""
    for y, row in enumerate(slopes.to_dict("records")):
        name = row["approach"]
        if not np.isfinite(row["a"]):
            words = f" {row['status'].replace('_', ' ')}"
            axes.text(0, y, words, transform=axes.get_yaxis_transform(), va="center", fontsize=7, color=REFERENCE)
            continue
        known = bool(np.isfinite(row["a_low"]) and np.isfinite(row["a_high"]))
        if known:
            axes.plot([row["a_low"], row["a_high"]], [y, y], color=colour[name], lw=1.5)
        axes.plot([row["a"]], [y], marker[name], ms=5, color=colour[name], mfc=None if known else "white")
        ends = f"[{row['a_low']:.3g}, {row['a_high']:.3g}]" if known else "no interval"
        hover(axes, [row["a"]], [y], [f"approach {name}\na = {row['a']:.3g} {ends}"])
    axes.set_yticks(range(len(slopes)), list(slopes["approach"]))
    axes.set_ylim(len(slopes) - 0.4, -0.6)
    if slopes["a"].notna().any():
        middle = slopes["a"].dropna()
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, middle.min() - 0.5), min(high, middle.max() + 0.5))
    else:
        axes.set_xticks([])
    axes.set_xlabel("a of N_opt ~ C^a, no unit")


def _draw_approach(axes: Axes, mine: pd.DataFrame, size: str, colour: str, marker: str) -> None:
    x, y = mine["flops"], mine[size]
    inside = mine["beyond"] <= 1
    axes.plot(x, y, color=colour, lw=1, ls=BEYOND)
    axes.plot(x[inside], y[inside], color=colour, lw=1.5)
    axes.plot(x, y, marker, ms=4, lw=0, color=colour)
    ends = mine[[f"{size}_low", f"{size}_high"]].clip(1e-300, 1e300)
    axes.fill_between(x, ends.iloc[:, 0], ends.iloc[:, 1], color=colour, alpha=0.13, lw=0)
    if len(mine) == 1:
        axes.plot([x.iloc[0]] * 2, ends.iloc[0], color=colour, lw=1)
    words = [
        f"approach {row['approach']}\n{row['flops']:.3g} FLOPs: {quantity(row[size])} "
        f"[{row[f'{size}_low']:.3g}, {row[f'{size}_high']:.3g}]\n{row['beyond']:.3g} times the costliest run"
        for row in mine.to_dict("records")
    ]
    hover(axes, x, y, words)


def _limit(axes: Axes, answered: pd.DataFrame, runs: pd.DataFrame, size: str) -> None:
    """By runs and answers; an interval that spans the page is cut."""
    seen = np.concatenate([runs[size].to_numpy(float), answered[size].to_numpy(float)])
    seen = seen[np.isfinite(seen) & (seen > 0)]
    if len(seen):
        axes.set_ylim(seen.min() / 2, seen.max() * 2)


def _handles(rows: pd.DataFrame, colour: dict[str, str], marker: dict[str, str]) -> list[Line2D]:
    handles = []
    for name, mine in rows.groupby("approach", sort=False):
        answered = mine["flops"].notna()
        if not answered.any():
            handles.append(Line2D([], [], lw=0, label=f"{name}: {mine['status'].iloc[0].replace('_', ' ')}"))
            continue
        bare = mine.loc[answered, ["n_params_low", "n_params_high"]].isna().all(axis=None)
        words = f"{name} (no interval)" if bare else str(name)
        handles.append(Line2D([], [], color=colour[str(name)], marker=marker[str(name)], ms=4, label=words))
    handles.append(Line2D([], [], color="#aaaaaa", marker=".", ms=4, lw=0, label="runs"))
    if (rows["beyond"] > 1).any():
        handles.append(Line2D([], [], color=REFERENCE, lw=1, ls=BEYOND, label="beyond the costliest run"))
    return handles
