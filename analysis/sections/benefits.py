"""What each task gains from model size, and which of its features go with the gain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.benefit import DEFINITIONS
from analysis.figures import benefit as figure
from analysis.figures import error as error_figure
from analysis.figures.error import curves
from analysis.page.blocks import Block, Fold, Numbers, Section, Words
from analysis.sections.axes import BAND
from analysis.sections.drawing import Pen
from analysis.study import Study

AT_ONCE = 12
"""Tasks in one figure."""


def section(study: Study, pen: Pen) -> Section:
    blocks: list[Block] = []
    if study.headline.empty:
        blocks.append(Words(lines=["No task has a series with two model sizes, so there is no benefit of size."]))
    else:
        blocks += _headline(study, pen)
        if multiples := list(_small_multiples(study, pen)):
            blocks.append(Fold(title="Every task against model size", blocks=multiples))
    if len(study.benefits):
        caption = (
            "Every series and axis, each definition with its standard error and 95 % interval; gain_se_images is from "
            "the test images alone, and at most."
        )
        rows = study.benefits
        blocks.append(
            Fold(title="Every series and axis", blocks=[Numbers(name="benefits", caption=caption, rows=rows, most=20)])
        )
    return Section(title="Benefit per task", blocks=blocks)


def _headline(study: Study, pen: Pen) -> Iterator[Block]:
    rows = figure.table(study.headline, column=study.benefit)
    if rows[study.benefit].notna().any():
        xlabel = f"{DEFINITIONS[study.benefit]} along {study.size.axis}"
        drawn = figure.draw(rows, column=study.benefit, xlabel=xlabel)
        yield pen.picture("benefit", _caption(rows, study.benefit), drawn)
    else:
        yield Words(lines=[f"No task has a benefit along model size: {'; '.join(rows['status'].unique())}."])
    caption = "; ".join(f"{name}: {meaning}" for name, meaning in DEFINITIONS.items())
    yield Numbers(
        name="benefit_headline", caption=f"The same in numbers. {caption}.", rows=rows, meanings=dict(DEFINITIONS)
    )


def _caption(rows: pd.DataFrame, benefit: str) -> str:
    named = "; ".join(
        f"{algorithm}: {mine['mixture'].iloc[0]}{_images(mine['at'].iloc[0])}"
        for algorithm, mine in rows.groupby("algorithm")
    )
    return (
        f"Benefit of each task along model size ({DEFINITIONS[benefit]}), positive when size helps, with its 95 % "
        f"interval ({named}). A hollow point has no interval; an arrow marks an interval that goes on."
    )


def _images(at: object) -> str:
    number = pd.to_numeric(pd.Series([at]), errors="coerce").iloc[0]
    return f", {number:,.0f} images" if np.isfinite(number) else ""


def _small_multiples(study: Study, pen: Pen) -> Iterator[Block]:
    """Figures of up to `AT_ONCE` tasks against model size, of the series of the headline."""
    wanted = study.headline[["algorithm", "mixture", "at"]].drop_duplicates()
    at = [f"{n:.0f}" if np.isfinite(n) else "" for n in study.fitted["n_images"]]
    rows = study.fitted.assign(at=at, error_se=study.fitted["auc_se"])
    parts = []
    for task, mine in rows.merge(wanted, on=["algorithm", "mixture", "at"]).groupby("task"):
        if found := curves(mine, "n_params"):
            baselines = study.mean_references(str(task))
            parts.append(error_figure.Panel(title=str(task), curves=found, references=baselines))
    for i in range(0, len(parts), AT_ONCE):
        few = parts[i : i + AT_ONCE]
        drawn = error_figure.draw_panels(few, ylabel=study.measure, one_scale=False, size=study.size)
        name = "tasks" if len(parts) <= AT_ONCE else f"tasks_{i // AT_ONCE + 1}"
        yield pen.picture(name, f"Each task against model size, on a scale of its own. {BAND}", drawn)
