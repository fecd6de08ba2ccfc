"""What tuning saw and chose: trials against learning rate, and the rule that carries the choice to every size."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.figures.style import REFERENCE, colours, markers, panels, plain_log, quantity, styled, ticks_at

STOPPED = "v"
DIVERGED = "x"
LOST = ["diverged", "collapsed", "failed"]
"""Trials without a score."""
TOP = 0.97
"""Height in a panel, 0-1, of trials without a finite score."""


def trials(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per trial, as `scaling.records.TUNING_COLUMNS`, in the order of the learning rate."""
    mine = rows[rows["kind"] == "trial"].drop(columns=["kind", "slope", "slope_low", "slope_high", "intercept"])
    return mine.sort_values(["algorithm", "n_params", "lr", "weight_decay"], kind="stable").reset_index(drop=True)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per algorithm and anchor: the best finished trial, the second best, and how close other trials lie.

    `lr_below` and `lr_above` are the neighbours tried; missing where the best is the smallest or the largest.
    """
    found = []
    for (algorithm, n_params, model), mine in trials(rows).groupby(["algorithm", "n_params", "model"], sort=True):
        ranked = mine[mine["status"] == "done"].sort_values(["score", "lr"], kind="stable")
        best, second = ranked.iloc[0], ranked.iloc[1] if len(ranked) > 1 else None
        lrs = mine["lr"].unique()
        counts = {status: int((mine["status"] == status).sum()) for status in ("done", "stopped", *LOST)}
        found.append(
            {
                "algorithm": algorithm,
                "model": model,
                "n_params": n_params,
                **counts,
                "lr": best["lr"],
                "weight_decay": best["weight_decay"],
                "score": best["score"],
                "runner_up_lr": np.nan if second is None else second["lr"],
                "runner_up_score": np.nan if second is None else second["score"],
                "lr_below": max(lrs[lrs < best["lr"]], default=np.nan),
                "lr_above": min(lrs[lrs > best["lr"]], default=np.nan),
                "run": best["run"],
            }
        )
    return pd.DataFrame(found)


def choices(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per algorithm and model of the grid: what it trains with, and whether that was tried there."""
    mine = rows[rows["kind"] == "choice"].rename(columns={"status": "how"})
    kept = ["algorithm", "model", "n_params", "lr", "weight_decay", "how", "slope", "slope_low", "slope_high"]
    return mine.sort_values(["algorithm", "n_params"], kind="stable")[kept].reset_index(drop=True)


def draw(rows: pd.DataFrame, *, ylabel: str) -> Figure:
    """A row of two panels per algorithm: score against learning rate by anchor, chosen learning rate against size.

    Filled points came to their end; a hollow triangle is a trial stopped early, at the loss it had then; a cross at the
    upper edge diverged, collapsed or failed. A ring marks the best. Right, bars reach to the neighbours tried, and
    hollow points are sizes that were not tried.
    """
    with styled():
        tried, best, chosen = trials(rows), table(rows), choices(rows)
        algorithms = sorted(tried["algorithm"].unique())
        figure, grid = panels(len(algorithms), 2, width=3.6, sharey=False)
        anchors = list(tried.sort_values("n_params")["model"].unique())
        colour, marker = colours(anchors), markers(anchors)
        for (left, right), algorithm in zip(grid, algorithms, strict=True):
            mine = tried[tried["algorithm"] == algorithm]
            for model in anchors:
                _draw_trials(left, mine[mine["model"] == model], colour[model], marker[model])
            _finish_scores(left, mine, algorithm, ylabel)
            law = rows[(rows["kind"] == "choice") & (rows["algorithm"] == algorithm)]
            _draw_rule(right, law, best[best["algorithm"] == algorithm], colour, marker)
            right.set_title(f"{algorithm}: {_rule_words(law)}")
            ticks_at(right.xaxis, chosen[chosen["algorithm"] == algorithm]["n_params"])
        figure.legend(handles=_handles(tried, chosen, colour, marker), loc="outside lower center", ncols=4)
    return figure


def _draw_trials(axes: Axes, mine: pd.DataFrame, colour: str, marker: str) -> None:
    done, stopped = mine[mine["status"] == "done"], mine[mine["status"] == "stopped"]
    axes.plot(done["lr"], done["score"], marker=marker, ms=4, lw=0, color=colour)
    lowest = done.groupby("lr")["score"].min()  # over weight decays
    axes.plot(lowest.index, lowest, lw=1, color=colour)
    axes.plot(stopped["lr"], stopped["loss"], marker=STOPPED, ms=4, lw=0, color=colour, mfc="white")
    for lr in mine[mine["status"].isin(LOST)]["lr"]:
        axes.plot([lr], [TOP], marker=DIVERGED, ms=5, lw=0, color=colour, transform=axes.get_xaxis_transform())
    best = mine[mine["best"].fillna(False).astype(bool)]
    axes.plot(best["lr"], best["score"], "o", ms=10, color=colour, mfc="none", mew=1.2)


def _finish_scores(axes: Axes, mine: pd.DataFrame, algorithm: str, ylabel: str) -> None:
    seen = pd.concat([mine["score"], mine.loc[mine["status"] == "stopped", "loss"]]).dropna()
    axes.set_xscale("log")
    if len(seen) and seen.min() > 0:
        axes.set_yscale("log")
        span = max(float(seen.max() / seen.min()), 1.02)
        axes.set_ylim(float(seen.min()) / span**0.06, float(seen.max()) * span**0.12)
        plain_log(axes.yaxis)
    _learning_rates(axes.xaxis)
    axes.set_title(f"{algorithm}: trials")
    axes.set_xlabel("learning rate (base)")
    axes.set_ylabel(ylabel)


def _draw_rule(
    axes: Axes, law: pd.DataFrame, best: pd.DataFrame, colour: dict[str, str], marker: dict[str, str]
) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    slope, intercept = float(law["slope"].iloc[0]), float(law["intercept"].iloc[0])
    if np.isfinite(slope):
        n = np.geomspace(law["n_params"].min(), law["n_params"].max(), 50)
        axes.plot(n, np.exp(intercept + slope * np.log(n)), lw=1, color=REFERENCE)
    for row in best.to_dict("records"):
        ends = [[row["lr"] - row["lr_below"]], [row["lr_above"] - row["lr"]]]
        model = row["model"]
        axes.errorbar(
            [row["n_params"]], [row["lr"]], yerr=np.nan_to_num(ends), fmt=marker[model], ms=5, lw=1, color=colour[model]
        )
    others = law[~law["model"].isin(best["model"])]
    axes.plot(others["n_params"], others["lr"], "o", ms=5, lw=0, color="black", mfc="white")
    _learning_rates(axes.yaxis)
    axes.set_xlabel("encoder parameters")
    axes.set_ylabel("chosen learning rate (base)")


def _learning_rates(axis: Axis) -> None:
    """Few short labels: 3e-4, 1e-3, ...; what the range has none of gets plain numbers."""
    low, high = axis.get_view_interval()
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) <= 6:
            break
    if len(ticks) < 2:
        plain_log(axis)
        return
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")))


def _rule_words(law: pd.DataFrame) -> str:
    slope = float(law["slope"].iloc[0])
    if not np.isfinite(slope):
        return "nearest anchor's"
    low, high = float(law["slope_low"].iloc[0]), float(law["slope_high"].iloc[0])
    bounds = f" ({low:.2g} to {high:.2g})" if np.isfinite(low) and np.isfinite(high) else ""
    return f"lr ~ N^{slope:.2g}{bounds}" if slope else "one lr for all"


def _handles(tried: pd.DataFrame, chosen: pd.DataFrame, colour: dict[str, str], marker: dict[str, str]) -> list[Line2D]:
    sizes = tried.groupby("model")["n_params"].first()
    handles = [
        Line2D([], [], color=c, marker=marker[model], ms=4, lw=1, label=f"{model} ({quantity(sizes[model])})")
        for model, c in colour.items()
    ]
    handles.append(Line2D([], [], color="black", marker="o", ms=9, mfc="none", lw=0, label="best of its anchor"))
    if (tried["status"] == "stopped").any():
        handles.append(Line2D([], [], color="black", marker=STOPPED, ms=4, mfc="white", lw=0, label="stopped early"))
    if tried["status"].isin(LOST).any():
        handles.append(
            Line2D([], [], color="black", marker=DIVERGED, ms=5, lw=0, label="diverged, collapsed or failed")
        )
    if (chosen["how"] != "tried").any():
        handles.append(Line2D([], [], color="black", marker="o", ms=5, mfc="white", lw=0, label="by the rule"))
    if np.isfinite(chosen["slope"]).any():
        handles.append(Line2D([], [], color=REFERENCE, lw=1, label="the rule"))
    return handles
