"""Any table with our columns -> checked observations. Nothing is dropped: a row that no fit may use says why."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import pandas as pd

from scaling.records import BASELINES, COLUMNS

MAIN_PROBE = "linear"
"""Whose errors are fitted; other read-outs are tabled beside it."""
REQUIRED = ("run", "status", "model", "algorithm", "mixture", "n_images", "seed", "n_params", "task", "probe", "auc")
NUMBERS = ["n_images", "seed", "n_params", "n_params_total", "images_seen", "train_flops", "train_seconds", "train_loss", "auc", "auc_se", "accuracy", "accuracy_se", "chance_auc", "chance_accuracy", "n_test"]
CELL = ["algorithm", "mixture", "model", "n_images"]
"""What runs share that differ in their seed alone."""


class Exclusion(StrEnum):
    """Why a row is in no fit; the value is the explanation."""

    KEPT = ""
    FAILED = "the run failed"
    DIVERGED = "the run diverged"
    NO_METRIC = "the read-out has no AUC"
    BASELINE = "an untrained reference, compared but not fitted"


def load(table: pd.DataFrame | Path) -> pd.DataFrame:
    """The table with every column of `COLUMNS`, an `error` = 1 - AUC and an `excluded` reason, empty where kept.

    Raises ValueError naming all missing columns and all columns that are no numbers.
    """
    rows = pd.read_csv(table) if isinstance(table, Path) else table.copy()
    missing = [column for column in REQUIRED if column not in rows]
    if missing:
        raise ValueError(f"observations: no column {', '.join(missing)}; the table has {', '.join(map(str, rows))}")
    rows = rows.reindex(columns=list(COLUMNS))
    wrong = []
    for column in NUMBERS:
        numbers = pd.to_numeric(rows[column], errors="coerce").astype(float)
        if (numbers.isna() & rows[column].notna()).any():
            wrong.append(column)
        rows[column] = numbers
    if wrong:
        raise ValueError(f"observations: no numbers in {', '.join(wrong)}; leave a missing value empty")
    rows["error"] = 1 - rows["auc"]
    rows["excluded"] = [_exclusion(row) for row in rows.itertuples()]
    return rows


def _exclusion(row: object) -> str:
    status, algorithm, auc = (getattr(row, name) for name in ("status", "algorithm", "auc"))
    if status == "failed":
        return Exclusion.FAILED
    if status == "diverged":
        return Exclusion.DIVERGED
    if pd.isna(auc):
        return Exclusion.NO_METRIC
    return Exclusion.BASELINE if algorithm in BASELINES else Exclusion.KEPT


def kept(rows: pd.DataFrame, probe: str = MAIN_PROBE) -> pd.DataFrame:
    """Rows that may be fitted, of one read-out."""
    return rows[(rows["excluded"] == Exclusion.KEPT) & (rows["probe"] == probe)]


def references(rows: pd.DataFrame, probe: str = MAIN_PROBE) -> pd.DataFrame:
    """Rows of the untrained baselines that have a metric."""
    return rows[(rows["excluded"] == Exclusion.BASELINE) & (rows["probe"] == probe)]


def accounting(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by reason; their numbers add up to the table's."""
    counts = rows["excluded"].replace("", "kept").value_counts()
    return counts.rename_axis("rows").reset_index(name="number")


def mean_over_tasks(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run: the mean error over tasks, and its standard error from the test images alone.

    Only tasks that every run of `rows` has are averaged, so that runs are compared on the same ground; the number of
    tasks stands in `n_tasks`.
    """
    n_runs = rows["run"].nunique()
    common = rows.groupby("task")["run"].nunique()
    shared = rows[rows["task"].isin(common.index[common == n_runs])]
    by_run = shared.groupby(["run", *CELL, "seed", "n_params", "train_flops"], dropna=False)
    table = by_run.agg(
        error=("error", "mean"), n_tasks=("task", "nunique"), variance=("auc_se", lambda se: (se**2).sum())
    )
    table["error_se"] = table["variance"] ** 0.5 / table["n_tasks"]
    return table.drop(columns="variance").reset_index()
