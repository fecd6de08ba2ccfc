"""Any table -> checked observations. Nothing is dropped: a row that no fit may use says why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from analysis.tables.cells import numbers
from analysis.tables.expression import Mask, parse
from analysis.tables.mapping import Names, apply, parse_mapping, unknown_names
from analysis.tables.problems import InputError
from analysis.tables.reading import read
from scaling.records import BASELINES, COLUMNS, Status

MAIN_PROBE = "linear"
"""Whose errors are fitted; other read-outs are tabled beside it."""
EXTRA = {
    "trunk": "the training that the run was cut from, if one training gave several runs; else the run itself",
    "error": "what is fitted: 1 - auc, or given where there is no auc; positive, lower is better",
}
"""Columns beside `COLUMNS` that a table may have."""
KNOWN = (*COLUMNS, *EXTRA)
SIZES = ("n_params", "n_images", "train_flops")
"""A table has at least one of them."""
UNNAMED = "unnamed"
DEFAULTS: dict[str, Any] = {
    "status": "done",
    "algorithm": UNNAMED,
    "mixture": "all",
    "task": UNNAMED,
    "probe": MAIN_PROBE,
    "holdout": False,
}
"""Of whole columns that a table lacks. `run`, `seed`, `model` and `trunk` follow from the others, see `load`."""
TEXTS = (
    *("run", "status", "model", "algorithm", "mixture", "shares", "epochs", "recipe", "settings"),
    *("task", "modality", "probe", "reason", "trunk"),
)
NUMBERS = tuple(column for column in KNOWN if column not in (*TEXTS, "holdout"))
SHARES = ("auc", "accuracy", "chance_auc", "chance_accuracy")
"""Columns that lie between 0 and 1; a percentage would give errors far below zero."""
YES, NO = ("true", "yes", "1", "1.0"), ("false", "no", "0", "0.0", "")
STATUSES: tuple[str, ...] = get_args(Status)
CELL = ["algorithm", "mixture", "model", "n_images"]
"""What runs share that differ in their seed alone."""
TRAINING = [*CELL, "n_params", "images_seen", "train_flops"]
"""What tells trainings apart in a table that names neither runs nor seeds."""
MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
FEWEST_SEEDS = 3
"""Runs of a cell below which none of them can be called an outlier."""
NAMED = 3
"""Rows that a message names."""


class Exclusion(StrEnum):
    """Why a row is in no fit; the value is the explanation."""

    KEPT = ""
    FAILED = "the run failed"
    DIVERGED = "the run diverged"
    COLLAPSED = "the run's representation collapsed"
    NO_METRIC = "no metric: the read-out gave none"
    BASELINE = "an untrained reference, compared but not fitted"
    NO_SIZE = "the run has no positive number of parameters or images"
    REPEATED = "an earlier row has the same run, task and read-out"
    BY_HAND = "named by --exclude"
    HELD_OUT = "held out: predicted, not fitted"
    UNDER_TRAINED = "under-trained: it saw less than the stated share of what others of its data size did"
    OUTLIER = "an outlier among the seeds of its cell, by the stated rule"


JUDGED = (Exclusion.UNDER_TRAINED.value, Exclusion.OUTLIER.value)
"""Reasons that follow from other rows."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a reader of the table leaves out beside what cannot be fitted. By default nothing."""

    exclude: Sequence[str] = ()
    """Expressions as `analysis.tables.expression` reads them, in the table's own names or ours."""
    holdout: Sequence[str] = ()
    """The same for rows that are predicted instead of fitted, beside those that the table marks."""
    under_trained: float | None = None
    """Share, 0-1: a run counts as under-trained below it, of the most images seen by a run of the same algorithm,
    mixture and n_images, whatever its model. Where images_seen is missing, FLOPs per parameter stand in for it."""
    outlier: float | None = None
    """k: an outlier is |ln error - median of its cell and task| > k * 1.4826 * the median of all such distances on this
    task that are not 0, over cells of three or more runs."""

    def problems(self) -> list[str]:
        found = []
        if self.under_trained is not None and not 0 < self.under_trained < 1:
            found.append(f"--under-trained: {self.under_trained:g} is no share between 0 and 1")
        if self.outlier is not None and not self.outlier > 0:
            found.append(f"--outlier: {self.outlier:g} is no positive number of median absolute deviations")
        return found

    def words(self) -> list[str]:
        """What was asked for, for a report."""
        said = [f"left out by hand: {text}" for text in self.exclude]
        said += [f"held out by hand: {text}" for text in self.holdout]
        if self.under_trained is not None:
            said.append(f"under-trained: below {self.under_trained:g} of the most images seen at the same data size")
        if self.outlier is not None:
            said.append(
                f"outliers: beyond {self.outlier:g} scaled median absolute deviations of ln error in their cell"
            )
        return said


NO_RULES = Rules()


def load(
    table: pd.DataFrame | Path | str,
    *,
    mapping: Names | str | None = None,
    defaults: Mapping[str, Any] | None = None,
    rules: Rules = NO_RULES,
) -> pd.DataFrame:
    """The table with every column of `COLUMNS` and `EXTRA`, and an `excluded` reason, empty where kept.

    Needed are `auc` or `error`, and one of `SIZES`. Other columns that the table lacks as a whole take `defaults` or
    `DEFAULTS`; a size is then NaN. Without `run`, rows of one algorithm, mixture, size, budget and seed are one run,
    named by the number of its first row; without `seed`, runs of a cell are counted. `model` is n_params in words.
    A missing number is NaN, a missing text empty. Other columns are not taken over, but what rules left out when the
    table was written stays out. Raises one InputError, a ValueError, with all that makes it no observation table.
    """
    given = read(Path(table)) if isinstance(table, Path | str) else _plain(table)
    names = parse_mapping(mapping) if isinstance(mapping, str) else dict(mapping or {})
    problems = [
        *unknown_names(names, KNOWN),
        *unknown_names(defaults or {}, KNOWN, where="defaults"),
        *rules.problems(),
    ]
    rows, chosen = given, dict[str, Mask]()
    try:
        rows = apply(given, names)
    except InputError as error:
        problems += error.problems
    asked = given.drop(columns=list(rows.columns.intersection(given.columns))).join(rows)
    for option, texts in (("exclude", rules.exclude), ("holdout", rules.holdout)):
        chosen[option] = np.zeros(len(rows), bool)
        for text in texts:
            try:
                chosen[option] |= parse(text, asked.columns, where=f"--{option}").choose(asked)
            except InputError as error:
                problems += error.problems
    if problems:
        raise InputError(problems)
    before = rows["excluded"] if "excluded" in rows else pd.Series("", index=rows.index, dtype=object)
    rows = _complete(rows, defaults or {})
    rows["holdout"] = rows["holdout"] | chosen["holdout"]
    by_hand = chosen["exclude"] | (before == Exclusion.BY_HAND).to_numpy()
    excluded = pd.Series(_exclusions(rows, by_hand), index=rows.index, dtype=object)
    rows["excluded"] = excluded.where((excluded != Exclusion.KEPT) | ~before.isin(JUDGED), before)
    _judge(rows, rules)
    return rows


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Whatever the caller's index and names of columns are."""
    named = table.reset_index(drop=True).set_axis([str(name) for name in table.columns], axis=1)
    if twice := sorted(set(named.columns[named.columns.duplicated()])):
        several = ", ".join(map(repr, twice))
        raise InputError(f"observations: several columns are called {several}; a name must mean one column")
    return named


def _complete(rows: pd.DataFrame, defaults: Mapping[str, Any]) -> pd.DataFrame:
    """Every column with its type, and those that follow from others. Raises InputError with all that is wrong."""
    absent = [column for column in KNOWN if column not in rows]
    for column, value in {**DEFAULTS, **defaults}.items():
        if column in absent:
            rows = rows.assign(**{column: pd.Series([value] * len(rows), dtype=object)})
    problems = []
    if not {"auc", "error"} & set(rows):
        problems.append(f"no column auc, nor error; the table has {', '.join(map(str, rows)) or 'none'}")
    if not set(SIZES) & set(rows):
        problems.append(f"no column {', '.join(SIZES)}: a size is needed; the table has {', '.join(map(str, rows))}")
    rows = rows.reindex(columns=list(KNOWN)).reset_index(drop=True)
    for column in TEXTS:
        rows[column] = rows[column].astype(object).where(rows[column].notna(), "").astype(str)
    for column in NUMBERS:
        found, strange = numbers(rows[column])
        if strange.any():
            problems.append(f"no numbers in {column}{_where(rows[column], strange)}; leave a missing value empty")
        rows[column] = found
    marks = rows["holdout"].map(lambda cell: "" if pd.isna(cell) else str(cell).strip().lower())
    if (odd := ~marks.isin((*YES, *NO)).to_numpy()).any():
        problems.append(f"neither true nor false in holdout{_where(rows['holdout'], odd)}")
    rows["holdout"] = marks.isin(YES)
    problems += _out_of_range(rows)
    if problems:
        raise InputError([f"observations: {problem}" for problem in problems])
    rows["error"] = (1 - rows["auc"]).fillna(rows["error"])
    return _named(rows, absent)


def _where(cells: pd.Series, wrong: Mask) -> str:
    """` (row 3: 'many', ...)`, counted from 1 below the header."""
    shown = [f"row {i + 1}: {str(cells.iloc[i])!r}" for i in np.flatnonzero(wrong)[:NAMED]]
    more = int(wrong.sum()) - len(shown)
    return f" ({', '.join(shown)}{f' and {more} more' if more else ''})"


def _out_of_range(rows: pd.DataFrame) -> list[str]:
    problems = [
        f"{column} outside 0-1 ({rows[column].min():g} to {rows[column].max():g}); give shares, not percentages"
        for column in SHARES
        if ((rows[column] < 0) | (rows[column] > 1)).any()
    ]
    for column in ("auc_se", "accuracy_se"):
        if (negative := (rows[column] < 0).to_numpy()).any():
            problems.append(f"a standard error below zero in {column}{_where(rows[column], negative)}")
    if (infinite := np.isinf(rows["error"].to_numpy())).any():
        problems.append(f"no finite number in error{_where(rows['error'], infinite)}; leave a missing value empty")
    apart = ((1 - rows["auc"] - rows["error"]).abs() > 1e-9).to_numpy()
    if apart.any():
        problems.append(f"error is not 1 - auc{_where(rows['error'], apart)}; give one of the two, rename the other")
    unknown = sorted(set(rows["status"]) - set(STATUSES))
    if unknown:
        problems.append(f"unknown status {', '.join(map(repr, unknown))}; known: {', '.join(STATUSES)}")
    return problems


def _named(rows: pd.DataFrame, absent: Sequence[str]) -> pd.DataFrame:
    """With models, seeds, runs and trunks where the table names none."""
    if "model" in absent:
        rows["model"] = _words(rows["n_params"])
    if "run" in absent:
        training = [
            *TRAINING,
            *(["seed"] if "seed" not in absent else []),
            *(["trunk"] if "trunk" not in absent else []),
        ]
        if "seed" in absent:
            rows["seed"] = rows.groupby([*training, "task", "probe"], dropna=False).cumcount().astype(float)
            training = [*training, "seed"]
        group = rows.groupby(training, dropna=False, sort=False).ngroup()
        first = pd.Series(rows.index, index=rows.index).groupby(group).transform("min")
        rows["run"] = (first + 1).astype(str)
    elif "seed" in absent:
        runs = rows.drop_duplicates("run")
        counted = runs.groupby(CELL, dropna=False).cumcount().astype(float)
        rows["seed"] = rows["run"].map(dict(zip(runs["run"], counted, strict=True))).astype(float)
    rows["trunk"] = rows["trunk"].where(rows["trunk"] != "", rows["run"])
    return rows


def _words(sizes: pd.Series) -> pd.Series:
    """31.2M; as many digits as keep a size apart from all others."""
    known = sorted(set(sizes[np.isfinite(sizes) & (sizes > 0)]))
    words: dict[float, str] = {}
    for digits in range(3, 18):
        texts = {size: _short(size, digits) for size in known if size not in words}
        times = Counter(texts.values())
        words |= {size: text for size, text in texts.items() if times[text] == 1 or digits == 17}
    return sizes.map(lambda size: words.get(size, UNNAMED)).astype(object)


def _short(size: float, digits: int) -> str:
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:.{digits}g}{letter}"
    return f"{size:.{digits}g}"


def _exclusions(rows: pd.DataFrame, by_hand: Mask) -> list[str]:
    """Of each row the first reason that holds, in this order."""
    baseline = rows["algorithm"].isin(BASELINES)
    trained = rows[~baseline]
    needed = [column for column in ("n_params", "n_images") if trained[column].notna().any()]
    needed = needed or ["train_flops"]
    sized = (rows[needed].gt(0) & np.isfinite(rows[needed])).all(axis=1)
    reasons = [
        (rows["status"] == "failed", Exclusion.FAILED),
        (rows["status"] == "diverged", Exclusion.DIVERGED),
        (rows["status"] == "collapsed", Exclusion.COLLAPSED),
        (rows["error"].isna(), Exclusion.NO_METRIC),
        (rows.duplicated(["run", "task", "probe"]), Exclusion.REPEATED),
        (baseline, Exclusion.BASELINE),
        (~sized, Exclusion.NO_SIZE),
        (pd.Series(by_hand, index=rows.index), Exclusion.BY_HAND),
        (rows["holdout"], Exclusion.HELD_OUT),
    ]
    conditions = [condition.to_numpy() for condition, _ in reasons]
    return [str(reason) for reason in np.select(conditions, [reason.value for _, reason in reasons], Exclusion.KEPT)]


def _judge(rows: pd.DataFrame, rules: Rules) -> None:
    """Marks under-trained runs, then outliers among the rest."""
    if rules.under_trained is not None:
        mine = rows[rows["excluded"] == Exclusion.KEPT]
        share = pd.Series(np.nan, index=mine.index)
        for effort in (mine["images_seen"], mine["train_flops"] / mine["n_params"]):
            most = effort.groupby([mine[c] for c in ("algorithm", "mixture", "n_images")], dropna=False).transform(
                "max"
            )
            share = share.fillna(effort / most)
        rows.loc[share.index[share < rules.under_trained], "excluded"] = Exclusion.UNDER_TRAINED.value
    if rules.outlier is not None:
        mine = rows[(rows["excluded"] == Exclusion.KEPT) & (rows["error"] > 0)]
        logs = np.log(mine["error"])
        in_cell = logs.groupby([mine[c] for c in (*CELL, "n_params", "task", "probe")], dropna=False)
        distance = (logs - in_cell.transform("median")).abs()[in_cell.transform("size") >= FEWEST_SEEDS]
        spread = distance.where(distance > 0).groupby([mine["task"], mine["probe"]]).transform("median")
        rows.loc[distance.index[distance > rules.outlier * MAD * spread], "excluded"] = Exclusion.OUTLIER.value


def kept(rows: pd.DataFrame, probe: str = MAIN_PROBE) -> pd.DataFrame:
    """Rows that may be fitted, of one read-out."""
    return rows[(rows["excluded"] == Exclusion.KEPT) & (rows["probe"] == probe)]


def held_out(rows: pd.DataFrame, probe: str = MAIN_PROBE) -> pd.DataFrame:
    """Rows of one read-out to hold predictions against."""
    return rows[(rows["excluded"] == Exclusion.HELD_OUT) & (rows["probe"] == probe)]


def references(rows: pd.DataFrame, probe: str = MAIN_PROBE) -> pd.DataFrame:
    """Rows of the untrained baselines that have a metric."""
    return rows[(rows["excluded"] == Exclusion.BASELINE) & (rows["probe"] == probe)]


def accounting(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by use; their numbers add up to the table's. Kept rows of other read-outs are tabled, not fitted."""
    read_out = ("kept: " + rows["probe"] + " read-out").where(rows["excluded"] == Exclusion.KEPT)
    counts = read_out.fillna("excluded: " + rows["excluded"]).value_counts()
    return counts.rename_axis("rows").reset_index(name="number")


def without_result(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run that failed, diverged or collapsed, with its reason."""
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
    by_run = shared.groupby(["run", "trunk", *CELL, "seed", "n_params", "images_seen", "train_flops"], dropna=False)
    table = by_run.agg(error=("error", "mean"), n_tasks=("task", "nunique"), variance=("variance", "mean"))
    unknown = by_run["variance"].count() < table["n_tasks"]
    table["error_se"] = ((table["variance"] / table["n_tasks"]) ** 0.5).mask(unknown)
    return table.drop(columns="variance").reset_index()
