"""Mean error over tasks against model size, data size or compute: the points, a power law, its 95 % band."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import REFERENCE, colours, markers, panels, plain_log, quantity, styled, ticks_at
from analysis.fit import Fit, fit
from analysis.laws import LAWS
from analysis.uncertainty import parameter_intervals, prediction_band

AXIS_LABELS = {
    "n_params": "encoder parameters",
    "n_images": "unique pretraining images",
    "train_flops": "pretraining FLOPs",
}
FIXED = {
    "n_params": ["algorithm", "mixture", "n_images"],
    "n_images": ["algorithm", "mixture", "model"],
    "train_flops": ["algorithm", "mixture", "n_images"],
}
"""What is held along an axis, so that a curve compares like with like."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The runs of one series along one axis, with the law through them."""

    axis: str
    fixed: dict[str, str]
    runs: pd.DataFrame
    """Columns x, error, error_se, seed, run."""
    fit: Fit

    @property
    def name(self) -> str:
        return ", ".join(self.fixed.values())


def curves(means: pd.DataFrame, axis: str) -> list[Curve]:
    """Every series with at least two sizes; `means` as `observations.mean_over_tasks` or one task's rows."""
    found = []
    for key, series in means.groupby(FIXED[axis], sort=True):
        if series[axis].nunique() < 2:
            continue
        fixed = {name: _text(value) for name, value in zip(FIXED[axis], key, strict=True)}
        runs = series.assign(x=series[axis])[["x", "error", "error_se", "seed", "run"]]
        law = fit(LAWS["power"], runs["x"].to_numpy(float), runs["error"].to_numpy(float))
        found.append(Curve(axis=axis, fixed=fixed, runs=runs, fit=law))
    return found


def _text(value: object) -> str:
    return quantity(value) if isinstance(value, float) else str(value)


def table(found: list[Curve]) -> pd.DataFrame:
    """One row per curve: the exponent with its interval, or why there is none."""
    rows = []
    for curve in found:
        interval = parameter_intervals(curve.fit).get("b")
        rows.append(
            {
                **curve.fixed,
                "n_sizes": curve.runs["x"].nunique(),
                "n_runs": len(curve.runs),
                "smallest": curve.runs["x"].min(),
                "largest": curve.runs["x"].max(),
                "exponent": interval.value if interval else np.nan,
                "exponent_low": interval.low if interval else np.nan,
                "exponent_high": interval.high if interval else np.nan,
                "status": str(curve.fit.status),
                "runs": " ".join(sorted(curve.runs["run"])),
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True, kw_only=True)
class References:
    """Mean errors of the untrained baselines over the same tasks."""

    random: pd.DataFrame
    """Columns n_params, model, error; one row per model and seed."""
    pixels: float
    """NaN when it was not run."""


def draw(found: list[Curve], references: References, *, panel_by: str, ylabel: str) -> Figure:
    """One panel per value of `panel_by`; colour is the algorithm, marker and dash the mixture (or data size)."""
    with styled():
        groups = list(dict.fromkeys(curve.fixed[panel_by] for curve in found))
        columns = min(4, max(1, len(groups)))
        figure, grid = panels(-(-len(groups) // columns), columns)
        algorithms = sorted({curve.fixed["algorithm"] for curve in found})
        others = list(dict.fromkeys(_other(curve, panel_by) for curve in found))
        colour, marker = colours(algorithms), markers(others)
        for i, axes in enumerate(axes for row in grid for axes in row):
            if i >= len(groups):
                axes.set_visible(False)
                continue
            mine = [curve for curve in found if curve.fixed[panel_by] == groups[i]]
            for curve in mine:
                other = _other(curve, panel_by)
                _draw_curve(
                    axes, curve, colour[curve.fixed["algorithm"]], marker[other], dashed=others.index(other) > 0
                )
            _draw_references(axes, mine[0].axis, references, groups[i], panel_by)
            axes.set_title(f"{_title(panel_by)} {groups[i]}")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel(AXIS_LABELS[mine[0].axis])
            ticks_at(axes.xaxis, [x for curve in mine for x in curve.runs["x"]])
        for row in grid:
            row[0].set_ylabel(ylabel)
            plain_log(row[0].yaxis)
        _legend(figure, colour, marker, references)
    return figure


def _other(curve: Curve, panel_by: str) -> str:
    return ", ".join(value for name, value in curve.fixed.items() if name not in (panel_by, "algorithm"))


def _title(panel_by: str) -> str:
    return {"n_images": "pretrained on", "model": "", "mixture": "mixture"}[panel_by]


def _draw_curve(axes: Axes, curve: Curve, colour: str, marker: str, *, dashed: bool) -> None:
    runs = curve.runs.sort_values("x")
    axes.errorbar(
        runs["x"],
        runs["error"],
        yerr=runs["error_se"],
        fmt=marker,
        ms=4,
        lw=0,
        elinewidth=0.8,
        color=colour,
        alpha=0.85,
    )
    if curve.fit.status.usable:
        x = np.geomspace(runs["x"].min(), runs["x"].max(), 60)
        axes.plot(x, curve.fit.predict(x), color=colour, lw=1.4, ls="--" if dashed else "-")
        low, high = prediction_band(curve.fit, x)
        if np.isfinite(low).all():
            lowest, highest = runs["error"].min() / 2, runs["error"].max() * 2  # a band of two points fills the page
            axes.fill_between(x, low.clip(min=lowest), high.clip(max=highest), color=colour, alpha=0.13, lw=0)
    else:
        means = runs.groupby("x")["error"].mean()
        axes.plot(means.index, means, color=colour, lw=0.8, ls=":")


def _draw_references(axes: Axes, axis: str, references: References, group: str, panel_by: str) -> None:
    if np.isfinite(references.pixels):
        axes.axhline(references.pixels, color=REFERENCE, lw=1, ls=(0, (1, 1)))
    random = references.random.groupby(["model", "n_params"])["error"].mean().reset_index().sort_values("n_params")
    if axis == "n_params" and len(random):
        axes.plot(random["n_params"], random["error"], color=REFERENCE, lw=1, ls=(0, (4, 2)))
    elif panel_by == "model" and (random["model"] == group).any():
        axes.axhline(
            float(random.loc[random["model"] == group, "error"].iloc[0]), color=REFERENCE, lw=1, ls=(0, (4, 2))
        )


def _legend(figure: Figure, colour: dict[str, str], marker: dict[str, str], references: References) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=c, lw=2, label=name) for name, c in colour.items()]
    if len(marker) > 1:
        handles += [
            Line2D([], [], color="black", marker=m, ls="--" if i else "-", lw=1, ms=4, label=name)
            for i, (name, m) in enumerate(marker.items())
        ]
    if len(references.random):
        handles.append(Line2D([], [], color=REFERENCE, ls=(0, (4, 2)), label="encoder at initialisation"))
    if np.isfinite(references.pixels):
        handles.append(Line2D([], [], color=REFERENCE, ls=(0, (1, 1)), label="pixels"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
