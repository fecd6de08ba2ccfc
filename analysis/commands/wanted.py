"""`--predict TABLE2.csv`: rows to be predicted, by the same map or by our own names, and the group each belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analysis.laws.law import Law
from analysis.points import Index, Matrix, Vector
from analysis.tables.columns import Reader, divide_shares, shares_of
from analysis.tables.mapping import Source
from analysis.tables.problems import InputError, unknown
from analysis.tables.reading import read
from analysis.tables.sheet import BOUNDED, Group, Sheet, input_tests, places, text_of, unusable
from analysis.tables.table import Table


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Rows of one table."""

    inputs: tuple[str, ...]
    """Without the category."""
    x: Matrix
    """(n, k), in a group (`placed`) with the category as its last column, where there is one."""
    y: Vector
    """(n,) NaN where nothing was measured."""
    unfit: tuple[str, ...]
    """(n,) why a row cannot be predicted; empty where it can."""
    numbers: tuple[int, ...]
    """(n,) 1 for the first row below the header."""
    keys: tuple[tuple[str, ...], ...] | None
    """(n,) the group of each row; None: every group predicts all."""
    across: str = ""
    """The column of categories, if any."""
    categories: tuple[str, ...] = ()
    """(n,) where there are any."""

    def chosen(self, index: Index) -> Wanted:
        return replace(
            self,
            x=self.x[index],
            y=self.y[index],
            unfit=tuple(self.unfit[i] for i in index),
            numbers=tuple(self.numbers[i] for i in index),
            keys=None if self.keys is None else tuple(self.keys[i] for i in index),
            categories=tuple(self.categories[i] for i in index) if self.across else (),
        )

    def placed(self, group: Group) -> Wanted:
        """As the group's law has them: without rows of its own a category is not predicted."""
        if not self.across:
            return self
        place = places(self.categories, group.categories)
        said = [
            f"{self.across}: {one!r} has no fitted row" if one else f"{self.across}: missing" for one in self.categories
        ]
        unfit = tuple(why or ("" if at else other) for why, at, other in zip(self.unfit, place, said, strict=True))
        return replace(self, x=np.column_stack([self.x, place]), unfit=unfit)

    def by_group(self) -> dict[tuple[str, ...], Wanted]:
        places: dict[tuple[str, ...], list[int]] = {}
        for i, key in enumerate(self.keys or ()):
            places.setdefault(key, []).append(i)
        return {key: self.chosen(np.array(index)) for key, index in places.items()}


def held_out(group: Group, inputs: tuple[str, ...], across: str = "") -> Wanted:
    """A group's own rows that were not fitted."""
    points = group.held_out
    return Wanted(
        inputs=inputs,
        x=points.x[:, : len(inputs)],
        y=points.y,
        unfit=("",) * len(points),
        numbers=group.held_out_rows,
        keys=None,
        across=across,
        categories=group.held_out_categories,
    ).placed(group)


def key_of(group: Group) -> tuple[str, ...]:
    return tuple(text_of(value) for value in group.key.values())


def read_wanted(path: Path, table: Table, fitted: Sheet, law: Law) -> Wanted:
    """Raises InputError. Without the `by` columns every group predicts every row; a target is welcome, not needed."""
    rows = read(path)
    problems: list[str] = []
    sources: dict[str, Source] = {}
    for name, source in fitted.sources.items():
        there = source if source.column in rows else Source(column=name) if name in rows else None
        if there is None:
            problems.append(f"{path}: {name}: {unknown('column', source.column, rows.columns)}; or call it {name}")
        else:
            sources[name] = there
    across = table.question.across
    if across and across not in rows:
        problems.append(f"{path}: no column {across!r} of --across: which category is each row of?")
    by = [name for name in table.question.by if name in rows]
    if by and len(by) < len(table.question.by):
        lacking = [name for name in table.question.by if name not in by]
        problems.append(f"{path}: no column {', '.join(map(repr, lacking))} of --by; give all of them, or none")
    if problems:
        raise InputError(problems)
    reader = Reader(rows=rows, taken=np.ones(len(rows), bool), where=str(path))
    x = reader.inputs(law.inputs, sources, table.question.flops_per)
    y = _measured(table, reader)
    if reader.problems:
        raise InputError(reader.problems)
    unfit = np.full(len(rows), "", object)
    for name, values in reversed(input_tests(law.inputs, sources, x, law.may_be_zero)):
        for reason, mask in unusable(values).items():
            unfit[mask] = f"{name}: {reason}"
    if len(shares := shares_of(law.inputs)):
        unfit[divide_shares(x, shares, fitted.whole) & (unfit == "")] = "shares do not add up"
    keys = tuple(tuple(map(text_of, row)) for row in rows[by].itertuples(index=False)) if by else None
    return Wanted(
        inputs=law.inputs,
        x=x,
        y=y,
        unfit=tuple(map(str, unfit)),
        numbers=tuple(range(1, len(rows) + 1)),
        keys=keys,
        across=across,
        categories=tuple(rows[across].map(text_of)) if across else (),
    )


def _measured(table: Table, reader: Reader) -> Vector:
    source = table.mapped[table.target]
    there = source if source.column in reader.rows else Source(column=table.target)
    if there.column not in reader.rows:
        return np.full(len(reader.rows), np.nan)
    values = reader.column(there)
    return 1 - values if table.target in BOUNDED else values


def unmatched(wanted: Wanted, found: Iterable[Group]) -> list[int]:
    """Numbers of rows of no group."""
    known = {key_of(group) for group in found}
    return [n for n, key in zip(wanted.numbers, wanted.keys or (), strict=False) if key not in known]
