"""Any table with our columns -> checked observations. Nothing is dropped: a row that no fit may use says why."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from scaling.records import BASELINES, COLUMNS, Status

MAIN_PROBE = "linear"
"""Whose errors are fitted; other read-outs are tabled beside it."""
REQUIRED = ("run", "status", "model", "algorithm", "mixture", "n_images", "seed", "n_params", "task", "probe", "auc")
TEXTS = ("run", "status", "model", "algorithm", "mixture", "task", "modality", "probe", "reason")
NUMBERS = tuple(column for column in COLUMNS if column not in TEXTS)
SHARES = ("auc", "accuracy", "chance_auc", "chance_accuracy")
"""Columns that lie between 0 and 1; a percentage would give errors far below zero."""
STATUSES: tuple[str, ...] = get_args(Status)
CELL = ["algorithm", "mixture", "model", "n_images"]
"""What runs share that differ in their seed alone."""


class Exclusion(StrEnum):
    """Why a row is in no fit; the value is the explanation."""

    KEPT = ""
    FAILED = "the run failed"
    DIVERGED = "the run diverged"
    NO_METRIC = "the read-out has no AUC"
    BASELINE = "an untrained reference, compared but not fitted"
    NO_SIZE = "the run has no positive number of parameters or images"
    REPEATED = "an earlier row has the same run, task and read-out"


def load(table: pd.DataFrame | Path) -> pd.DataFrame:
    """The table with every column of `COLUMNS`, an `error` = 1 - AUC and an `excluded` reason, empty where kept.

    A missing number is NaN, a missing text empty. Columns beyond `COLUMNS` are not taken over. Raises one ValueError
    with everything that makes the table no observation table.
    """
    rows = _read(table) if isinstance(table, Path) else table.copy()
    missing = [column for column in REQUIRED if column not in rows]
    if missing:
        raise ValueError(f"observations: no column {', '.join(missing)}; the table has {', '.join(map(str, rows))}")
    rows = rows.reindex(columns=list(COLUMNS)).reset_index(drop=True)
    for column in TEXTS:
        rows[column] = rows[column].astype(object).where(rows[column].notna(), "").astype(str)
    problems = []
    for column in NUMBERS:
        numbers = pd.to_numeric(rows[column], errors="coerce").astype(float)
        if (numbers.isna() & rows[column].notna()).any():
            problems.append(f"no numbers in {column}; leave a missing value empty")
        rows[column] = numbers
    problems += [
        f"{column} outside 0-1 ({rows[column].min():g} to {rows[column].max():g}); give shares, not percentages"
        for column in SHARES
        if ((rows[column] < 0) | (rows[column] > 1)).any()
    ]
    unknown = sorted(set(rows["status"]) - set(STATUSES))
    if unknown:
        problems.append(f"unknown status {', '.join(map(repr, unknown))}; known: {', '.join(STATUSES)}")
    if problems:
        raise ValueError("observations: " + "\nobservations: ".join(problems))
    rows["error"] = 1 - rows["auc"]
    rows["excluded"] = pd.Series(_exclusions(rows), index=rows.index, dtype=object)
    return rows


def _read(path: Path) -> pd.DataFrame:
    """Text stays text (a run named 000000012345, a mixture named NA), and numbers are read back bit by bit."""
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column in rows.columns.intersection(list(NUMBERS)):
        rows[column] = pd.Series([_number(text) for text in rows[column]], index=rows.index, dtype=object)
    return rows


def _number(text: str) -> float | str:
    """What cannot be read is left for `load` to name."""
    if text.strip() in ("", "NA"):
        return np.nan
    try:
        return float(text)
    except ValueError:
        return text


def _exclusions(rows: pd.DataFrame) -> list[str]:
    """Of each row the first reason that holds, in this order."""
    baseline = rows["algorithm"].isin(BASELINES)
    sized = (rows[["n_params", "n_images"]].gt(0) & np.isfinite(rows[["n_params", "n_images"]])).all(axis=1)
    reasons = [
        (rows["status"] == "failed", Exclusion.FAILED),
        (rows["status"] == "diverged", Exclusion.DIVERGED),
        (rows["auc"].isna(), Exclusion.NO_METRIC),
        (rows.duplicated(["run", "task", "probe"]), Exclusion.REPEATED),
        (baseline, Exclusion.BASELINE),
        (~sized, Exclusion.NO_SIZE),
    ]
    conditions = [condition.to_numpy() for condition, _ in reasons]
    return [str(reason) for reason in np.select(conditions, [reason.value for _, reason in reasons], Exclusion.KEPT)]


def kept(rows: pd.DataFrame, probe: str = MAIN_PROBE) -> pd.DataFrame:
    """Rows that may be fitted, of one read-out."""
    return rows[(rows["excluded"] == Exclusion.KEPT) & (rows["probe"] == probe)]


def references(rows: pd.DataFrame, probe: str = MAIN_PROBE) -> pd.DataFrame:
    """Rows of the untrained baselines that have a metric."""
    return rows[(rows["excluded"] == Exclusion.BASELINE) & (rows["probe"] == probe)]


def accounting(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by use; their numbers add up to the table's. Kept rows of other read-outs are tabled, not fitted."""
    read_out = ("kept: " + rows["probe"] + " read-out").where(rows["excluded"] == Exclusion.KEPT)
    counts = read_out.fillna("excluded: " + rows["excluded"]).value_counts()
    return counts.rename_axis("rows").reset_index(name="number")


def without_result(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run that failed or diverged, with its reason."""
    lost = rows[rows["status"] != "done"].drop_duplicates("run")
    return lost[["run", "status", "model", "algorithm", "mixture", "n_images", "seed", "reason"]]


def shared_tasks(rows: pd.DataFrame) -> list[str]:
    """Tasks that every run of `rows` has, so that means over them compare runs on the same ground."""
    runs = rows.groupby("task")["run"].nunique()
    return sorted(map(str, runs.index[runs == rows["run"].nunique()]))


def mean_over_tasks(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run: the mean error over the `shared_tasks`, their number in `n_tasks`.

    `error_se` is the standard error from the test images alone, tasks being independent; NaN where a task has none.
    """
    shared = rows[rows["task"].isin(shared_tasks(rows))]
    shared = shared.assign(variance=shared["auc_se"] ** 2)
    by_run = shared.groupby(["run", *CELL, "seed", "n_params", "train_flops"], dropna=False)
    table = by_run.agg(error=("error", "mean"), n_tasks=("task", "nunique"), variance=("variance", "mean"))
    unknown = by_run["variance"].count() < table["n_tasks"]
    table["error_se"] = ((table["variance"] / table["n_tasks"]) ** 0.5).mask(unknown)
    return table.drop(columns="variance").reset_index()
