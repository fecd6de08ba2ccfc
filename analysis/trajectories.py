"""AUC along training: what runs still gained in their last quarter, and whether the order of algorithms had settled.

A law over few epochs ranks algorithms by how fast they converge; end points alone do not show it. The input is a table
as `scaling.records.TRAJECTORY_COLUMNS`, a sweep's or anybody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.points import Matrix
from analysis.tables.cells import numbers
from analysis.tables.problems import InputError
from analysis.tables.reading import read
from scaling.records import TRAJECTORY_COLUMNS

SERIES = ["algorithm", "mixture", "n_images", "model"]
"""What runs share that differ in their seed alone."""
CELL = ["mixture", "n_images", "model"]
"""Where algorithms are compared."""
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of a run's budget."""
LAST = 0.75
"""Where the last quarter begins."""
NEAR = 0.05
"""How far after a share the first read-out may lie and still stand for it."""
WHOLE = 0.999
"""Progress from which a run is over."""
FLAT = 0.005
"""AUC a quarter within which the interval of a flat series lies."""
FEWEST_DF = 4
"""Degrees of freedom over seeds and tasks below which the scatter of read-outs about their lines stands in."""
UNNAMED = "unnamed"
DEFAULTS: dict[str, Any] = {"mixture": "all", "model": UNNAMED, "seed": 0}
"""Of whole columns that a table lacks; progress follows from images_seen, other numbers are NaN."""


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    rows: pd.DataFrame
    """The whole table, checked."""
    aucs: pd.DataFrame
    """Read-outs of whole runs on `tasks`: columns of the table."""
    losses: pd.DataFrame
    """Loss of whole runs, one row per run x point."""
    tasks: tuple[str, ...]
    """Followed in every run of `aucs`."""
    left_out: dict[str, int]
    """Why -> how many runs."""


def trajectories(table: pd.DataFrame | Path) -> Trajectories:
    """Raises InputError, a ValueError, with all that makes it no table of trajectories.

    Runs that are under way or ended before their budget are left out. Tasks are those that all runs were followed on;
    where there is none, the one that most runs have, and the other runs are left out.
    """
    rows = checked(table)
    over = rows.groupby("run")["progress"].transform("max") >= WHOLE
    whole = rows[over]
    aucs = whole[whole["auc"].notna()]
    by_task = aucs.groupby("task")["run"].nunique().sort_values(ascending=False, kind="stable")
    tasks = sorted(by_task.index[by_task == aucs["run"].nunique()]) or list(by_task.index[:1])
    followed = aucs[aucs["task"].isin(tasks)]
    left_out = {
        "under way, or ended before its budget": rows.loc[~over, "run"].nunique(),
        "without online read-outs": whole["run"].nunique() - aucs["run"].nunique(),
        "followed on other tasks": aucs["run"].nunique() - followed["run"].nunique(),
    }
    return Trajectories(
        rows=rows,
        aucs=followed,
        losses=whole[whole["loss"].notna()].drop_duplicates(["run", "images_seen"]),
        tasks=tuple(map(str, tasks)),
        left_out={why: n for why, n in left_out.items() if n},
    )


def checked(table: pd.DataFrame | Path) -> pd.DataFrame:
    """Every column of `TRAJECTORY_COLUMNS` with its type. Raises InputError."""
    given = read(table) if isinstance(table, Path) else table.reset_index(drop=True)
    where = str(table) if isinstance(table, Path) else "trajectories"
    needed = {"run", "algorithm", "images_seen"}
    problems = [f"{where}: no column {name}" for name in sorted(needed - set(given))]
    if not {"auc", "loss"} & set(given):
        problems.append(f"{where}: no column auc, nor loss; the table has {', '.join(map(str, given)) or 'none'}")
    if problems:
        raise InputError(problems)
    rows = given.assign(**{name: value for name, value in DEFAULTS.items() if name not in given})
    rows = rows.reindex(columns=list(TRAJECTORY_COLUMNS))
    for name in ("run", "model", "algorithm", "mixture", "task"):
        rows[name] = rows[name].astype(object).where(rows[name].notna(), "").astype(str)
    for name in ("n_images", "seed", "n_params", "images_seen", "progress", "auc", "loss"):
        found, strange = numbers(rows[name])
        if strange.any():
            first = int(np.flatnonzero(strange)[0])
            problems.append(f"{where}: no number in {name} (row {first + 1}: {str(rows[name].iloc[first])!r})")
        rows[name] = found
    if ((rows["auc"] < 0) | (rows["auc"] > 1)).any():
        problems.append(f"{where}: auc outside 0-1 ({rows['auc'].min():g} to {rows['auc'].max():g})")
    if problems:
        raise InputError(problems)
    rows["task"] = rows["task"].mask(rows["auc"].notna() & (rows["task"] == ""), UNNAMED)
    reached = rows["images_seen"] / rows.groupby("run")["images_seen"].transform("max")
    return rows.assign(progress=rows["progress"].fillna(reached))


def paths(found: Trajectories) -> pd.DataFrame:
    """One row per run x task: its series, its AUC at `SHARES` (auc_25, ...), and its `gain` over the last quarter.

    The gain is the slope of the least-squares line through the read-outs from the last one at or before 75 % on, times
    a quarter; `squares` are the line's residuals, `df` their degrees of freedom, and `weight` is the gain's variance
    over that of one residual. What too few read-outs cannot tell is NaN.
    """
    ordered = found.aucs.sort_values(["run", "task", "progress"], kind="stable")
    first = ordered.drop_duplicates(["run", "task"])
    starts = np.flatnonzero(~ordered.duplicated(["run", "task"]).to_numpy())
    pieces = np.split(ordered[["progress", "auc"]].to_numpy(float), starts[1:])
    read_off = pd.DataFrame([_read_off(piece) for piece in pieces] if len(first) else [], columns=READ_OFF)
    return first[["run", "task", *SERIES, "n_params", "seed"]].reset_index(drop=True).join(read_off)


AT = tuple(f"auc_{100 * share:.0f}" for share in SHARES)
LAST_QUARTER = [f"last_quarter{end}" for end in ("", "_se", "_low", "_high")]
READ_OFF = [*AT, "gain", "squares", "df", "weight"]


def _read_off(path: Matrix) -> list[float]:
    """`READ_OFF` of (n, 2) progress and AUC in order."""
    at, auc = path.T
    read = [float(np.interp(share, at, auc)) if at[0] <= share + NEAR else np.nan for share in SHARES]
    begin = max(int(np.searchsorted(at, LAST + 1e-9, side="right")) - 1, 0)
    x, y = at[begin:] - at[begin:].mean(), auc[begin:] - auc[begin:].mean()
    if len(x) < 2 or not (sum_x := float(x @ x)) > 0:
        return [*read, np.nan, 0.0, 0, np.nan]
    slope = float(x @ y) / sum_x
    residuals = y - slope * x
    return [*read, slope * (1 - LAST), float(residuals @ residuals), len(x) - 2, (1 - LAST) ** 2 / sum_x]


def ends(of: pd.DataFrame) -> pd.DataFrame:
    """One row per series: mean AUC at `SHARES`, the gain over the last quarter with its error, and a verdict.

    `of` as `paths`. The gain's standard error takes its scatter over seeds and tasks to be that of all series of the
    algorithm; below `FEWEST_DF` degrees of freedom the scatter of read-outs about their lines stands in. The interval
    is Student's t.
    """
    means = {name: (name, "mean") for name in AT}
    table = (
        of.groupby(SERIES, dropna=False)
        .agg(
            n_params=("n_params", "first"),
            seeds=("run", "nunique"),
            tasks=("task", "nunique"),
            **means,
            last_quarter=("gain", "mean"),
            gains=("gain", "count"),
            weight=("weight", "sum"),
            runs=("run", lambda runs: " ".join(sorted(set(runs)))),
        )
        .reset_index()
    )
    found = {name: _scatter(of[of["algorithm"] == name]) for name in table["algorithm"].unique()}
    scatter = pd.DataFrame([found[name] for name in table["algorithm"]], columns=["variance", "df", "of_lines"])
    summed = np.where(scatter["of_lines"].astype(bool), table["weight"], table["gains"])
    n = table["gains"].where(table["gains"] > 0)
    table["last_quarter_se"] = np.sqrt(scatter["variance"] * summed) / n
    half = stats.t.ppf(0.975, scatter["df"].where(scatter["df"] > 0)) * table["last_quarter_se"]
    table["last_quarter_low"], table["last_quarter_high"] = table["last_quarter"] - half, table["last_quarter"] + half
    table["verdict"] = [verdict(*three) for three in table[["last_quarter", *LAST_QUARTER[2:]]].to_numpy(float)]
    columns = [*SERIES, "verdict", *LAST_QUARTER, *AT, "seeds", "tasks", "n_params", "runs"]
    return table.sort_values(["algorithm", "mixture", "n_images", "n_params", "model"], ignore_index=True)[columns]


def _scatter(family: pd.DataFrame) -> tuple[float, int, bool]:
    """Variance of one gain of an algorithm and its degrees of freedom, or of one read-out, which the last says."""
    told = family[family["gain"].notna()]
    variance, df = _within(told, "gain", SERIES)
    of_lines = int(told["df"].sum())
    if df >= FEWEST_DF or not of_lines:
        return variance, df, False
    return float(told["squares"].sum()) / of_lines, of_lines, True


def _within(rows: pd.DataFrame, column: str, by: list[str]) -> tuple[float, int]:
    """Variance of `column` within groups, pooled, and its degrees of freedom; NaN where these are none."""
    groups = rows.groupby(by, dropna=False)
    residuals = (rows[column] - groups[column].transform("mean")).to_numpy(float)
    df = len(rows) - groups.ngroups
    return (float(residuals @ residuals) / df if df else np.nan), df


RISING, FALLING, NOT_TOLD = "still rising", "falling", "not told from flat"


def verdict(gain: float, low: float, high: float) -> str:
    """In words, from the gain over the last quarter and its interval; ends may be NaN."""
    if np.isnan(gain):
        return "of too few read-outs to tell"
    if np.isnan(low):
        return f"{NOT_TOLD}: no interval"
    if low > -FLAT and high < FLAT:
        return "flat"
    return RISING if low > 0 else FALLING if high < 0 else NOT_TOLD


def pairs(of: pd.DataFrame) -> pd.DataFrame:
    """One row per two algorithms and place where both ran: by how much `first` is ahead of `second` at half the budget
    and at its end, in AUC, over the tasks and seeds of both, with 95 % intervals.

    `first` is the one ahead at the end. The scatter of a difference over tasks and seeds is taken to be the same in all
    places of the two algorithms. `changed`: whether the other one was ahead at half, `sure` if at both moments beyond
    its interval.
    """
    rows = []
    for one, other in combinations(sorted(of["algorithm"].unique()), 2):
        both = _both(of, one, other)
        if both.empty:
            continue
        spread = {}
        for moment in ("half", "end"):
            variance, df = _within(both, moment, CELL)
            spread[moment] = np.sqrt(variance) * float(stats.t.ppf(0.975, df)) if df else np.nan
        for key, mine in both.groupby(CELL, dropna=False):
            half, end = float(mine["half"].mean()), float(mine["end"].mean())
            sign = 1 if end >= 0 else -1
            around = {moment: width / np.sqrt(len(mine)) for moment, width in spread.items()}
            beyond = abs(half) > around["half"] and abs(end) > around["end"]
            rows.append(
                {
                    **dict(zip(CELL, key, strict=True)),
                    "first": one if sign > 0 else other,
                    "second": other if sign > 0 else one,
                    "ahead_at_half": sign * half,
                    "ahead_at_half_low": sign * half - around["half"],
                    "ahead_at_half_high": sign * half + around["half"],
                    "ahead_at_end": sign * end,
                    "ahead_at_end_low": sign * end - around["end"],
                    "ahead_at_end_high": sign * end + around["end"],
                    "changed": "no" if sign * half >= 0 else "sure" if beyond else "within noise",
                }
            )
    columns = [*CELL, "first", "second", "changed"]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def _both(of: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """Differences one - other at `half` and `end`, a row per place, seed and task that both have."""
    on = [*CELL, "seed", "task"]
    ours, theirs = (of.loc[of["algorithm"] == name, [*on, "auc_50", "auc_100"]] for name in (one, other))
    both = ours.merge(theirs, on=on, suffixes=("", "_other"))
    told = both.assign(half=both["auc_50"] - both["auc_50_other"], end=both["auc_100"] - both["auc_100_other"])
    return told[told["half"].notna() & told["end"].notna()]


def order(of: pd.DataFrame) -> pd.DataFrame:
    """Mean AUC of each algorithm at half the budget and at its end, `half` and `end`, over the places, seeds and tasks
    that all have, best at the end first; empty where there are none or fewer than two algorithms.
    """
    on = [*CELL, "seed", "task"]
    told = of[of["auc_50"].notna() & of["auc_100"].notna()]
    n = told.groupby(on, dropna=False)["algorithm"].transform("nunique")
    everywhere = told[n == of["algorithm"].nunique()]
    if of["algorithm"].nunique() < 2 or everywhere.empty:
        return pd.DataFrame(columns=["algorithm", "half", "end", "places"])
    places = everywhere.drop_duplicates(CELL).shape[0]
    means = everywhere.groupby("algorithm").agg(half=("auc_50", "mean"), end=("auc_100", "mean")).reset_index()
    return means.assign(places=places).sort_values("end", ascending=False, ignore_index=True)
