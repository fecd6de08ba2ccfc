"""What was run, how it was tuned, what failed, and what the read-outs say side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.figures import tuning as figure
from analysis.observations import MAIN_PROBE, Exclusion, accounting
from analysis.page.blocks import Block, Fold, Listing, Note, Numbers, Picture, Section, Words
from analysis.sections.drawing import Pen
from analysis.study import Study


def what_was_run(study: Study, pen: Pen, gallery: Path | None, *, synthetic: bool) -> Section:
    runs = study.rows.drop_duplicates("run")
    by = ["algorithm", "mixture", "model", "n_params", "n_images", "holdout", "status"]
    grid = runs.groupby(by, dropna=False).agg(
        seeds=("seed", "nunique"),
        train_seconds=("train_seconds", "mean"),
        n_images_asked=("n_images_asked", "first"),
        epochs=("epochs", _each),
    )
    cells = grid.reset_index()
    unsaid = [
        *(["holdout"] if not cells["holdout"].any() else []),
        *(["epochs"] if not cells["epochs"].any() else []),
        *(["n_images_asked"] if not (cells["n_images_asked"] > cells["n_images"]).any() else []),
    ]
    cells = cells.drop(columns=unsaid)
    caption = "Runs by cell; train_seconds is the mean over seeds."
    if "n_images_asked" in cells:
        caption += " n_images are unique; where more were asked for, the mixture repeats some."
    if "epochs" in cells:
        caption += " epochs: how often training saw each image of a modality, on average."
    total = f"{len(runs):,} runs, {len(study.rows):,} rows of observations, all of them in the first table."
    blocks: list[Block] = [
        Words(lines=[total]),
        Numbers(
            name="rows",
            caption=f"Rows by use; laws are fitted to the {MAIN_PROBE} read-out.",
            rows=accounting(study.rows),
        ),
        Fold(
            title="Runs by cell",
            blocks=[Numbers(name="cells", caption=caption, rows=cells)],
        ),
    ]
    if gallery is not None and gallery.exists():
        what = "Synthetic images, drawn by the program: no patient." if synthetic else "Examples of the images."
        copy = pen.folder / f"gallery{gallery.suffix}"
        shutil.copyfile(gallery, copy)
        blocks.append(Picture(name="gallery", caption=what, path=copy))
    return Section(title="What was run", blocks=blocks)


def _each(texts: pd.Series[str]) -> str:
    """The one text of all, or each that there is."""
    return " or ".join(text for text in texts.dropna().unique() if text)


def tuning(rows: pd.DataFrame, pen: Pen) -> Section:
    """Trials, best values and the rule; `rows` as `scaling.records.TUNING_COLUMNS`."""
    by_loss = np.allclose(*rows.loc[rows["status"] == "done", ["loss", "score"]].to_numpy(float).T)
    judged = "pretraining loss" if by_loss else "validation error, 1 - AUC"
    picture = (
        f"Tuning: {judged} of the trials against the learning rate, and the learning rate of every size by the "
        "rule. A ring is the best of its anchor; a hollow triangle was stopped early and stands at the loss it had "
        "then; a cross diverged, collapsed or failed. Bars reach to the neighbouring trials; without one nothing was "
        "tried on that side."
    )
    best = (
        f"Best finished trial of each anchor by {judged}, which compares trials of one algorithm only. One seed "
        "per trial: a runner-up nearly as good means that the optimum is no better known than their distance; the "
        "neighbours tried, lr_below and lr_above, bracket it where loss has one minimum."
    )
    grid = (
        "What the grid trains with: tried at this size, or by the rule between or beyond the anchors. The rule's "
        "exponent lies from slope_low to slope_high if each optimum lies anywhere between the neighbours tried; "
        "that is no confidence interval."
    )
    return Section(
        title="Tuning",
        blocks=[
            pen.picture("tuning", picture, figure.draw(rows, ylabel=judged)),
            Numbers(name="tuning_best", caption=best, rows=figure.table(rows)),
            Numbers(name="tuning_choices", caption=grid, rows=figure.choices(rows)),
            Fold(
                title="All trials",
                blocks=[Numbers(name="tuning_trials", caption="All trials.", rows=figure.trials(rows))],
            ),
        ],
    )


def read_outs(study: Study) -> Section:
    """All probes side by side, mean over tasks."""
    scored = study.rows[study.rows["excluded"].isin([Exclusion.KEPT, Exclusion.BASELINE, Exclusion.HELD_OUT])]
    by = ["probe", "algorithm", "mixture", "n_images", "model"]
    table = scored.groupby(by, dropna=False).agg(
        n_tasks=("task", "nunique"),
        seeds=("seed", "nunique"),
        auc=("auc", "mean"),
        accuracy=("accuracy", "mean"),
        chance_accuracy=("chance_accuracy", "mean"),
    )
    caption = (
        "Mean over tasks and seeds, baselines included; compare rows with the same number of tasks. "
        "chance_accuracy is that of always answering the most frequent class."
    )
    rows = table.reset_index().sort_values(by[1:], kind="stable").dropna(axis="columns", how="all")
    return Section(title="Read-outs", blocks=[Numbers(name="read_outs", caption=caption, rows=rows)])


def failures(study: Study, reported: pd.DataFrame | None) -> Section:
    """Runs that the observations show as lost, and what the caller reports about them."""
    blocks: list[Block] = []
    if len(study.lost):
        blocks.append(Note(text=f"{len(study.lost)} runs have no result and are in no fit.", severity="warning"))
        blocks.append(
            Numbers(name="without_result", caption="Runs that failed, diverged or collapsed.", rows=study.lost)
        )
    if reported is not None and len(reported):
        blocks.append(Numbers(name="failures", caption="Failures and their logs.", rows=reported))
    return Section(title="Failures", blocks=blocks or [Words(lines=["No run failed, diverged or collapsed."])])


def provenance(table: dict[str, str], spec_text: str | None) -> Section:
    method = (
        f"Errors are 1 - AUC of the {MAIN_PROBE} read-out, or the error column where that was given. Laws of the "
        "figures are fitted to logarithms by least squares, one point per size: the geometric mean of its seeds. "
        "Their intervals use Student's t on these points' residuals, with as many degrees of freedom as there are "
        "sizes beyond the law's parameters; they do not contain the choice of the law. Predictions do contain it: "
        "the disagreement of all laws judged, by the inverse of their scores, is added to their variance."
    )
    blocks: list[Block] = [Words(lines=[method])]
    if table:
        rows = pd.DataFrame(table.items(), columns=["what", "value"])
        blocks.append(Numbers(name="provenance", caption="Inputs and versions.", rows=rows))
    if spec_text:
        blocks.append(Fold(title="The sweep", blocks=[Listing(text=spec_text)]))
    return Section(title="Provenance", blocks=blocks)
