"""Does a property of a task go with what the task gains from scale? Correlations with the doubt they deserve.

Any table of benefits against any table of features. Tasks are few (12 in the reference study) and each benefit is
itself measured with an error. That error weakens every correlation with the benefits as measured; `corrected` is the
correlation with the true benefits, by dividing by the square root of their reliability (Spearman 1904). Measured
coverage of its nominal 95 %: 94-98 % of 8, 12 and 30 tasks, reliability .8 and .6, standard errors of one or two
degrees of freedom, refusals counted as covering; the interval not corrected covers the true correlation in 56-97 %.
p-values come from permutations; the false-discovery rate is held over all features x algorithms tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import association
from analysis.association import ALL_PERMUTATIONS as ALL_PERMUTATIONS  # for the answers in words
from analysis.association import MIN_RELIABILITY, benjamini_hochberg
from analysis.association import detectable as detectable
from analysis.points import Matrix, Vector

FEWEST = 4
"""Tasks below which no correlation is computed: three points correlate with anything."""
LOGARITHM = "log10 "
"""Before a feature's name: its decimal logarithm; a task where it is not positive then has none."""
Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """The columns of `correlate`, after `feature` and those of `by`. Every interval is of 95 %."""

    n_tasks: int
    """With both numbers."""
    pearson: float
    """With the benefits as measured."""
    pearson_low: float
    pearson_high: float
    """Of the population that the tasks are taken from, benefits measured as well as these."""
    reliability: float
    """Share of the benefits' variance over tasks that is not their own error; NaN without standard errors."""
    corrected: float
    """Pearson's r with the true benefits, those without an error of their own; cut at 1. NaN where `corrected_status`
    says why."""
    corrected_low: float
    corrected_high: float
    corrected_status: str
    spearman: float
    spearman_low: float
    spearman_high: float
    kendall: float
    """tau-b."""
    kendall_low: float
    kendall_high: float
    p: float
    """Of Pearson's r, two-sided permutation test."""
    p_spearman: float
    """The same of the ranks."""
    p_kendall: float
    q: float
    """Benjamini-Hochberg over all features x algorithms; below .05 the pair survives."""
    p_family: float
    """That the strongest of all pairs would be as strong if nothing went together (max |r| over joint permutations)."""
    control: str
    partial: float
    """Pearson's r at equal `control`, which is held by a straight line."""
    partial_low: float
    partial_high: float
    """Fisher's."""
    partial_p: float
    """By Student's t."""
    without_low: float
    without_high: float
    """Least and greatest Pearson's r with one task left out."""
    influential: str
    """The task without which r changes most."""
    detectable: float
    """Least |r| that so many tasks can call significant in a single test."""
    detectable_80: float
    """Least true |r| that so many tasks call significant four times in five."""
    status: str
    """Empty, or why there is no number."""


NUMBERS = [name for name, kind in Correlation.__annotations__.items() if kind == "float"]


@dataclass(frozen=True, kw_only=True)
class _Group:
    """One series of benefits, on the tasks that both tables may have."""

    key: tuple[str, ...]
    values: Vector
    """(n_tasks,) NaN where there is none."""
    se: Vector


def correlate(
    benefits: pd.DataFrame,
    tasks: pd.DataFrame,
    *,
    column: str = "exponent",
    by: Sequence[str] | None = None,
    features: Iterable[str] | None = None,
    key: str = "task",
    se: str | None = None,
    control: str | None = "samples",
    seed: int = 0,
) -> pd.DataFrame:
    """Every feature against every series of benefits; one row a pair, those without an answer included.

    benefits: one row per task and series, the benefit in `column`, its standard error in `se`; without `se`, in
        `<column>_se` or from `<column>_low` and `<column>_high` (95 %, normal) where the table has them.
    tasks: one row per task with the features' columns.
    by: the columns that tell series apart; None is algorithm, where the table has it.
    features: names of columns of `tasks`; None is all numeric ones. "log10 samples" is the logarithm of samples.
    control: the feature held in partial correlations; None for none.
    Tasks without a benefit or without the feature are in no pair; `n_tasks` counts the rest. Raises ValueError where a
    column is missing or a task has several rows in a series.
    """
    by = [name for name in ("algorithm",) if name in benefits] if by is None else list(by)
    _check(benefits, tasks, key, column, by, se)
    named = tasks.assign(**{key: tasks[key].astype(str)}).set_index(key)
    names = numeric_columns(named, without=(*by, column)) if features is None else list(features)
    groups = list(_groups(benefits, named.index, key, column, by, se))
    held = feature_numbers(named, control) if control else None
    pairs = _Pairs(
        tasks=[str(name) for name in named.index],
        features=names,
        x=np.array([feature_numbers(named, name) for name in names]).reshape(len(names), len(named)),
        present=[name.removeprefix(LOGARITHM) in named or name in named for name in names],
        groups=groups,
        control=control if control and np.isfinite(feature_numbers(named, control)).any() else "",
        held=np.full(len(named), np.nan) if held is None else held,
        seed=seed,
    )
    return pairs.table(by)


def numeric_columns(tasks: pd.DataFrame, *, without: Iterable[str] = ()) -> list[str]:
    """Columns that hold nothing but numbers or nothing; one that is empty all over is not among them."""
    found = []
    for name in tasks.columns.difference(list(without), sort=False):
        numbers = pd.to_numeric(tasks[name], errors="coerce")
        if numbers.notna().any() and (numbers.notna() | tasks[name].isna() | (tasks[name].astype(str) == "")).all():
            found.append(str(name))
    return found


def _check(
    benefits: pd.DataFrame, tasks: pd.DataFrame, key: str, column: str, by: Sequence[str], se: str | None
) -> None:
    problems = [
        f"{table}: no column {name}; the table has {', '.join(map(str, rows))}"
        for table, rows, wanted in (
            ("benefits", benefits, [key, column, *by, *([se] if se else [])]),
            ("features", tasks, [key]),
        )
        for name in wanted
        if name not in rows
    ]
    if problems:
        raise ValueError("\n".join(problems))
    repeated = {
        f"benefits: several rows of a {key} in one series": benefits[benefits.duplicated([*by, key])],
        f"features: several rows of a {key}": tasks[tasks.duplicated([key])],
    }
    problems = [
        f"{what} ({', '.join(sorted(set(rows[key].astype(str)))[:5])}); "
        + ("give each once" if "features" in what else f"series are told apart by {', '.join(by) or 'nothing'}")
        for what, rows in repeated.items()
        if len(rows)
    ]
    if problems:
        raise ValueError("\n".join(problems))


def feature_numbers(tasks: pd.DataFrame, name: str) -> Vector:
    """A feature of every task, NaN where it has none."""
    if name not in tasks and name.startswith(LOGARITHM):
        plain = feature_numbers(tasks, name.removeprefix(LOGARITHM))
        return np.log10(np.where(plain > 0, plain, np.nan))
    if name not in tasks:
        return np.full(len(tasks), np.nan)
    return _finite(tasks[name])


def _finite(column: pd.Series) -> Vector:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _groups(
    benefits: pd.DataFrame, order: pd.Index, key: str, column: str, by: Sequence[str], se: str | None
) -> Iterable[_Group]:
    rows = pd.DataFrame({key: benefits[key].astype(str), "value": _finite(benefits[column])})
    rows["se"] = _standard_errors(benefits, column, se)
    series = [benefits[name].astype(str) for name in by]
    for name, mine in rows.groupby(series, sort=True) if by else [((), rows)]:
        placed = mine.set_index(key).reindex(order)
        yield _Group(key=tuple(map(str, name)), values=placed["value"].to_numpy(float), se=placed["se"].to_numpy(float))


def _standard_errors(benefits: pd.DataFrame, column: str, se: str | None) -> Vector:
    if se or f"{column}_se" in benefits:
        return _finite(benefits[se or f"{column}_se"])
    if {f"{column}_low", f"{column}_high"} <= set(benefits):
        return (_finite(benefits[f"{column}_high"]) - _finite(benefits[f"{column}_low"])) / (2 * Z95)
    return np.full(len(benefits), np.nan)


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """All features against all series; those on the same tasks are computed together."""

    tasks: list[str]
    features: list[str]
    x: Matrix
    """(F, n_tasks) NaN where a task has none."""
    present: list[bool]
    groups: list[_Group]
    control: str
    """Empty for none."""
    held: Vector
    """(n_tasks,) the control."""
    seed: int

    def table(self, by: Sequence[str]) -> pd.DataFrame:
        cells: dict[tuple[int, int], dict[str, object]] = {}
        patterns: dict[tuple[int, bytes], list[int]] = {}
        for g, group in enumerate(self.groups):
            for f in range(len(self.features)):
                both = np.isfinite(self.x[f]) & np.isfinite(group.values)
                status = self._unanswered(f, g, both)
                cells[g, f] = self._empty(int(both.sum()), status)
                if not status:
                    patterns.setdefault((g, both.tobytes()), []).append(f)
        for (g, mask), rows in patterns.items():
            both = np.frombuffer(mask, bool)
            for f, found in zip(rows, self._answers(self.groups[g], rows, both), strict=True):
                cells[g, f] |= found
        self._family(cells)
        keys = [{"feature": self.features[f], **dict(zip(by, self.groups[g].key, strict=True))} for g, f in cells]
        columns = ["feature", *by, *Correlation.__annotations__]
        table = pd.DataFrame([name | cell for name, cell in zip(keys, cells.values(), strict=True)], columns=columns)
        table[NUMBERS] = table[NUMBERS].astype(float)
        answered = table["p"].notna()
        table.loc[answered, "q"] = benjamini_hochberg(table.loc[answered, "p"].to_numpy(float))
        return table

    def _unanswered(self, f: int, g: int, both: NDArray[np.bool_]) -> str:
        if not self.present[f]:
            return "the task table has no such column"
        if both.sum() < FEWEST:
            return f"tasks with both numbers: {both.sum()}; at least {FEWEST} are needed"
        for values, what in ((self.x[f], "feature"), (self.groups[g].values, "benefit")):
            if not association.spread(values[both]):
                return f"no spread: the {what} is the same for all tasks"
        return ""

    def _empty(self, n: int, status: str) -> dict[str, object]:
        words = {"corrected_status": status, "control": self.control, "influential": "", "status": status}
        power = {"detectable": detectable(n), "detectable_80": detectable(n, power=0.8)} if not status else {}
        return {"n_tasks": n, **dict.fromkeys(NUMBERS, np.nan), **words, **power}

    def _answers(self, group: _Group, rows: list[int], both: NDArray[np.bool_]) -> list[dict[str, object]]:
        """Of features on the same tasks, each against one series."""
        x, y, n = self.x[rows][:, both], group.values[both], int(both.sum())
        ranked = association.ranks(x), association.ranks(y)
        r, rho, tau = association.pearson(x, y), association.pearson(*ranked), association.kendall(x, y)
        without = association.leave_one_out(x, y)
        ends = association.pearson_interval(r, without)
        most = np.abs(without - r[:, None]).argmax(1)
        names = [self.tasks[i] for i in np.flatnonzero(both)]
        columns: dict[str, Sequence[object] | Vector] = {
            **_interval("pearson", r, ends),
            **_corrected(r, ends, y, group.se[both]),
            **_interval("spearman", rho, association.normal_interval(rho, n, kind="spearman")),
            **_interval("kendall", tau, association.normal_interval(tau, n, kind="kendall")),
            "p": association.permutation_p(x, y[None], seed=self.seed)[:, 0],
            "p_spearman": association.permutation_p(ranked[0], ranked[1][None], seed=self.seed)[:, 0],
            "p_kendall": association.kendall_p(x, y),
            **self._partial(x, y, both),
            "without_low": without.min(1),
            "without_high": without.max(1),
            "influential": [names[i] for i in most],
        }
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _partial(self, x: Matrix, y: Vector, both: NDArray[np.bool_]) -> dict[str, Vector]:
        """NaN where a task of the pair lacks the control, and for the control itself."""
        held, n = self.held[both], int(both.sum())
        r = np.full(len(x), np.nan)
        if np.isfinite(held).all() and association.spread(held) and n > FEWEST:
            r = association.partial(x, y, held)
        ends = association.normal_interval(r, n - 1)
        return {**_interval("partial", r, ends), "partial_p": association.t_p(r, n - 3)}

    def _family(self, cells: dict[tuple[int, int], dict[str, object]]) -> None:
        """Over the tasks that any pair uses."""
        tested = np.array([[not cells[g, f]["status"] for g in range(len(self.groups))] for f in range(len(self.x))])
        if not tested.any():
            return
        y = np.stack([group.values for group in self.groups])
        used = np.isfinite(self.x[tested.any(1)]).any(0) & np.isfinite(y[tested.any(0)]).any(0)
        p = association.family_p(self.x[:, used], y[:, used], tested, seed=self.seed)
        for (g, f), cell in cells.items():
            cell["p_family"] = p[f, g]


def _interval(name: str, value: Vector, ends: tuple[Vector, Vector]) -> dict[str, Vector]:
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}


def _corrected(r: Vector, ends: tuple[Vector, Vector], y: Vector, se: Vector) -> dict[str, Vector | list[str]]:
    """r and its interval divided by the square root of the benefits' reliability, cut at -1 and 1."""
    missing = int((~np.isfinite(se)).sum())
    share = np.nan if missing else float(association.reliability(y, se))
    status = ""
    if missing:
        status = f"benefits without a standard error: {missing} of {len(y)}"
    elif share < MIN_RELIABILITY:
        status = f"the benefits' own errors explain {min(1.0, 1 - share):.0%} of their spread over tasks"
    scale = np.nan if status else share**-0.5
    r, low, high = (np.clip(value * scale, -1.0, 1.0) for value in (r, *ends))
    return {
        "reliability": np.full(len(r), share),
        **_interval("corrected", r, (low, high)),
        "corrected_status": [status] * len(r),
    }
