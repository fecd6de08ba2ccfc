"""Which properties of a task go with what it gains from scale: correlations with their doubt."""

from __future__ import annotations

from analysis.benefit import DEFINITIONS
from analysis.blocks import Block, Fold, Numbers, Section, Words
from analysis.features import FEATURES
from analysis.figures import correlation as figure
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
        blocks.append(pen.picture("correlation", caption, figure.draw(study.correlations)))
    caption = (
        "p: two-sided permutation test of Pearson's r; q: p after Benjamini and Hochberg over all pairs. corrected: r "
        "with the true benefits, after taking out their own measurement error. partial: r at equal number of samples. "
        "without: range of r with one task left out, influential the task that moves it most."
    )
    main = study.correlations[[column for column in MAIN if column in study.correlations]]
    blocks.append(Numbers(name="correlations_main", caption=caption, rows=main))
    everything = "All about each pair, with Kendall's tau, the family-wise p and the detectable correlations."
    meanings = {f.name: f"{f.meaning} ({f.unit})" for f in FEATURES.values()}
    blocks += [
        Fold(title="All columns", blocks=[Numbers(name="correlations", caption=everything, rows=study.correlations)]),
        Fold(
            title="Tasks and their features",
            blocks=[Numbers(name="tasks", caption="Tasks and their features.", rows=study.tasks, meanings=meanings)],
            opened=not answered,
        ),
    ]
    return Section(title="Task features and benefit", blocks=blocks)
