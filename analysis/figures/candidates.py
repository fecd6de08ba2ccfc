"""Laws that might hold, by how well each predicted larger runs from smaller ones, and the one that was chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import PALETTE, REFERENCE, hover, panels, plain_log, shortened, styled

CHOSEN, OTHER = PALETTE[0], REFERENCE


def table(candidates: pd.DataFrame) -> pd.DataFrame:
    """Columns law, score, chosen, reason (why there is no score; others stay): best first, those without score last."""
    return candidates.sort_values("score", na_position="last", kind="stable").reset_index(drop=True)


def draw(rows: pd.DataFrame, *, steps: pd.DataFrame | None = None, label: str) -> Figure:
    """`rows` as of `table`; smaller scores are better. `steps`: columns law, score, one row per step of the rolling
    extrapolation, drawn as small points: what the score averages. Without them the spread is not shown, and it is said.
    """
    with styled():
        figure, grid = panels(1, 1, width=5.6, height=0.34 * len(rows) + 0.6)
        axes = grid[0][0]
        steps = pd.DataFrame({"law": [], "score": []}) if steps is None else steps
        seen = np.concatenate([rows["score"].to_numpy(float), steps["score"].to_numpy(float)])
        seen = seen[np.isfinite(seen) & (seen > 0)]
        if len(seen):
            axes.set_xscale("log")
            axes.set_xlim(seen.min() / 1.3, seen.max() * 1.3)
            plain_log(axes.xaxis, at_most=6)
        else:
            axes.set_xticks([])
        for y, row in enumerate(rows.to_dict("records")):
            colour = CHOSEN if row["chosen"] else OTHER
            if not np.isfinite(row["score"]):
                words = f" no score: {shortened(str(row['reason']), 60)}"
                axes.text(0, y, words, transform=axes.get_yaxis_transform(), va="center", fontsize=7, color=OTHER)
                continue
            mine = steps.loc[steps["law"] == row["law"], "score"]
            axes.plot(mine, [y] * len(mine), "|", ms=8, color=colour, alpha=0.6)
            axes.plot([row["score"]], [y], "o", ms=7, color=colour, mfc=colour if row["chosen"] else "white")
            hover(axes, [row["score"]], [y], [f"{row['law']}: {row['score']:.4g}, {len(mine)} steps"])
        axes.set_yticks(range(len(rows)), [shortened(str(law)) for law in rows["law"]])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(label)
        figure.legend(handles=_handles(rows, with_steps=len(steps) > 0), loc="outside lower center", ncols=3)
    return figure


def _handles(rows: pd.DataFrame, *, with_steps: bool) -> list[Line2D]:
    handles = []
    if rows["chosen"].any():
        handles.append(Line2D([], [], color=CHOSEN, marker="o", ms=7, lw=0, label="chosen"))
    if (rows["score"].notna() & ~rows["chosen"].astype(bool)).any():
        handles.append(Line2D([], [], color=OTHER, marker="o", mfc="white", ms=7, lw=0, label="other candidates"))
    label = "single steps" if with_steps else "(spread over steps not shown)"
    handles.append(Line2D([], [], color=OTHER, marker="|" if with_steps else "", ms=8, lw=0, label=label))
    return handles
