"""All that a report's sections share, computed once: checked tables, means, series, benefits, correlations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.benefit import DEFINITIONS, benefits, headline
from analysis.correlate import correlate
from analysis.features import FEATURES, PLANTED
from analysis.figures import error as error_figure
from analysis.figures.error import Curve, References, curves
from analysis.observations import held_out, kept, load, mean_over_tasks, references, shared_tasks, without_result
from analysis.sizes import ENCODER, Size, size_named, sized
from analysis.tables.problems import InputError


@dataclass(frozen=True, kw_only=True)
class Study:
    rows: pd.DataFrame
    """Every row of the table, `excluded` saying why it is in no fit."""
    tasks: pd.DataFrame
    """One row per task with its features."""
    fitted: pd.DataFrame
    """Rows that are fitted."""
    held: pd.DataFrame
    """Rows held out: predicted, not fitted."""
    references: pd.DataFrame
    """Rows of untrained baselines."""
    lost: pd.DataFrame
    """Runs that failed, diverged or collapsed."""
    means: pd.DataFrame
    """Of fitted runs the mean error over the tasks that all have."""
    along: dict[str, list[Curve]]
    """By axis: every series of runs that differ in it alone, with its law."""
    benefits: pd.DataFrame
    headline: pd.DataFrame
    """Benefits of one series per algorithm."""
    benefit: str
    """Which definition of benefit is correlated, a key of `analysis.benefit.DEFINITIONS`."""
    correlations: pd.DataFrame
    size: Size = ENCODER
    """What n_params is in every table here."""

    @property
    def given(self) -> pd.DataFrame:
        """`rows` with n_params as the table has it."""
        return self.size.exchanged(self.rows)

    @property
    def measure(self) -> str:
        """What errors are: 1 - AUC, or whatever the table gave as its error."""
        return "1 - AUC" if self.rows["auc"].notna().any() else "error as given"

    @property
    def mean_error(self) -> str:
        """Of an axis that shows means over tasks."""
        many = self.fitted["task"].nunique() > 1
        return f"mean error over tasks, {self.measure}" if many else self.measure

    def mean_references(self, task: str | None = None) -> References:
        """Baselines averaged over the tasks that the runs are averaged over, or of one task."""
        tasks = [task] if task else shared_tasks(self.fitted)
        mine = self.references[self.references["task"].isin(tasks)]
        n_tasks = mine.groupby("run")["task"].nunique()
        complete = mine[mine["run"].isin(n_tasks.index[n_tasks == len(tasks)])]
        random = complete[complete["algorithm"] == "random"]
        means = random.groupby(["run", "model", "n_params"])["error"].mean().reset_index()
        return References(random=means, pixels=float(complete[complete["algorithm"] == "pixels"]["error"].mean()))


def study(
    observations: pd.DataFrame | Path,
    tasks: pd.DataFrame,
    *,
    benefit: str = "exponent",
    size: str = ENCODER.column,
) -> Study:
    """`size`: the column that is the models' size, a key of `analysis.sizes.SIZES`.

    Raises InputError, a ValueError, with everything that is wrong with either table.
    """
    rows, tasks = _checked(observations, tasks, benefit, size)
    fitted, held = kept(rows), held_out(rows)
    means = mean_over_tasks(fitted)
    table = benefits(fitted)
    chosen = headline(table)
    return Study(
        rows=rows,
        tasks=tasks,
        fitted=fitted,
        held=held,
        references=references(rows),
        lost=without_result(rows),
        means=means,
        along={axis: curves(_with_held(means, held), axis) for axis in error_figure.FIXED},
        benefits=table,
        headline=chosen,
        benefit=benefit,
        correlations=correlate(chosen, tasks, column=benefit, features=_features(tasks)),
        size=size_named(size),
    )


def _with_held(means: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
    """Runs held out beside those fitted, marked: seen in figures, not by laws."""
    if held.empty:
        return means
    return pd.concat([means.assign(held_out=False), mean_over_tasks(held).assign(held_out=True)], ignore_index=True)


def _features(tasks: pd.DataFrame) -> list[str] | None:
    """Those of the table that are known here; all its numbers where none is."""
    known = [name for name in (*FEATURES, PLANTED) if name in tasks]
    return known or None


def _checked(
    observations: pd.DataFrame | Path, tasks: pd.DataFrame, benefit: str, size: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    problems: list[str] = []
    try:
        rows = sized(load(observations), size_named(size))
    except InputError as error:
        problems += error.problems
    if benefit not in DEFINITIONS:
        problems.append(f"benefit: unknown definition {benefit!r}; known: {', '.join(DEFINITIONS)}")
    if tasks.empty:
        tasks = tasks.reindex(columns=["task", *(column for column in tasks if column != "task")])
    elif "task" not in tasks:
        problems.append(f"tasks: no column task; the table has {', '.join(map(str, tasks))}")
    elif repeated := sorted(set(tasks["task"][tasks["task"].duplicated()].astype(str))):
        problems.append(f"tasks: several rows of {', '.join(repeated)}; give each task once")
    if problems:
        raise InputError(problems)
    return rows, tasks.astype({"task": str})
