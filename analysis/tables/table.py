"""Anybody's table and a question asked of it, checked against its columns: all that is wrong is said at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.tables import expression
from analysis.tables.mapping import Source, missing, parse_mapping, unknown_names
from analysis.tables.problems import InputError, unknown
from analysis.tables.reading import read

INPUTS = ("n_params", "n_images", "images_seen", "train_flops")
"""Names of the map that a law of one input may take as its x."""
TARGETS = ("loss", "error", "y", "auc", "accuracy")
AS_CALLED = (("loss", "error"), ("auc", "accuracy"), ("y",))
"""Columns of these names are taken for what they are called where no target is mapped; earlier ones go first."""
ALIASES = {"N": "n_params", "D": "n_images", "C": "train_flops", "n_tokens": "n_images", "tokens": "n_images"}
"""The papers' letters, and the unit of other fields."""
FLOPS_PER = 6.0
"""C = 6 N D of a dense transformer (Kaplan et al. 2020, section 2.1), to get D from C where only C is there."""
CELL, ROW = "cell", "row"
SHARE = "share_"
"""Before a modality's name: its share of the images, an input of the mixture law."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a table, in the user's words; empty where nothing was said."""

    path: Path
    mapping: str = ""
    """`n_params=Model Size,loss=loss`."""
    x: str = ""
    """Column of the one input."""
    by: tuple[str, ...] = ()
    """Columns whose values make the groups."""
    across: str = ""
    """Column whose values are categories of one law (algorithms, mixtures)."""
    train: str = ""
    """Rows to fit; the others are held out."""
    exclude: str = ""
    weights: str = ""
    """Column of the objective's weights."""
    se: str = ""
    """Column of standard errors of the target: weights 1 / se^2, relative where the objective is of logarithms."""
    cluster: str = CELL
    """What shares luck and is resampled together: cell (rows of the same inputs), row, or a column."""
    flops_per: float = FLOPS_PER
    """C / (N D)."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The file, and the question checked against its columns."""

    question: Question
    rows: pd.DataFrame
    mapped: dict[str, Source]
    """By name: n_params, n_images, train_flops, images_seen, x, and the target."""
    target: str
    """loss | error | y | auc | accuracy."""
    weights: Source | None
    se: Source | None
    excluded: NDArray[np.bool_]
    """(n,) by the user's own words."""
    trained: NDArray[np.bool_]
    """(n,) to be fitted; all, unless the user says which."""
    notes: tuple[str, ...]
    """What was assumed."""


class _Problems(list[str]):
    """Of a question; what could not be read is None."""

    def attempt(self, do: Callable[[], T]) -> T | None:
        try:
            return do()
        except InputError as error:
            self.extend(error.problems)
            return None


def open_table(question: Question, *, inputs: Iterable[str] = (), wants_target: bool = True) -> Table:
    """Reads the file and checks every word of the question. `inputs`: of all laws there are. Raises InputError."""
    rows = read(question.path)
    columns = list(rows.columns)
    problems, notes = _Problems(), list[str]()
    mapped = problems.attempt(lambda: _mapped(question, rows, inputs)) or {}
    target = (problems.attempt(lambda: _target(mapped, columns, notes)) if wants_target and not problems else "") or ""
    weights, se = (
        problems.attempt(lambda text=text, where=where: source(text, columns, where=where)) if text else None  # type: ignore[misc]
        for text, where in ((question.weights, "--weights"), (question.se, "--se"))
    )
    if question.weights and question.se:
        problems.append("--weights, --se: both set the weights of rows; give one of them")
    problems += [f"--by: {unknown('column', name, columns)}" for name in question.by if name not in columns]
    if question.across and question.across not in columns:
        problems.append(f"--across: {unknown('column', question.across, columns)}")
    if question.across in question.by:
        problems.append(f"--across: {question.across!r} is in --by too: one value of it a group leaves none to compare")
    if question.cluster not in (CELL, ROW, *columns):
        problems.append(f"--cluster: {unknown('column', question.cluster, (CELL, ROW, *columns))}")
    excluded = problems.attempt(lambda: _chosen(question.exclude, rows, "--exclude", otherwise=False))
    trained = problems.attempt(lambda: _chosen(question.train, rows, "--train", otherwise=True))
    if excluded is not None and trained is not None and not (trained & ~excluded).any():
        problems.append(_nothing_left(question, excluded, trained))
    if problems or excluded is None or trained is None:
        raise InputError([f"{question.path}: {problem}" for problem in problems])
    return Table(
        question=question,
        rows=rows,
        mapped=mapped,
        target=target,
        weights=weights,
        se=se,
        excluded=excluded,
        trained=trained,
        notes=tuple(notes),
    )


def _mapped(question: Question, rows: pd.DataFrame, inputs: Iterable[str]) -> dict[str, Source]:
    given = parse_mapping(question.mapping) if question.mapping.strip() else {}
    known = list(dict.fromkeys((*INPUTS, "x", *TARGETS, *inputs)))
    mapped = {ALIASES.get(name, name) if name not in known else name: found for name, found in given.items()}
    shares = [name for name in mapped if name.startswith(SHARE) and name != SHARE]
    problems = unknown_names(mapped, [*known, *shares] if shares else [*known, f"{SHARE}MODALITY"])
    problems += missing(rows, mapped)
    if len(mapped) < len(given):
        problems.append(f"--map: {', '.join(given)}: two of these names mean the same; give each once")
    if question.x:
        try:  # a column, or what the map already calls one
            named = question.x in mapped and question.x not in rows
            mapped["x"] = mapped[question.x] if named else source(question.x, rows.columns, where="--x")
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return mapped


def source(text: str, columns: Iterable[str], *, where: str) -> Source:
    """One column, with a unit or without: `Params (M)*1e6`. Raises InputError."""
    columns = list(columns)
    if text in columns:
        return Source(column=text)
    found = parse_mapping(f"x={text}", where=where)["x"]
    if found.column not in columns:
        raise InputError(f"{where}: {unknown('column', found.column, columns)}")
    return found


def share_inputs(table: Table, law: str) -> tuple[str, ...]:
    """`share_MODALITY` of each modality that is mapped, or else that columns are called; what a law of mixtures needs.

    Raises InputError for fewer than two.
    """
    named = [name for name in table.mapped if name.startswith(SHARE)]
    named = named or [name for name in table.rows.columns if name.startswith(SHARE)]
    if len(named) < 2:
        raise InputError(
            f"{table.question.path}: --map: the law {law} needs the shares of two modalities or more; "
            f"add {SHARE}ct=COLUMN,{SHARE}mr=COLUMN, whatever they are called; columns: {', '.join(table.rows.columns)}"
        )
    return tuple(named)


def _target(mapped: dict[str, Source], columns: list[str], notes: list[str]) -> str:
    """The one target that is mapped, else the one column that is called like a target, which is then mapped too."""
    found = [name for name in TARGETS if name in mapped]
    if not found:
        taken = {found.column for found in mapped.values()}
        for tier in AS_CALLED:
            named = [(name, column) for name in tier for column in columns if column.lower() == name]
            if named := [(name, column) for name, column in named if column not in taken]:
                break
        if len(named) == 1:
            name, column = named[0]
            mapped[name] = Source(column=column)
            notes.append(f"column {column!r} is taken as the {name}")
            found = [name]
        elif named:
            several = ", ".join(repr(column) for _, column in named)
            raise InputError(
                f"--map: no target is mapped and several columns could be it: {several}; map one, loss=..."
            )
    if len(found) != 1:
        which = f"several targets ({', '.join(found)})" if found else "no target"
        raise InputError(
            f"--map: {which}; map exactly one of {', '.join(TARGETS)}, as in "
            f'--map "loss=COLUMN"; columns: {", ".join(columns)}'
        )
    return found[0]


def _chosen(text: str, rows: pd.DataFrame, where: str, *, otherwise: bool) -> NDArray[np.bool_]:
    return expression.parse(text, rows.columns, where=where).choose(rows) if text else np.full(len(rows), otherwise)


def _nothing_left(question: Question, excluded: NDArray[np.bool_], trained: NDArray[np.bool_]) -> str:
    said = [
        f"{option} {text!r} {'takes' if option == '--exclude' else 'keeps'} {int(mask.sum())}"
        for option, text, mask in (("--exclude", question.exclude, excluded), ("--train", question.train, trained))
        if text
    ]
    return f"nothing is left to fit: of {len(excluded)} rows {' and '.join(said)}; correct the expressions"
