"""Which properties of a task go with what it gains from scale: correlations with their doubt."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.benefit import DEFINITIONS
from analysis.features import FEATURES, PLANTED, TRUTH
from analysis.figures import correlation as figure
from analysis.figures import pairs
from analysis.page.blocks import Block, Fold, Numbers, Picture, Section, Words
from analysis.sections.drawing import Pen
from analysis.study import Study

MAIN = [
    "feature",
    "algorithm",
    "n_tasks",
    "pearson",
    "pearson_low",
    "pearson_high",
    "p",
    "q",
    "spearman",
    "p_spearman",
    "kendall",
    "p_kendall",
    "corrected",
    "corrected_low",
    "corrected_high",
    "partial",
    "partial_p",
    "influential",
    "without_low",
    "without_high",
    "status",
]
"""Columns of the first table; all are in the second."""


def _intervals(study: Study, pen: Pen) -> Picture:
    caption = (
        "The same with intervals: Pearson's r with the benefits as measured, below it r with the true benefits where "
        "their own error could be taken out; the grey bar is the range of r with one task left out. Between the dotted "
        "lines no r of so many tasks is significant in a single test."
    )
    return pen.picture(
        "correlation_intervals", caption, figure.draw_intervals(figure.interval_table(study.correlations))
    )


def _strongest(study: Study, pen: Pen) -> Iterator[Picture]:
    rows = pairs.table(study.correlations, study.headline, study.tasks, column=study.benefit)
    if len(rows):
        caption = (
            "The pairs with the least p, each task with the 95 % interval of its benefit; the task that moves r most "
            "is ringed. They were picked because they look strong."
        )
        drawn = pairs.draw(rows, ylabel=DEFINITIONS[study.benefit])
        yield pen.picture("correlation_pairs", caption, drawn)


def section(study: Study, pen: Pen) -> Section:
    blocks: list[Block] = []
    unlisted = sorted(set(study.fitted["task"]) - set(study.tasks["task"]))
    if unlisted:
        words = f"Without features, as the task table has no row of them: {', '.join(unlisted)}."
        blocks.append(Words(lines=[words]))
    answered = study.correlations["p"].notna().any()
    if answered:
        caption = (
            f"Pearson's r between task features and the benefit ({DEFINITIONS[study.benefit]}) with its 95 % interval, "
            "permutation p, q, number of tasks; framed where the pair survives a false-discovery rate of 5 % over all "
            "pairs."
        )
        words = f"benefit: {DEFINITIONS[study.benefit]}"
        drawn = figure.draw(study.correlations, xlabel=words)
        blocks.append(pen.picture("correlation", caption, drawn))
        blocks.append(_intervals(study, pen))
        blocks += _strongest(study, pen)
    caption = (
        "p: two-sided permutation test of Pearson's r; q: p after Benjamini and Hochberg over all pairs. corrected: r "
        "with the true benefits, after taking out their own measurement error. partial: r at equal number of samples. "
        "without: range of r with one task left out, influential the task that moves it most."
    )
    main = study.correlations[[column for column in MAIN if column in study.correlations]]
    blocks.append(Numbers(name="correlations_main", caption=caption, rows=main))
    everything = "All about each pair, with Kendall's tau, the family-wise p and the detectable correlations."
    meanings = {f.name: f"{f.meaning} ({f.unit})" for f in FEATURES.values()} | {PLANTED: TRUTH}
    blocks += [
        Fold(title="All columns", blocks=[Numbers(name="correlations", caption=everything, rows=study.correlations)]),
        Fold(
            title="Tasks and their features",
            blocks=[Numbers(name="tasks", caption="Tasks and their features.", rows=study.tasks, meanings=meanings)],
            opened=not answered,
        ),
    ]
    return Section(title="Task features and benefit", blocks=blocks)
