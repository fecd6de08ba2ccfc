"""A report of anybody's table, without a sweep: read and checked whole before anything is written. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd

from analysis.observations import NO_RULES, Exclusion, Rules, load
from analysis.tables.cells import numbers
from analysis.tables.mapping import apply, parse_mapping
from analysis.tables.problems import InputError
from analysis.tables.reading import read
from scaling.errors import Problem, SpecError
from scaling.report import as_problems, of_this_program

__all__ = ["Question", "Rules", "as_problems", "task_table", "write"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of which files, in the user's words."""

    observations: Path
    mapping: str | None = None
    """`task=dataset,n_params=params_millions*1e6`; None takes the table's columns as they are called."""
    tasks: Path | None = None
    """A table of task features; None: nothing is correlated."""
    mapping_of_tasks: str | None = None
    trajectories: Path | None = None
    """A table as `scaling.records.TRAJECTORY_COLUMNS`; None: nothing is said of how runs came to their ends."""
    rules: Rules = NO_RULES
    title: str = ""
    """Empty: the file's name."""
    benefit: str = "exponent"
    """Which definition is correlated with features."""
    keep_observations: bool = True
    """Whether the table is copied beside the report."""
    size: str = "n_params"
    """The column that is the models' size."""


def write(question: Question, out: Path) -> Path:
    """The report's HTML file. Raises SpecError with all that is wrong with either table, before anything is written."""
    problems: list[Problem] = []
    rows = _attempt(problems, lambda: load(question.observations, mapping=question.mapping, rules=question.rules))
    tasks = _attempt(problems, lambda: task_table(question.tasks, question.mapping_of_tasks))
    along = _attempt(problems, lambda: _along(question.trajectories))
    if rows is not None and not (rows["excluded"] == Exclusion.KEPT).any():
        reasons = ", ".join(f"{reason} ({n})" for reason, n in rows["excluded"].value_counts().items())
        what = f"no row is left to fit: {reasons}"
        problems.append(Problem(where=str(question.observations), what=what))
    if out.exists() and not out.is_dir():
        problems.append(Problem(where=f"--out: {out}", what="is a file; give a folder"))
    if problems or rows is None or tasks is None:
        raise SpecError(problems)
    from analysis import report  # with SciPy and matplotlib: longer to import than bad input takes to be refused

    try:
        return report.write(
            rows,
            tasks,
            out,
            title=question.title or question.observations.stem,
            provenance=_provenance(question, rows),
            trajectories=along,
            keep_observations=question.keep_observations,
            benefit=question.benefit,
            size=question.size,
        )
    except InputError as error:
        raise SpecError(as_problems(error)) from None


def task_table(path: Path | None, mapping: str | None) -> pd.DataFrame:
    """Columns that hold numbers alone become numbers. Raises InputError."""
    if path is None:
        return pd.DataFrame(columns=["task"])
    where = "--map-tasks"
    table = read(path) if mapping is None else apply(read(path), parse_mapping(mapping, where=where), where=where)
    for column in table.columns.difference(["task"]):
        found, strange = numbers(table[column])
        if not strange.any():
            table[column] = found
    if "task" not in table:
        columns = ", ".join(map(str, table))
        raise InputError(f"{path}: no column task; map one with --map-tasks task=COLUMN; the table has {columns}")
    if twice := sorted(set(table["task"][table["task"].duplicated()].astype(str))):
        raise InputError(f"{path}: several rows of task {', '.join(twice)}; give each task once")
    return table


def _along(path: Path | None) -> pd.DataFrame | None:
    if path is None:
        return None
    from analysis.trajectories import checked  # with SciPy

    return checked(path)


def _attempt(problems: list[Problem], do: Callable[[], T]) -> T | None:
    try:
        return do()
    except InputError as error:
        problems += as_problems(error)
        return None


def _provenance(question: Question, rows: pd.DataFrame) -> dict[str, str]:
    """Where the numbers come from; contents by their hash, as paths mean nothing to other readers."""
    said = {"observations": _file(question.observations), "rows": f"{len(rows):,}"}
    if question.mapping:
        said["columns"] = question.mapping
    if question.tasks:
        said["tasks"] = _file(question.tasks)
    if question.trajectories:
        said["trajectories"] = _file(question.trajectories)
    if question.mapping_of_tasks:
        said["columns of tasks"] = question.mapping_of_tasks
    if words := question.rules.words():
        said["rules"] = "; ".join(words)
    return {**said, **of_this_program(("numpy", "scipy"))}


def _file(path: Path) -> str:
    return f"{path.name}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
