"""Observations + task features -> one HTML page, Markdown, CSV tables and figures. Needs nothing else.

A report is always written, whatever is missing: what cannot be answered says why.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import answers
from analysis.benefit import benefits, headline
from analysis.correlate import correlate
from analysis.figures import benefit as benefit_figure
from analysis.figures import correlation as correlation_figure
from analysis.figures import error as error_figure
from analysis.figures import tuning as tuning_figure
from analysis.figures.error import Curve, References, curves, unplaced
from analysis.figures.style import Figure, save
from analysis.observations import (
    MAIN_PROBE,
    Exclusion,
    accounting,
    kept,
    load,
    mean_over_tasks,
    references,
    shared_tasks,
    without_result,
)
from analysis.page import Block, Listing, Numbers, Picture, Section, Words, html, markdown

MEAN_ERROR = "mean error over tasks, 1 - AUC"
BAND = (
    "Points are runs, bars one standard error from the test images; the line is a power law through each size's "
    "geometric mean, the band the curve's 95 % interval (Student's t), cut at the panel's edge."
)


class Writer:
    """Collects what a report needs and writes its files."""

    def __init__(self, observations: pd.DataFrame | Path, tasks: pd.DataFrame, out: Path) -> None:
        self.out = out
        self.rows, self.tasks = _checked(observations, tasks)
        self.fitted = kept(self.rows)
        self.references = references(self.rows)
        self.lost = without_result(self.rows)
        self.means = mean_over_tasks(self.fitted)
        self.benefits = benefits(self.fitted)
        self.headline = headline(self.benefits)
        self.correlations = correlate(self.headline, self.tasks)
        self.along = {axis: curves(self.means, axis) for axis in error_figure.FIXED}
        self.pairs = answers.paired(self.fitted, self.references)
        (out / "figures").mkdir(parents=True, exist_ok=True)

    def mean_references(self, task: str | None = None) -> References:
        """Baselines averaged over the tasks that the runs are averaged over, or of one task."""
        tasks = [task] if task else shared_tasks(self.fitted)
        mine = self.references[self.references["task"].isin(tasks)]
        n_tasks = mine.groupby("run")["task"].nunique()
        complete = mine[mine["run"].isin(n_tasks.index[n_tasks == len(tasks)])]
        random = complete[complete["algorithm"] == "random"]
        means = random.groupby(["run", "model", "n_params"])["error"].mean().reset_index()
        return References(random=means, pixels=float(complete[complete["algorithm"] == "pixels"]["error"].mean()))

    def picture(self, name: str, caption: str, figure: Figure) -> Picture:
        _, svg = save(figure, self.out / "figures", name)
        return Picture(name=svg.stem, caption=caption, path=svg)

    def in_short(self) -> Section:
        lines = [
            *answers.best_run(self.means),
            *answers.references(self.pairs),
            *answers.tenfold(self.along["n_params"], "parameters"),
            *answers.tenfold(self.along["n_images"], "images"),
            *answers.gaining(self.headline),
            *answers.correlated(self.correlations),
        ]
        weak = answers.weaknesses(self.fitted, self.lost, self.along["n_params"])
        brackets = "Errors are 1 - AUC, lower is better; square brackets hold 95 % intervals."
        blocks: list[Block] = [Words(lines=[brackets]), Words(lines=lines, bullets=True)]
        if weak:
            blocks += [Words(lines=["What to hold against these answers:"]), Words(lines=weak, bullets=True)]
        return Section(title="In short", blocks=blocks)

    def what_was_run(self, gallery: Path | None, *, synthetic: bool) -> Section:
        runs = self.rows.drop_duplicates("run")
        by = ["algorithm", "mixture", "model", "n_params", "n_images", "status"]
        grid = runs.groupby(by, dropna=False).agg(seeds=("seed", "nunique"), train_seconds=("train_seconds", "mean"))
        uses = accounting(self.rows)
        total = f"{len(runs)} runs, {len(self.rows)} rows of observations, all of them in the first table."
        cells = "Runs by cell; train_seconds is the mean over seeds."
        blocks: list[Block] = [
            Words(lines=[total]),
            Numbers(name="rows", caption=f"Rows by use; laws are fitted to the {MAIN_PROBE} read-out.", rows=uses),
            Numbers(name="cells", caption=cells, rows=grid.reset_index()),
        ]
        if gallery is not None and gallery.exists():
            what = "Synthetic images, drawn by the program: no patient." if synthetic else "Examples of the images."
            copy = self.out / "figures" / f"gallery{gallery.suffix}"
            shutil.copyfile(gallery, copy)
            blocks.append(Picture(name="gallery", caption=what, path=copy))
        return Section(title="What was run", blocks=blocks)

    def tuning(self, rows: pd.DataFrame) -> Section:
        """Trials, best values and the rule; `rows` as `scaling.records.TUNING_COLUMNS`."""
        by_loss = np.allclose(*rows.loc[rows["status"] == "done", ["loss", "score"]].to_numpy(float).T)
        judged = "pretraining loss" if by_loss else "validation error, 1 - AUC"
        picture = (
            f"Tuning: {judged} of the trials against the learning rate, and the learning rate of every size by the "
            "rule. A ring is the best of its anchor; a hollow triangle was stopped early and stands at the loss it had "
            "then; a cross diverged or failed. Bars reach to the neighbouring trials; without one nothing was tried on "
            "that side."
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
                self.picture("tuning", picture, tuning_figure.draw(rows, ylabel=judged)),
                Numbers(name="tuning_best", caption=best, rows=tuning_figure.table(rows)),
                Numbers(name="tuning_choices", caption=grid, rows=tuning_figure.choices(rows)),
                Numbers(name="tuning_trials", caption="All trials.", rows=tuning_figure.trials(rows), most=20),
            ],
        )

    def along_axis(self, axis: str, title: str, panel_by: str, note: str) -> Section:
        found, blocks = self.along[axis], list[Block]()
        if lost := unplaced(self.means, axis):
            blocks.append(Words(lines=[f"{lost} of {len(self.means)} runs have no {axis} and are in no curve here."]))
        if not found:
            why = "No series has two sizes along this axis, so there is nothing to compare."
            return Section(title=title, blocks=[*blocks, Words(lines=[why])])
        figure = error_figure.draw(found, self.mean_references(), panel_by=panel_by, ylabel=MEAN_ERROR)
        caption = f"Exponent b of error = a x^-b with its 95 % interval; positive when scale helps. {note}".strip()
        blocks += [
            self.picture(f"error_{axis}", f"{title}. {BAND}", figure),
            Numbers(name=f"law_{axis}", caption=caption, rows=error_figure.table(found)),
        ]
        return Section(title=title, blocks=blocks)

    def against_references(self) -> Section:
        title = "Against the references"
        if self.pairs.empty:
            return Section(title=title, blocks=[Words(lines=["No untrained reference was compared."])])
        caption = (
            "Each algorithm's best cell against untrained references, task by task; difference = reference error - "
            "error, with its 95 % t interval over tasks taken as a sample of tasks. The best cell was chosen on the "
            "same test data, which flatters it."
        )
        return Section(title=title, blocks=[Numbers(name="references", caption=caption, rows=self.pairs)])

    def tasks_and_benefit(self) -> Section:
        title = "Benefit per task"
        blocks: list[Block] = []
        if self.headline.empty:
            blocks.append(Words(lines=["No task has a series with two model sizes, so there is no benefit of size."]))
        else:
            rows = benefit_figure.table(self.headline)
            if rows["exponent"].notna().any():
                figure = benefit_figure.draw(rows, xlabel="exponent of the error along encoder parameters")
                blocks.append(self.picture("benefit", self._benefit_caption(rows), figure))
            else:
                blocks.append(
                    Words(lines=[f"No task has a law along model size: {'; '.join(rows['status'].unique())}."])
                )
            caption = "The same in numbers, with the reference study's slope of log AUC."
            blocks += [Numbers(name="benefit_headline", caption=caption, rows=rows), *self._small_multiples()]
        if len(self.benefits):
            caption = "Every series and axis; gain_se is from the test images alone, and at most."
            blocks.append(Numbers(name="benefits", caption=caption, rows=self.benefits, most=20))
        return Section(title=title, blocks=blocks)

    def _benefit_caption(self, rows: pd.DataFrame) -> str:
        series = "; ".join(
            f"{algorithm}: {mine['mixture'].iloc[0]}, {int(mine['at'].iloc[0]):,} images"
            for algorithm, mine in rows.groupby("algorithm")
        )
        return (
            f"Exponent of each task's error along model size, positive when size helps, with its 95 % interval "
            f"({series}). A hollow point has no interval; an arrow marks an interval that goes on."
        )

    def _small_multiples(self) -> Iterator[Block]:
        """One figure per task against model size, of the series of the headline."""
        wanted = self.headline[["algorithm", "mixture", "at"]].drop_duplicates()
        rows = self.fitted.assign(at=[f"{n:.0f}" for n in self.fitted["n_images"]], error_se=self.fitted["auc_se"])
        for task, mine in rows.merge(wanted, on=["algorithm", "mixture", "at"]).groupby("task"):
            found = curves(mine, "n_params")
            if found:
                baselines = self.mean_references(str(task))
                figure = error_figure.draw(found, baselines, panel_by="n_images", ylabel=f"{task}: 1 - AUC")
                yield self.picture(f"task_{task}", f"{task} against model size. {BAND}", figure)

    def features(self) -> Section:
        blocks: list[Block] = []
        unlisted = sorted(set(self.fitted["task"]) - set(self.tasks["task"]))
        if unlisted:
            blocks.append(
                Words(lines=[f"Without features, as the task table has no row of them: {', '.join(unlisted)}."])
            )
        blocks.append(Numbers(name="tasks", caption="Tasks and their features.", rows=self.tasks))
        if self.correlations["p"].notna().any():
            caption = (
                "Pearson's r between task features and the benefit above with its 95 % interval, permutation p, q, "
                "number of tasks; framed where the pair survives a false-discovery rate of 5 % over all pairs."
            )
            blocks.append(self.picture("correlation", caption, correlation_figure.draw(self.correlations)))
        caption = (
            "Correlations with Fisher's 95 % intervals; p is of Pearson's r, by permutation; q is p after Benjamini "
            "and Hochberg. The benefits' own intervals are not carried into the correlations."
        )
        blocks.append(Numbers(name="correlations", caption=caption, rows=self.correlations))
        return Section(title="Task features and benefit", blocks=blocks)

    def read_outs(self) -> Section:
        """All probes side by side, mean over tasks."""
        scored = self.rows[self.rows["excluded"].isin([Exclusion.KEPT, Exclusion.BASELINE])]
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
        rows = table.reset_index().sort_values(by[1:], kind="stable")
        return Section(title="Read-outs", blocks=[Numbers(name="read_outs", caption=caption, rows=rows)])

    def failures(self, reported: pd.DataFrame | None) -> Section:
        """Runs that the observations show as lost, and what the caller reports about them."""
        blocks: list[Block] = []
        if len(self.lost):
            blocks.append(Numbers(name="without_result", caption="Runs that failed or diverged.", rows=self.lost))
        if reported is not None and len(reported):
            blocks.append(Numbers(name="failures", caption="Failures and their logs.", rows=reported))
        return Section(title="Failures", blocks=blocks or [Words(lines=["No run failed or diverged."])])

    def one_budget(self) -> str:
        seen = self.fitted["images_seen"]
        same = len(seen) and seen.notna().all() and np.ptp(seen) == 0
        return "Every run saw the same number of images, so FLOPs grow with the model alone." if same else ""


def _checked(observations: pd.DataFrame | Path, tasks: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables; one ValueError with the problems of both."""
    problems = []
    try:
        rows = load(observations)
    except ValueError as error:
        problems.append(str(error))
    if tasks.empty:
        tasks = tasks.reindex(columns=["task", *(column for column in tasks if column != "task")])
    elif "task" not in tasks:
        problems.append(f"tasks: no column task; the table has {', '.join(map(str, tasks))}")
    elif repeated := sorted(set(tasks["task"][tasks["task"].duplicated()].astype(str))):
        problems.append(f"tasks: several rows of {', '.join(repeated)}; give each task once")
    if problems:
        raise ValueError("\n".join(problems))
    return rows, tasks.astype({"task": str})


def _provenance(provenance: dict[str, str], spec_text: str | None) -> Section:
    table = pd.DataFrame(provenance.items(), columns=["what", "value"])
    method = (
        f"Errors are 1 - AUC of the {MAIN_PROBE} read-out. Laws are fitted to logarithms by least squares, one point "
        "per size: the geometric mean of its seeds. Intervals use Student's t on these points' residuals, with as many "
        "degrees of freedom as there are sizes beyond two; they do not contain the choice of the law."
    )
    blocks: list[Block] = [Words(lines=[method])]
    if len(table):
        blocks.append(Numbers(name="provenance", caption="Inputs and versions.", rows=table))
    return Section(title="Provenance", blocks=[*blocks, Listing(text=spec_text)] if spec_text else blocks)


def write(
    observations: pd.DataFrame | Path,
    tasks: pd.DataFrame,
    out: Path,
    *,
    title: str,
    question: str = "",
    provenance: dict[str, str] | None = None,
    failures: pd.DataFrame | None = None,
    tuning: pd.DataFrame | None = None,
    synthetic: bool = False,
    spec_text: str | None = None,
    gallery: Path | None = None,
) -> Path:
    """The page's path. Raises ValueError for a table that is no observation table, before anything is written."""
    writer = Writer(observations, tasks, out)
    sections = [
        writer.in_short(),
        writer.what_was_run(gallery, synthetic=synthetic),
        *([writer.tuning(tuning)] if tuning is not None else []),
        writer.along_axis("n_params", "Error against model size", "n_images", "Data are fixed within a curve."),
        writer.along_axis("n_images", "Error against data size", "model", "The model is fixed within a curve."),
        writer.along_axis("train_flops", "Error against compute", "n_images", writer.one_budget()),
        writer.against_references(),
        writer.tasks_and_benefit(),
        writer.features(),
        writer.read_outs(),
        writer.failures(failures),
        _provenance(provenance or {}, spec_text),
    ]
    warning = "All images are synthetic. Nothing here says anything about patients or about real modalities."
    notes = [warning] if synthetic else []
    for block in (block for section in sections for block in section.blocks if isinstance(block, Numbers)):
        _whole(out / f"{block.name}.csv", block.rows.to_csv(index=False))
    _whole(out / "observations.csv", writer.rows.to_csv(index=False))
    _whole(out / "report.md", markdown(title, question, notes, sections))
    page = out / "report.html"
    _whole(page, html(title, question, notes, sections))
    _remove_pictures_of_earlier_reports(out / "figures", sections)
    return page


def _remove_pictures_of_earlier_reports(folder: Path, sections: list[Section]) -> None:
    """A task that is no longer probed would else still have its figure."""
    shown = {block.path.stem for section in sections for block in section.blocks if isinstance(block, Picture)}
    for path in folder.iterdir():
        if path.suffix in (".png", ".svg", ".pdf") and path.stem not in shown:
            path.unlink()


def _whole(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


__all__ = ["Curve", "Writer", "write"]
