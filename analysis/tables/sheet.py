"""A table -> what each of its rows is for, and the numbers a law is fitted to.

Every row has one fate: fitted, held out, or excluded for a reason; the counts add up. Cells that hold no number where
one is wanted are the user's to correct (InputError); numbers no law can use (zero, negative, infinite) exclude a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.points import Index, Matrix, Points, Vector, points
from analysis.tables.columns import Reader, divide_shares, shares_of, source_name, sources_of, usual_sum
from analysis.tables.mapping import Source
from analysis.tables.problems import InputError
from analysis.tables.table import ROW, Table

FITTED, HELD_OUT = 0, 1
"""Fates of rows that are used; others count through `Sheet.reasons`, from 2 on."""
BOUNDED = ("auc", "accuracy")
"""Targets that grow: fitted as the error 1 - value."""


@dataclass(frozen=True, kw_only=True)
class Fate:
    """Why rows are not used."""

    reason: str
    """missing | not finite | not positive | shares do not add up | excluded."""
    what: str
    """The column, or the words by which the user excluded them."""
    rows: tuple[int, ...]
    """Numbers of rows, 1 for the first below the header."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that one law is fitted to."""

    key: dict[str, Any]
    """Values of the `by` columns; empty where the table is one group."""
    fitted: Points
    held_out: Points
    fitted_rows: tuple[int, ...]
    held_out_rows: tuple[int, ...]
    excluded: tuple[Fate, ...]
    categories: tuple[str, ...] = ()
    """Those that have fitted rows, where there is a column of them; the last column of x is 1 for the first of these,
    and so on, and 0 for others of rows held out."""
    held_out_categories: tuple[str, ...] = ()
    """Of each row held out."""

    @property
    def left_out_by_user(self) -> bool:
        """Whether all its rows are."""
        return self.total == sum(len(fate.rows) for fate in self.excluded if fate.reason == "excluded")

    @property
    def total(self) -> int:
        return len(self.fitted) + len(self.held_out) + sum(len(fate.rows) for fate in self.excluded)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """The table as the inputs of one kind of law."""

    inputs: tuple[str, ...]
    sources: dict[str, Source]
    """Where the inputs come from; train_flops among them where one of N and D follows from it."""
    x: Matrix
    """(n, k), without the category."""
    y: Vector
    weights: Vector
    clusters: Index | None
    """None: by cell."""
    fate: Index
    """(n,) FITTED, HELD_OUT, or 2 + the place of the exclusion's reason."""
    reasons: tuple[tuple[str, str], ...]
    """(reason, what) as in `Fate`."""
    notes: tuple[str, ...]
    categories: tuple[str, ...] | None = None
    """(n,) the category of each row, empty where missing; None where there is no column of them."""
    whole: float = 1.0
    """What the shares of a row add up to in the table."""


def sheet(table: Table, inputs: Sequence[str], *, relative: bool, law: str, may_be_zero: Sequence[str] = ()) -> Sheet:
    """The numbers of a law with these inputs. `relative`: the objective is of logarithms. Raises InputError."""
    notes = list(table.notes)
    sources = sources_of(inputs, table, notes, law=law)
    reader = Reader(rows=table.rows, taken=~table.excluded, where=str(table.question.path))
    x = reader.inputs(inputs, sources, table.question.flops_per)
    value = reader.column(table.mapped[table.target])
    y = 1 - value if table.target in BOUNDED else value
    given = reader.column(table.weights) if table.weights else reader.column(table.se) if table.se else None
    if reader.problems:
        raise InputError(reader.problems)
    if table.target in BOUNDED:
        notes.append(f"{table.target} is fitted as the error 1 - {table.target}")
        if (value[~table.excluded] > 1).any():
            notes.append(f'{table.target} above 1: give shares, not percentages (--map "{table.target}=COLUMN/100")')
    tests = input_tests(inputs, sources, x, may_be_zero)
    tests.append((table.mapped[table.target].column if table.target not in BOUNDED else f"1 - {table.target}", y))
    if given is not None:
        tests.append(((table.weights or table.se or Source(column="")).column, given))
    taken, others = ~table.excluded, []
    shares, whole = shares_of(inputs), 1.0
    if len(shares):
        whole = usual_sum(x, shares, taken)
        names = ", ".join(source_name(inputs[i], sources) for i in shares)
        others.append(("shares do not add up", names, divide_shares(x, shares, whole)))
        if whole != 1:
            notes.append(f"the shares ({names}) add up to {whole:g}: they are taken as parts of that")
    categories = None
    if table.question.across:
        categories = tuple(table.rows[table.question.across].map(text_of))
        others.append(("missing", table.question.across, np.array([not one for one in categories])))
    fate, reasons = _fates(table, tests, others)
    weights = np.ones(len(y))
    if given is not None:
        with np.errstate(all="ignore"):
            weights = given if table.weights else (y / given) ** 2 if relative else given**-2.0
    return Sheet(
        inputs=tuple(inputs),
        sources=sources,
        x=x,
        y=y,
        weights=weights,
        clusters=_clusters(table),
        fate=fate,
        reasons=reasons,
        notes=tuple(notes),
        categories=categories,
        whole=whole,
    )


def input_tests(
    inputs: Sequence[str], sources: dict[str, Source], x: Matrix, may_be_zero: Sequence[str]
) -> list[tuple[str, Vector]]:
    """What must be positive of the inputs, by the name that a message gives it."""
    return [
        (source_name(name, sources), np.where(x[:, i] == 0, 1.0, x[:, i]) if name in may_be_zero else x[:, i])
        for i, name in enumerate(inputs)
    ]


def unusable(values: Vector) -> dict[str, NDArray[np.bool_]]:
    """Reasons to leave a row out; where several hold, the last counts."""
    with np.errstate(invalid="ignore"):
        return {"not positive": ~(values > 0), "not finite": ~np.isfinite(values), "missing": np.isnan(values)}


def _fates(
    table: Table, tests: list[tuple[str, Vector]], others: list[tuple[str, str, NDArray[np.bool_]]]
) -> tuple[Index, tuple[tuple[str, str], ...]]:
    """Of each row the first thing that keeps it out; what a user excludes is not looked at further."""
    reasons = [("excluded", table.question.exclude)]
    fate = np.where(table.trained, FITTED, HELD_OUT).astype(np.int64)
    tested = [(reason, name, mask) for name, values in reversed(tests) for reason, mask in unusable(values).items()]
    for reason, name, mask in [*others, *tested]:
        fate[mask] = 2 + len(reasons)
        reasons.append((reason, name))
    fate[table.excluded] = 2
    return fate, tuple(reasons)


def _clusters(table: Table) -> Index | None:
    how, rows = table.question.cluster, table.rows
    if how in rows:
        return pd.factorize(rows[how].map(text_of))[0].astype(np.int64)
    return np.arange(len(rows), dtype=np.int64) if how == ROW else None


def groups(table: Table, numbers_of: Sheet) -> list[Group]:
    """In the order in which they first appear; a missing value of a `by` column makes a group of its own."""
    by = list(table.question.by)
    if not by:
        return [_group({}, np.arange(len(table.rows)), numbers_of)]
    keys = table.rows[by].map(text_of)
    found = keys.groupby(by, sort=False, dropna=False).indices
    ordered = sorted(found.values(), key=lambda index: index[0])
    return [_group(key_of(table.rows, by, index[0]), np.sort(index), numbers_of) for index in ordered]


def key_of(rows: pd.DataFrame, by: Iterable[str], row: int) -> dict[str, Any]:
    return {name: plain(rows[name].iloc[row]) for name in by}


def plain(cell: Any) -> Any:
    """A cell as JSON has it: None where missing, a text, a number."""
    if cell is None or cell is pd.NA or (isinstance(cell, float) and not np.isfinite(cell)):
        return None
    cell = cell.item() if isinstance(cell, np.generic) else cell
    return cell if isinstance(cell, str | int | float | bool) else str(cell)


def text_of(cell: Any) -> str:
    return "" if (found := plain(cell)) is None else str(found)


def _group(key: dict[str, Any], index: Index, numbers_of: Sheet) -> Group:
    fate = numbers_of.fate[index]
    fitted, held_out = index[fate == FITTED], index[fate == HELD_OUT]
    excluded = []
    for which in np.unique(fate[fate > HELD_OUT]):
        reason, what = numbers_of.reasons[which - 2]
        excluded.append(Fate(reason=reason, what=what, rows=tuple((index[fate == which] + 1).tolist())))
    all_categories, names = numbers_of.categories, tuple[str, ...]()
    if all_categories is not None:
        names = tuple(dict.fromkeys(all_categories[i] for i in fitted))
    return Group(
        key=key,
        fitted=points_of(numbers_of, fitted, names),
        held_out=points_of(numbers_of, held_out, names),
        fitted_rows=tuple((fitted + 1).tolist()),
        held_out_rows=tuple((held_out + 1).tolist()),
        excluded=tuple(excluded),
        categories=names,
        held_out_categories=() if all_categories is None else tuple(all_categories[i] for i in held_out),
    )


def places(categories: Iterable[str], names: Sequence[str]) -> Vector:
    """(n,) 1 for the first of the names, and so on; 0 for any other."""
    place = {name: i + 1.0 for i, name in enumerate(names)}
    return np.array([place.get(one, 0.0) for one in categories])


def points_of(numbers_of: Sheet, index: Index, names: Sequence[str]) -> Points:
    x, weights = numbers_of.x[index], numbers_of.weights[index]
    if numbers_of.categories is not None:  # a column of x, so that rows of two categories are never one cell
        x = np.column_stack([x, places((numbers_of.categories[i] for i in index), names)])
    with np.errstate(all="ignore"):
        weights = weights / weights.mean() if len(weights) else weights  # the mean row weighs 1, whatever the unit
    clusters = None if numbers_of.clusters is None else numbers_of.clusters[index]
    return points(x, numbers_of.y[index], weights=weights, clusters=clusters)
