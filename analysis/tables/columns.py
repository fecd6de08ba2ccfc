"""Which columns a law's inputs come from, and those columns as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.points import Index, Matrix, Vector
from analysis.tables.cells import numbers
from analysis.tables.mapping import Source
from analysis.tables.problems import InputError
from analysis.tables.table import INPUTS, SHARE, Table

ROUNDED = 0.02
"""Relative departure of a row's shares from their usual sum that is taken for rounding."""
MOST_NAMED = 5
"""Rows that a message names."""


@dataclass(kw_only=True)
class Reader:
    """Columns of a table as numbers, each read once; `problems` collects the cells that hold none."""

    rows: pd.DataFrame
    taken: NDArray[np.bool_]
    """(n,) rows whose cells matter."""
    where: str
    """The table's name in messages."""
    problems: list[str] = field(default_factory=list)
    read: dict[Source, Vector] = field(default_factory=dict)

    def column(self, source: Source) -> Vector:
        """(n,) in the law's unit; NaN where missing."""
        if source not in self.read:
            values, strange = numbers(self.rows[source.column])
            bad = np.flatnonzero(strange & self.taken)
            if len(bad):
                self.problems.append(f"{self.where}: {_no_numbers(self.rows[source.column], source.column, bad)}")
            with np.errstate(over="ignore"):
                self.read[source] = values * source.factor
        return self.read[source]

    def inputs(self, names: Sequence[str], sources: dict[str, Source], flops_per: float) -> Matrix:
        """(n, k); of N and D the one without a source follows from C."""
        return np.column_stack([self._input(name, sources, flops_per) for name in names])

    def _input(self, name: str, sources: dict[str, Source], flops_per: float) -> Vector:
        if name in sources:
            return self.column(sources[name])
        other = sources["n_params" if name == "n_images" else "n_images"]
        with np.errstate(all="ignore"):
            return np.asarray(self.column(sources["train_flops"]) / (flops_per * self.column(other)), np.float64)


def _no_numbers(cells: pd.Series, name: str, bad: Index) -> str:
    named = ", ".join(f"row {i + 1} ({str(cells.iloc[i])[:30]!r})" for i in bad[:MOST_NAMED])
    more = f" and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
    return (
        f"column {name!r}: no number in {named}{more}; "
        "leave a missing value empty, correct the cells, or leave the rows out with --exclude"
    )


def sources_of(inputs: Sequence[str], table: Table, notes: list[str], *, law: str) -> dict[str, Source]:
    """Where the inputs come from, by name; train_flops among them where one of N and D follows from it."""
    mapped, columns, where = table.mapped, list(table.rows.columns), str(table.question.path)
    flops_per = table.question.flops_per
    found: dict[str, Source] = {}
    missing = []
    for name in inputs:
        if name == "x":
            found[name] = _only_input(mapped, columns, notes, law=law, where=where)
        elif name in mapped:
            found[name] = mapped[name]
        elif name in columns:
            found[name] = Source(column=name)
            notes.append(f"column {name!r} is taken as it is called")
        elif name == "n_images" and "images_seen" in mapped and "images_seen" not in inputs:
            found[name] = mapped["images_seen"]
            notes.append("n_images is not mapped: images_seen stands for it, as if none were seen twice")
        else:
            missing.append(name)
    flops = mapped.get("train_flops") or (Source(column="train_flops") if "train_flops" in columns else None)
    both = {"n_params": "N", "n_images": "D"}
    if flops and len(missing) == 1 and missing[0] in both and both.keys() <= set(inputs):
        lacking, other = missing[0], both["n_images" if missing[0] == "n_params" else "n_params"]
        notes.append(f"{lacking} is not mapped: {both[lacking]} = C / ({flops_per:g} {other}), C = {flops}")
        return {**found, "train_flops": flops}
    if missing:
        raise InputError(
            f"{where}: --map: the law {law} needs {', '.join(missing)}, which nothing is mapped to; "
            f"add {', '.join(f'{name}=COLUMN' for name in missing)}; columns: {', '.join(columns)}"
        )
    return found


def _only_input(mapped: dict[str, Source], columns: list[str], notes: list[str], *, law: str, where: str) -> Source:
    """Of a law of one input: x, else the only input that is mapped."""
    if "x" in mapped:
        return mapped["x"]
    found = [name for name in INPUTS if name in mapped]
    if len(found) == 1:
        notes.append(f"the law's x is {found[0]} ({mapped[found[0]]})")
        return mapped[found[0]]
    if not found and "x" in columns:
        notes.append("column 'x' is taken as it is called")
        return Source(column="x")
    which = f"several inputs are mapped ({', '.join(found)})" if found else "no input is mapped"
    raise InputError(
        f"{where}: --x: the law {law} has one input and {which}; say which with"
        f" --x COLUMN; columns: {', '.join(columns)}"
    )


def shares_of(inputs: Sequence[str]) -> Index:
    """Places of the shares of modalities among the inputs."""
    return np.array([i for i, name in enumerate(inputs) if name.startswith(SHARE)], np.int64)


def usual_sum(x: Matrix, shares: Index, taken: NDArray[np.bool_]) -> float:
    """What the shares of most rows add up to: 1, 100, or a total of images; 1 where no row has all of them."""
    sums = x[np.ix_(taken, shares)].sum(axis=1)
    sums = sums[np.isfinite(sums) & (sums > 0)]
    if not len(sums):
        return 1.0
    middle = float(np.median(sums))
    near = [whole for whole in (1.0, 100.0) if abs(middle / whole - 1) <= ROUNDED]
    return near[0] if near else middle


def divide_shares(x: Matrix, shares: Index, whole: float) -> NDArray[np.bool_]:
    """In place: shares that add up to 1 exactly. Returns (n,) the rows, left as they are, that do not add up."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        sums = x[:, shares].sum(axis=1)
        adds_up = np.abs(sums / whole - 1) <= ROUNDED
    x[np.ix_(adds_up, shares)] /= sums[adds_up, None]
    return np.asarray(~adds_up & np.isfinite(sums))


def source_name(name: str, sources: dict[str, Source]) -> str:
    """What a message calls an input: its column."""
    return sources[name].column if name in sources else name
