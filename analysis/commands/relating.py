"""`correlate --benefits FILE --features FILE`: two of anybody's tables joined by their task, as one document."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from analysis.commands.documents import Document, number
from analysis.correlate import correlate, numeric_columns
from analysis.tables.cells import numbers
from analysis.tables.problems import InputError, unknown
from analysis.tables.reading import read

KEYS = ("task", "dataset")
"""Columns that name a task, the likelier first."""
BENEFITS = ("benefit", "exponent", "slope", "gain")
CONTROLS = ("samples", "n_samples", "num_samples", "n_train", "num_train")
ERRORS = ("_se", "_low", "_high", "_p", "_q")
"""Ends of columns that belong to another one."""
SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class CorrelateAsk:
    """Two tables and what to take from them; empty where it is to be found."""

    benefits: Path
    features: Path
    key: str = ""
    """`task`, or `task=dataset` where the tables call it differently, the benefits' name first."""
    benefit: str = ""
    se: str = ""
    by: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    """Features; "log10 NAME" is a logarithm."""
    control: str = ""
    seed: int = 0


def correlate_document(ask: CorrelateAsk) -> Document:
    """Raises InputError with what is wrong with the question; a pair that has no answer has a status."""
    started = perf_counter()
    tables: list[pd.DataFrame] = []
    problems: list[str] = []
    for path in (ask.benefits, ask.features):
        try:
            tables.append(_typed(read(path)))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    benefits, features = tables
    notes: list[str] = []
    mine, theirs = _key(benefits, features, ask, notes)
    by = _by(benefits, mine, ask)
    columns = [ask.benefit] if ask.benefit else _benefits(benefits, mine, by, ask, notes)
    _check(benefits, features, mine, theirs, by, columns, ask)
    control = ask.control or next((name for name in CONTROLS if name in features and name != theirs), "")
    only = list(ask.only) or numeric_columns(features, without=(theirs,))
    if not only:
        raise InputError(f"{ask.features}: no column of numbers beside {theirs!r}; features are columns of numbers")
    joined = features.rename(columns={theirs: mine}) if theirs != mine else features
    found = []
    for column in columns:
        try:
            pairs = correlate(
                benefits, joined, column=column, by=by, features=only, key=mine, se=ask.se or None,
                control=control or None, seed=ask.seed,
            )  # fmt: skip
        except ValueError as error:
            raise InputError(str(error).splitlines()) from None
        found += [_pair(column, {str(k): v for k, v in row.items()}) for row in pairs.to_dict("records")]
    there, described = set(benefits[mine].astype(str)), set(features[theirs].astype(str))
    return {
        "command": "correlate",
        "benefits": str(ask.benefits),
        "features": str(ask.features),
        "settings": {
            "key": mine if mine == theirs else f"{mine}={theirs}",
            "benefit": columns,
            "se": ask.se or None,
            "by": by,
            "control": control or None,
            "seed": ask.seed,
        },
        "tasks": {
            "both": len(there & described),
            "without_features": sorted(there - described),
            "without_benefit": sorted(described - there),
        },
        "notes": notes,
        "answered": sum(pair["status"] == "answered" for pair in found),
        "significant": sum(pair["status"] == "answered" and (pair["q"] or 1.0) < SIGNIFICANT for pair in found),
        "correlations": found,
        "seconds": perf_counter() - started,
    }


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of nothing but numbers become such."""
    made = {}
    for name in table:
        values, strange = numbers(table[name])
        made[name] = table[name] if strange.any() else values
    return pd.DataFrame(made, index=table.index)


def _key(benefits: pd.DataFrame, features: pd.DataFrame, ask: CorrelateAsk, notes: list[str]) -> tuple[str, str]:
    """The tasks' column in both tables: the one asked for, else the one whose values meet."""
    if ask.key:
        mine, _, theirs = (part.strip() for part in ask.key.partition("="))
        theirs = theirs or mine
        problems = [
            f"{path}: --key: {unknown('column', name, table.columns)}"
            for path, table, name in ((ask.benefits, benefits, mine), (ask.features, features, theirs))
            if name not in table
        ]
        if problems:
            raise InputError(problems)
        return mine, theirs
    common = [(name, name) for name in map(str, benefits) if name in features]
    pairs = common or [(a, b) for a in KEYS for b in KEYS if a in benefits and b in features]
    meeting = {pair: _meet(benefits[pair[0]], features[pair[1]], named=pair[0] in KEYS) for pair in pairs}
    meeting = {pair: n for pair, n in meeting.items() if n and not features[pair[1]].duplicated().any()}
    if not meeting:
        raise InputError(
            f"{ask.benefits}, {ask.features}: no column of both names the same tasks, each once in the features; "
            f"say which with --key COLUMN or --key COLUMN=COLUMN; columns: {', '.join(map(str, benefits))} and "
            f"{', '.join(map(str, features))}"
        )
    preferred = [pair for name in KEYS for pair in meeting if pair[0] == name]
    chosen = preferred or list(meeting)
    if len(chosen) > 1 and not preferred:
        several = ", ".join(a for a, _ in chosen)
        raise InputError(f"{ask.benefits}, {ask.features}: tasks could be named by {several}; say which with --key")
    mine, theirs = chosen[0]
    notes.append(f"tasks are matched by {mine!r}" + (f" and {theirs!r}" if mine != theirs else ""))
    return mine, theirs


def _meet(mine: pd.Series, theirs: pd.Series, *, named: bool) -> int:
    """Values that both have; none for columns of numbers, which meet by chance, unless they are `named` as tasks."""
    if not named and (pd.api.types.is_numeric_dtype(mine) or pd.api.types.is_numeric_dtype(theirs)):
        return 0
    return len(set(mine.dropna().astype(str)) & set(theirs.dropna().astype(str)))


def _by(benefits: pd.DataFrame, key: str, ask: CorrelateAsk) -> list[str]:
    """What tells series apart: as asked, else the algorithm, where there is one."""
    if missing := [name for name in ask.by if name not in benefits]:
        raise InputError(f"{ask.benefits}: --by: {unknown('column', missing[0], benefits.columns)}")
    by = list(ask.by) or [name for name in ("algorithm",) if name in benefits]
    repeated = benefits.duplicated([*by, key])
    if repeated.any():
        texts = [n for n in benefits if n not in (*by, key) and not pd.api.types.is_numeric_dtype(benefits[n])]
        raise InputError(
            f"{ask.benefits}: row {int(np.flatnonzero(repeated)[0]) + 1} repeats a task ({key} "
            f"{benefits[key][repeated].iloc[0]!r}) of one series; tell series apart with --by"
            + (f", perhaps --by {','.join([*by, *map(str, texts)])}" if texts else "")
        )
    return by


def _benefits(benefits: pd.DataFrame, key: str, by: list[str], ask: CorrelateAsk, notes: list[str]) -> list[str]:
    """The column of a usual name, else every column of numbers in turn."""
    candidates = [name for name in numeric_columns(benefits, without=(key, *by, ask.se)) if not name.endswith(ERRORS)]
    named = [name for name in BENEFITS if name in benefits and pd.api.types.is_numeric_dtype(benefits[name])]
    if not candidates and not named:
        raise InputError(
            f"{ask.benefits}: no column of numbers could be the benefit; columns: {', '.join(map(str, benefits))}"
        )
    chosen = named[:1] or candidates
    if len(chosen) > 1:
        notes.append(
            f"several columns could be the benefit ({', '.join(chosen)}): each is answered by itself, false "
            "discoveries held within each; --benefit takes one"
        )
    else:
        notes.append(f"the benefit is {chosen[0]!r}")
    return chosen


def _check(
    benefits: pd.DataFrame, features: pd.DataFrame, mine: str, theirs: str, by: list[str], columns: list[str],
    ask: CorrelateAsk,
) -> None:  # fmt: skip
    problems = []
    for option, name in (("--benefit", ask.benefit), ("--se", ask.se)):
        if name and name not in benefits:
            problems.append(f"{ask.benefits}: {option}: {unknown('column', name, benefits.columns)}")
        elif name and not pd.api.types.is_numeric_dtype(benefits[name]):
            problems.append(f"{ask.benefits}: {option}: column {name!r} holds something that is no number")
    for option, names in (("--only", ask.only), ("--control", (ask.control,) if ask.control else ())):
        for name in names:
            plain = name if name in features else name.removeprefix("log10 ")
            if plain not in features:
                problems.append(f"{ask.features}: {option}: {unknown('column', plain, features.columns)}")
            elif not pd.api.types.is_numeric_dtype(features[plain]):
                problems.append(f"{ask.features}: {option}: column {plain!r} holds something that is no number")
    if features[theirs].duplicated().any():
        twice = features[theirs][features[theirs].duplicated()].iloc[0]
        problems.append(f"{ask.features}: several rows of {theirs} {twice!r}; a task has one row of features")
    if ask.seed < 0:
        problems.append(f"--seed: {ask.seed} is below 0; any whole number from 0 on")
    if problems:
        raise InputError(problems)


def _pair(benefit: str, row: dict[str, object]) -> Document:
    """Numbers or nulls, and a status beside them."""
    reason = str(row.pop("status"))
    plain = {name: number(cell) if isinstance(cell, float) else cell for name, cell in row.items()}
    return {"benefit": benefit, **plain, "status": "not_answered" if reason else "answered", "reason": reason}
