"""Observations + task features -> one HTML page, Markdown, CSV tables and figures. Needs nothing else.

A report is always written, whatever is missing: what cannot be answered says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import answers
from analysis.benefit import benefits, headline
from analysis.correlate import correlate
from analysis.figures import benefit as benefit_figure
from analysis.figures import correlation as correlation_figure
from analysis.figures import error as error_figure
from analysis.figures.error import Curve, References, curves
from analysis.figures.style import save
from analysis.observations import MAIN_PROBE, accounting, kept, load, mean_over_tasks, references
from analysis.page import Block, Listing, Numbers, Picture, Section, Words, html, markdown

MEAN_ERROR = "mean error over tasks, 1 - AUC"
BAND = (
    "Points are runs, bars the standard error from the test images; the line is a power law through each size's "
    "geometric mean, the band its 95 % interval (Student's t)."
)


class Writer:
    """Collects what a report needs and writes its files."""

    def __init__(self, observations: pd.DataFrame | Path, tasks: pd.DataFrame, out: Path) -> None:
        self.out = out
        self.rows = load(observations)
        self.tasks = tasks
        self.fitted = kept(self.rows)
        self.references = references(self.rows)
        self.means = mean_over_tasks(self.fitted)
        self.benefits = benefits(self.fitted)
        self.headline = headline(self.benefits)
        self.correlations = correlate(self.headline, tasks)
        self.along = {axis: curves(self.means, axis) for axis in error_figure.FIXED}
        self.pairs = answers.paired(self.fitted, self.references)
        (out / "figures").mkdir(parents=True, exist_ok=True)

    def mean_references(self, task: str | None = None) -> References:
        """Baselines averaged over the tasks that the runs are averaged over, or of one task."""
        tasks = [task] if task else sorted(set(self.fitted["task"]))
        mine = self.references[self.references["task"].isin(tasks)]
        complete = mine.groupby("run").filter(lambda run: set(run["task"]) == set(tasks)) if len(mine) else mine
        random = complete[complete["algorithm"] == "random"]
        means = random.groupby(["run", "model", "n_params"])["error"].mean().reset_index()
        return References(random=means, pixels=float(complete[complete["algorithm"] == "pixels"]["error"].mean()))

    def picture(self, name: str, caption: str, figure: Figure) -> Picture:
        _, svg = save(figure, self.out / "figures", name)
        return Picture(name=name, caption=caption, path=svg)

    # --- sections ---------------------------------------------------------------------------------------------

    def in_short(self) -> Section:
        lines = [
            *answers.best_run(self.means),
            *answers.references(self.pairs),
            *answers.tenfold(self.along["n_params"], "parameters"),
            *answers.tenfold(self.along["n_images"], "images"),
            *answers.gaining(self.headline),
            *answers.correlated(self.correlations),
        ]
        weak = answers.weaknesses(self.fitted, self.along["n_params"], self.fitted["task"].nunique())
        blocks: list[Block] = [Words(lines=lines, bullets=True)]
        if weak:
            blocks += [Words(lines=["What to hold against these answers:"]), Words(lines=weak, bullets=True)]
        return Section(title="In short", blocks=blocks)

    def what_was_run(self, gallery: Path | None, *, synthetic: bool) -> Section:
        runs = self.rows.drop_duplicates("run")
        by = ["algorithm", "mixture", "model", "n_params", "n_images", "status"]
        grid = runs.groupby(by, dropna=False).agg(seeds=("seed", "nunique"), train_seconds=("train_seconds", "mean"))
        blocks: list[Block] = [
            Words(
                lines=[f"{len(runs)} runs, {len(self.rows)} rows of observations; rows in = rows kept + rows excluded."]
            ),
            Numbers(name="rows", caption="Rows by use.", rows=accounting(self.rows)),
            Numbers(
                name="cells", caption="Runs by cell; seconds are the mean of pretraining.", rows=grid.reset_index()
            ),
        ]
        if gallery is not None and gallery.exists():
            what = "Synthetic images, drawn by the program: no patient." if synthetic else "Examples of the images."
            blocks.append(Picture(name=gallery.stem, caption=what, path=gallery))
        return Section(title="What was run", blocks=blocks)

    def along_axis(self, axis: str, title: str, panel_by: str, note: str) -> Section:
        found = self.along[axis]
        if not found:
            why = "No series has two sizes along this axis, so there is nothing to compare."
            return Section(title=title, blocks=[Words(lines=[why])])
        figure = error_figure.draw(found, self.mean_references(), panel_by=panel_by, ylabel=MEAN_ERROR)
        caption = f"Exponent b of error = a x^-b with its 95 % interval; positive when scale helps. {note}"
        return Section(
            title=title,
            blocks=[
                self.picture(f"error_{axis}", f"{title}. {BAND}", figure),
                Numbers(name=f"law_{axis}", caption=caption, rows=error_figure.table(found)),
            ],
        )

    def against_references(self) -> Section:
        if self.pairs.empty:
            return Section(title="Against the references", blocks=[Words(lines=["No untrained reference was probed."])])
        caption = (
            "Each algorithm's best cell against untrained references, task by task; difference = reference error - error "
            "with its 95 % t interval over tasks. The best cell was chosen on the same test data, which flatters it a little."
        )
        return Section(
            title="Against the references", blocks=[Numbers(name="references", caption=caption, rows=self.pairs)]
        )

    def tasks_and_benefit(self) -> Section:
        title = "Benefit per task"
        if self.headline.empty:
            return Section(title=title, blocks=[Words(lines=["No task has a series with enough sizes for a benefit."])])
        rows = benefit_figure.table(self.headline)
        series = "; ".join(
            f"{algorithm}: {mine['mixture'].iloc[0]}, {mine['at'].iloc[0]} images"
            for algorithm, mine in rows.groupby("algorithm")
        )
        caption = f"Exponent of each task's error along model size with its 95 % interval ({series})."
        blocks: list[Block] = [
            self.picture(
                "benefit", caption, benefit_figure.draw(rows, xlabel="exponent of the error along encoder parameters")
            ),
            Numbers(
                name="benefit_headline",
                caption="The same in numbers, with the reference study's slope of log AUC.",
                rows=rows,
            ),
            *self._small_multiples(),
            Numbers(name="benefits", caption="Every series and axis.", rows=self.benefits, most=20),
        ]
        return Section(title=title, blocks=blocks)

    def _small_multiples(self) -> Iterator[Block]:
        """One figure per task against model size, at the data sizes of the headline."""
        cells = self.headline[["algorithm", "mixture", "at"]].drop_duplicates()
        for task, mine in self.fitted.groupby("task"):
            at = mine["n_images"].map(lambda n: f"{n:.0f}")
            wanted = set(map(tuple, cells.to_numpy()))
            chosen = mine[[key in wanted for key in zip(mine["algorithm"], mine["mixture"], at, strict=True)]]
            found = curves(chosen.assign(error_se=chosen["auc_se"]), "n_params")
            if found:
                figure = error_figure.draw(
                    found, self.mean_references(str(task)), panel_by="n_images", ylabel=f"{task}: 1 - AUC"
                )
                yield self.picture(f"task_{task}", f"{task} against model size. {BAND}", figure)

    def features(self) -> Section:
        blocks: list[Block] = [Numbers(name="tasks", caption="Tasks and their features.", rows=self.tasks)]
        if self.correlations["p"].notna().any():
            caption = (
                "Pearson's r between task features and the benefit above, permutation p, number of tasks; framed where "
                "the pair survives a false-discovery rate of 5 % over all pairs."
            )
            blocks.append(self.picture("correlation", caption, correlation_figure.draw(self.correlations)))
        caption = "Correlations with 95 % bootstrap intervals over tasks; q is p after Benjamini and Hochberg."
        blocks.append(Numbers(name="correlations", caption=caption, rows=self.correlations))
        return Section(title="Task features and benefit", blocks=blocks)

    def read_outs(self) -> Section:
        """All probes side by side, mean over tasks."""
        scored = self.rows[self.rows["error"].notna()]
        by = ["probe", "algorithm", "mixture", "n_images", "model"]
        table = scored.groupby(by)[["auc", "accuracy", "chance_accuracy"]].mean().reset_index()
        wide = table.pivot(index=by[1:], columns="probe", values=["auc", "accuracy"]).reset_index()
        wide.columns = [f"{a}_{b}" if b else a for a, b in wide.columns]
        caption = "Mean over tasks and seeds, baselines included."
        return Section(title="Read-outs", blocks=[Numbers(name="read_outs", caption=caption, rows=wide)])


def _failures(failures: pd.DataFrame | None) -> Section:
    if failures is None or failures.empty:
        return Section(title="Failures", blocks=[Words(lines=["No run failed."])])
    return Section(title="Failures", blocks=[Numbers(name="failures", caption="Runs without a result.", rows=failures)])


def _provenance(provenance: dict[str, str], spec_text: str | None) -> Section:
    table = pd.DataFrame(provenance.items(), columns=["what", "value"])
    method = (
        f"Errors are 1 - AUC of the {MAIN_PROBE} read-out. Laws are fitted to logarithms by least squares, one point per "
        "size; intervals use Student's t on the residuals and do not contain the choice of the law."
    )
    blocks: list[Block] = [
        Words(lines=[method]),
        Numbers(name="provenance", caption="Inputs and versions.", rows=table),
    ]
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
    synthetic: bool = False,
    spec_text: str | None = None,
    gallery: Path | None = None,
) -> Path:
    """The page's path. Raises ValueError for a table that is no observation table, before anything is written."""
    writer = Writer(observations, tasks, out)
    fixed_budget = (
        "Every run saw the same number of images, so FLOPs grow with the model alone." if _one_budget(writer) else ""
    )
    sections = [
        writer.in_short(),
        writer.what_was_run(gallery, synthetic=synthetic),
        writer.along_axis("n_params", "Error against model size", "n_images", "Data are fixed within a curve."),
        writer.along_axis("n_images", "Error against data size", "model", "The model is fixed within a curve."),
        writer.along_axis("train_flops", "Error against compute", "n_images", fixed_budget),
        writer.against_references(),
        writer.tasks_and_benefit(),
        writer.features(),
        writer.read_outs(),
        _failures(failures),
        _provenance(provenance or {}, spec_text),
    ]
    notes = (
        ["All images are synthetic. Nothing here says anything about patients or about real modalities."]
        if synthetic
        else []
    )
    for block in (block for section in sections for block in section.blocks if isinstance(block, Numbers)):
        _whole(out / f"{block.name}.csv", block.rows.to_csv(index=False))
    _whole(out / "observations.csv", writer.rows.to_csv(index=False))
    _whole(out / "report.md", markdown(title, question, notes, sections))
    page = out / "report.html"
    _whole(page, html(title, question, notes, sections))
    return page


def _one_budget(writer: Writer) -> bool:
    seen = writer.fitted["images_seen"].dropna()
    return bool(len(seen) and np.ptp(seen) == 0)


def _whole(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


__all__ = ["Curve", "Writer", "write"]
