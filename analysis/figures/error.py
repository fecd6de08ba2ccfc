"""Mean error over tasks against model size, data size or compute: the runs, a law through them, its 95 % band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import (
    REFERENCE,
    colours,
    hover,
    markers,
    panels,
    plain_log,
    quantity,
    shortened,
    styled,
    ticks_at,
)
from analysis.fit import Fit, fit
from analysis.laws.law import Law
from analysis.laws.power import POWER
from analysis.points import cell_means, points
from analysis.sizes import ENCODER, Size
from analysis.uncertainty import Uncertainty, uncertainty

AXIS_LABELS = {
    "n_params": ENCODER.axis,
    "n_images": "unique pretraining images",
    "train_flops": "pretraining FLOPs",
}
FIXED: dict[str, list[str]] = {
    "n_params": ["algorithm", "mixture", "n_images"],
    "n_images": ["algorithm", "mixture", "model"],
    "train_flops": ["algorithm", "mixture", "n_images"],
}
"""What is held along an axis, so that a curve compares like with like."""
ONE_SIZE = 1.1
"""Times from the smallest to the largest size below which a series has one: equal FLOPs are met to half a batch."""
MOST_COLUMNS = 4
"""Panels side by side."""
MARGIN = 1.12
"""Factor of free space above and below what was seen. Bands are cut there; that of three points would fill the page."""
BEYOND = 3.0
"""Times the largest run fitted up to which a law is drawn, unless a held-out run lies farther."""
DASHES = ("-", "-.", (0, (8, 1, 1, 1, 1, 1)), (0, (1, 1)))
EXTRAPOLATED: dict[str, Any] = {"lw": 1, "ls": (0, (3, 2))}
RANDOM: dict[str, Any] = {"lw": 1, "ls": (0, (4, 2))}
PIXELS: dict[str, Any] = {"lw": 1, "ls": (0, (8, 2, 1, 2))}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The runs of one series along one axis, with the law through those that are not held out."""

    axis: str
    fixed: dict[str, str]
    fixed_size: float
    """The fixed number of images, or of parameters along data size."""
    runs: pd.DataFrame
    """Columns x, error, error_se, seed, run, held_out; finite and positive x only."""
    fit: Fit
    """Of one point a size: the geometric mean of its seeds."""
    uncertainty: Uncertainty

    @property
    def name(self) -> str:
        return _words(self.fixed)


def curves(means: pd.DataFrame, axis: str, *, law: Law = POWER) -> list[Curve]:
    """Every series with two sizes or more, apart by more than rounding.

    `means` as `observations.mean_over_tasks` or one task's rows. Runs with a true `held_out` (a column that may be
    absent) are shown and not fitted. Runs without a positive `axis` cannot be placed on it; `unplaced` counts them.
    """
    found = []
    for key, series in means[_placed(means, axis)].groupby(FIXED[axis], sort=True, dropna=False):
        if series[axis].max() < ONE_SIZE * series[axis].min():
            continue
        fixed = {name: _text(value) for name, value in zip(FIXED[axis], key, strict=True)}
        held_out = series["held_out"].astype(bool) if "held_out" in series else False
        runs = series.assign(x=series[axis], held_out=held_out)[["x", "error", "error_se", "seed", "run", "held_out"]]
        size = float(series["n_params" if axis == "n_images" else "n_images"].iloc[0])
        law_of = _fitted(runs[~runs["held_out"]], law)
        found.append(
            Curve(axis=axis, fixed=fixed, fixed_size=size, runs=runs, fit=law_of, uncertainty=uncertainty(law_of))
        )
    return sorted(found, key=lambda curve: curve.fixed_size)


def _fitted(runs: pd.DataFrame, law: Law) -> Fit:
    given = points(runs["x"].to_numpy(float), runs["error"].to_numpy(float))
    return fit(law, cell_means(given) if (given.y > 0).all() else given)


def unplaced(means: pd.DataFrame, axis: str) -> int:
    return int((~_placed(means, axis)).sum())


def _placed(means: pd.DataFrame, axis: str) -> pd.Series:
    return np.isfinite(means[axis]) & (means[axis] > 0)


def _text(value: object) -> str:
    """Empty where a table has no such size."""
    if isinstance(value, float) and not np.isfinite(value):
        return ""
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


def _words(fixed: dict[str, str]) -> str:
    return ", ".join(f"{value} images" if name == "n_images" else value for name, value in fixed.items() if value)


def table(found: list[Curve]) -> pd.DataFrame:
    """One row per curve: the exponent with its interval, or why there is none."""
    rows = []
    for curve in found:
        interval = curve.uncertainty.parameters().get("b")
        rows.append(
            {
                **curve.fixed,
                **({"n_images": curve.fixed_size} if "n_images" in curve.fixed else {}),
                "n_sizes": curve.runs["x"].nunique(),
                "n_runs": len(curve.runs),
                "n_held_out": int(curve.runs["held_out"].sum()),
                "smallest": curve.runs["x"].min(),
                "largest": curve.runs["x"].max(),
                "exponent": interval.value if interval else np.nan,
                "exponent_low": interval.low if interval else np.nan,
                "exponent_high": interval.high if interval else np.nan,
                "status": curve.fit.reason or str(curve.fit.status),
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


@dataclass(frozen=True, kw_only=True)
class Panel:
    title: str
    curves: list[Curve]
    references: References
    model: str = ""
    """The one model of all its curves, along data size."""


def draw(
    found: list[Curve],
    references: References,
    *,
    panel_by: str,
    ylabel: str,
    beyond: float = BEYOND,
    size: Size = ENCODER,
) -> Figure:
    """One panel per value of `panel_by`; colour is the algorithm, marker and dash the mixture (or data size).

    A law is drawn up to `beyond` times its largest run, dashed where no run supports it. Held-out runs are hollow.
    """
    groups = dict.fromkeys(curve.fixed[panel_by] for curve in found)
    parts = [
        Panel(
            title=_title(panel_by, group),
            curves=[curve for curve in found if curve.fixed[panel_by] == group],
            references=references,
            model=group if panel_by == "model" else "",
        )
        for group in groups
    ]
    return draw_panels(parts, ylabel=ylabel, told=(panel_by,), beyond=beyond, size=size)


def draw_panels(
    parts: list[Panel],
    *,
    ylabel: str,
    told: tuple[str, ...] = (),
    one_scale: bool = True,
    beyond: float = BEYOND,
    size: Size = ENCODER,
) -> Figure:
    """The same for panels of any curves, all along one axis. `told`: what the titles say of the curves; `size`: what
    n_params is.

    one_scale: whether all panels share the error axis, so that heights compare from panel to panel.
    """
    with styled():
        rows = -(-len(parts) // MOST_COLUMNS)
        figure, grid = panels(rows, -(-len(parts) // rows), sharey=one_scale)
        found = [curve for part in parts for curve in part.curves]
        algorithms = sorted({curve.fixed["algorithm"] for curve in found})
        others = list(dict.fromkeys(_other(curve, told) for curve in found))
        colour, marker = colours(algorithms), markers(others)
        drawn: set[str] = set()
        places = [axes for row in grid for axes in row]
        for axes in places[len(parts) :]:
            axes.set_visible(False)
        for axes, part in zip(places, parts, strict=False):
            axes.set_xscale("log")
            axes.set_yscale("log")
            limits = _limits(parts if one_scale else [part], beyond)
            if limits is not None:  # first, for errors that are alike but for rounding have no limits of their own
                axes.set_ylim(*limits)
            for curve in part.curves:
                other = _other(curve, told)
                look = (colour[curve.fixed["algorithm"]], marker[other])
                _draw_law(axes, curve, look[0], DASHES[others.index(other) % len(DASHES)], beyond)
                _draw_runs(axes, curve, *look, label=_label(curve, size))
            drawn |= _draw_references(axes, part)
            axes.set_title(shortened(part.title) + _not_drawn(part.curves))
            axes.set_xlabel(_label(part.curves[0], size))
            ticks_at(axes.xaxis, [x for curve in part.curves for x in curve.runs["x"]])
            plain_log(axes.yaxis)
        for row in grid:
            row[0].set_ylabel(ylabel)
        _legend(figure, colour, marker, drawn, found, columns=4 if len(parts) > 1 else 2)
    return figure


def _label(curve: Curve, size: Size) -> str:
    return size.axis if curve.axis == "n_params" else AXIS_LABELS[curve.axis]


def _reach(curve: Curve, beyond: float) -> float:
    """The largest x that a law is drawn at."""
    return max(float(curve.runs["x"].max()), beyond * float(curve.runs.loc[~curve.runs["held_out"], "x"].max()))


def _limits(parts: list[Panel], beyond: float) -> tuple[float, float] | None:
    """Ends of the error axis, from runs with their bars, laws and references; None when all runs are without error."""
    found = [curve for part in parts for curve in part.curves]
    runs = pd.concat([curve.runs for curve in found])
    runs = runs[runs["error"] > 0]
    bars = runs["error_se"].fillna(0)
    seen = np.concatenate([runs["error"] - np.minimum(bars, runs["error"] / 2), runs["error"] + bars])
    ends = [float(c.fit.predict(np.array([[_reach(c, beyond)]]))[0]) for c in found if c.fit.status.usable]
    untrained = [error for part in parts for error in (part.references.pixels, *part.references.random["error"])]
    extra = np.array([*untrained, *ends], dtype=float)
    seen = np.concatenate([seen, extra[np.isfinite(extra) & (extra > 0)]]) if len(seen) else seen
    return (float(seen.min() / MARGIN), float(seen.max() * MARGIN)) if len(seen) else None


def _other(curve: Curve, told: tuple[str, ...]) -> str:
    """What tells the curves of one panel and algorithm apart."""
    return _words({name: value for name, value in curve.fixed.items() if name not in (*told, "algorithm")})


def _title(panel_by: str, group: str) -> str:
    """Empty where a table has no such size."""
    words = {"n_images": f"pretrained on {group} images", "mixture": f"mixture {group}"}
    return words.get(panel_by, group) if group else ""


def _not_drawn(mine: list[Curve]) -> str:
    """A logarithmic axis has no place for a run without error."""
    n = sum(int((curve.runs["error"] <= 0).sum()) for curve in mine)
    return f"\n({n} of {sum(len(curve.runs) for curve in mine)} runs without error: not drawn)" if n else ""


def _draw_runs(axes: Axes, curve: Curve, colour: str, marker: str, *, label: str) -> None:
    """`label` of the axis."""
    for held_out, runs in curve.runs[curve.runs["error"] > 0].groupby("held_out"):
        axes.errorbar(
            runs["x"],
            runs["error"],
            # a bar that would reach zero has no place on a logarithmic axis; it ends at a tenth of the error
            yerr=[np.minimum(runs["error_se"], 0.9 * runs["error"]), runs["error_se"]],
            fmt=marker,
            ms=4,
            lw=0,
            elinewidth=0.8,
            color=colour,
            alpha=0.85,
            mfc="white" if held_out else None,
        )
        words = [
            f"{curve.name}\n{quantity(run['x'])} {label}, seed {run['seed']}\n"
            f"error {run['error']:.4g} +- {run['error_se']:.2g}\nrun {run['run']}{', held out' if held_out else ''}"
            for run in runs.to_dict("records")
        ]
        hover(axes, runs["x"], runs["error"], words)


def _draw_law(axes: Axes, curve: Curve, colour: str, dash: Any, beyond: float) -> None:
    fitted = curve.runs[~curve.runs["held_out"]]
    if not curve.fit.status.usable:
        means = fitted[fitted["error"] > 0].groupby("x")["error"].mean()
        axes.plot(means.index, means, color=colour, lw=0.8, ls=":")
        return
    first, last, end = fitted["x"].min(), fitted["x"].max(), _reach(curve, beyond)
    for x, line, shade in (
        (np.geomspace(first, last, 60), {"lw": 1.4, "ls": dash}, 0.13),
        (np.geomspace(last, end, 30), EXTRAPOLATED, 0.06),
    ):
        if x[0] == x[-1]:
            continue
        band = curve.uncertainty.curve(x)
        axes.plot(x, band.value, color=colour, **line)
        if np.isfinite(band.low).all():
            axes.fill_between(x, band.low, np.minimum(band.high, 1e3), color=colour, alpha=shade, lw=0)


def _draw_references(axes: Axes, part: Panel) -> set[str]:
    """The names of those drawn: the encoder at initialisation has a place only where the panel has its model."""
    drawn, references = set(), part.references
    if np.isfinite(references.pixels) and references.pixels > 0:
        axes.axhline(references.pixels, color=REFERENCE, **PIXELS)
        drawn.add("pixels")
    mine = references.random[references.random["error"] > 0]
    random = mine.groupby(["model", "n_params"])["error"].mean().reset_index().sort_values("n_params")
    if part.curves[0].axis == "n_params" and len(random):
        axes.plot(random["n_params"], random["error"], color=REFERENCE, **RANDOM)
        drawn.add("random")
    elif part.model and (random["model"] == part.model).any():
        axes.axhline(float(random.loc[random["model"] == part.model, "error"].iloc[0]), color=REFERENCE, **RANDOM)
        drawn.add("random")
    return drawn


def _legend(
    figure: Figure,
    colour: dict[str, str],
    marker: dict[str, str],
    drawn: set[str],
    found: list[Curve],
    *,
    columns: int,
) -> None:
    handles = [Line2D([], [], color=c, lw=2, label=name) for name, c in colour.items()]
    if len(marker) > 1:
        handles += [
            Line2D([], [], color="black", marker=m, ls=DASHES[i % len(DASHES)], lw=1, ms=4, label=name)
            for i, (name, m) in enumerate(marker.items())
        ]
    if any(curve.fit.status.usable for curve in found):
        handles.append(Line2D([], [], color="black", label="beyond the runs fitted", **EXTRAPOLATED))
    if any(curve.runs["held_out"].any() for curve in found):
        handles.append(Line2D([], [], color="black", marker="o", ms=4, mfc="white", lw=0, label="held out: not fitted"))
    if any(not curve.fit.status.usable for curve in found):
        handles.append(Line2D([], [], color="black", ls=":", lw=0.8, label="no law: means joined"))
    if "random" in drawn:
        handles.append(Line2D([], [], color=REFERENCE, label="encoder at initialisation", **RANDOM))
    if "pixels" in drawn:
        handles.append(Line2D([], [], color=REFERENCE, label="pixels", **PIXELS))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))
