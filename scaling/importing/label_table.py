"""Labels and splits that stand in a CSV beside clinical files, by path, series, patient ... Row of data/."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from scaling.errors import Problem, SpecError
from scaling.importing.reader import About, LabelSetting, LabelValue, SplitName
from scaling.medical_reader_options import LabelTable
from scaling.reader_options import TaskColumns

SPLITS = ("train", "val", "test")
SHOWN = 5
"""Problems of one kind that are spelled out; the rest is counted."""
Row = tuple[SplitName | None, Mapping[str, LabelValue]]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A table that was read."""

    of: str = ""
    """What its keys are; empty without a table."""
    settings: Mapping[str, LabelSetting] = field(default_factory=dict)
    rows: Mapping[str, Row] = field(default_factory=dict)

    def of_image(self, about: About, key: str) -> About:
        """With what the key's row says; unchanged where there is no row."""
        split, labels = self.rows.get(key, (None, {}))
        return replace(about, split=split, labels=labels)


def read_labels(table: LabelTable | None, root: Path) -> Labelled:
    """Raises SpecError with all that is wrong with a table."""
    if table is None:
        return Labelled()
    path = root / table.file if root.is_dir() else root.parent / table.file
    names, lines = _cells(path)
    wanted = [table.key, *([table.split] if table.split else [])]
    wanted += [column for task in table.tasks.values() for column in task.columns]
    missing = sorted(set(wanted) - set(names))
    if missing:
        what = f"no column {', '.join(repr(name) for name in missing)}; its columns: {', '.join(names) or 'none'}"
        raise SpecError([Problem(where=f"labels: {path.name}", what=what)])
    settings = {name: _setting(task, lines) for name, task in table.tasks.items()}
    problems = [
        Problem(where=f"labels.tasks.{name}", what=f"a binary task has 2 classes, not {len(setting.classes)}")
        for name, setting in settings.items()
        if setting.kind == "binary" and len(setting.classes) != 2
    ]
    rows: dict[str, Row] = {}
    faults: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=2):
        key, row = line[table.key].strip(), _row(table, settings, line)
        for what in (*_faults(table, settings, line), *_conflict(rows.get(key, row), row)):
            faults.setdefault(what, []).append(f"line {number} ({key})")
        rows[key] = row
    problems += _told(path, faults)
    if problems or not rows:
        raise SpecError(problems or [Problem(where=f"labels: {path.name}", what="has no rows")])
    return Labelled(of=table.of, settings=settings, rows=rows)


def check_paths(labelled: Labelled, ids: Iterable[str]) -> None:
    """Raises SpecError where no key of a table by path is the path of a file."""
    if labelled.of == "path" and not labelled.rows.keys() & set(ids):
        example = next(iter(labelled.rows))
        what = (
            f"no key is the path of a file below the folder, such as '{example}'; write paths as the files lie, with /"
        )
        raise SpecError([Problem(where="labels.key", what=what)])


def _cells(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", restval="")
            return list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else "is no CSV in UTF-8"
        raise SpecError([Problem(where="labels.file", what=f"'{path}': {why}")]) from None


def _setting(task: TaskColumns, lines: list[dict[str, str]]) -> LabelSetting:
    if task.kind == "multi-label":
        return LabelSetting(kind=task.kind, classes=tuple(task.columns))
    found = {line[task.columns[0]].strip() for line in lines} - {""}
    return LabelSetting(kind=task.kind, classes=tuple(task.classes or sorted(found, key=_numbers_first)))


def _numbers_first(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def _row(table: LabelTable, settings: Mapping[str, LabelSetting], line: dict[str, str]) -> Row:
    found = {name: _label(task, settings[name], line) for name, task in table.tasks.items()}
    return _split(table, line), {name: label for name, label in found.items() if label is not None}


def _conflict(before: Row, row: Row) -> Iterable[str]:
    if before != row:
        yield "another row with this key says otherwise"


def _label(task: TaskColumns, setting: LabelSetting, line: dict[str, str]) -> LabelValue | None:
    """None without a label; what is none is a fault and told by `_faults`."""
    cells = [line[column].strip() for column in task.columns]
    if not all(cells):
        return None
    if task.kind == "multi-label":
        return tuple(int(cell in ("1", "1.0")) for cell in cells)
    return setting.classes.index(cells[0]) if cells[0] in setting.classes else None


def _split(table: LabelTable, line: dict[str, str]) -> SplitName | None:
    value = line[table.split].strip().lower() if table.split else ""
    return cast(SplitName, value) if value in SPLITS else None


def _faults(table: LabelTable, settings: Mapping[str, LabelSetting], line: dict[str, str]) -> Iterable[str]:
    if not line[table.key].strip():
        yield f"no {table.key}"
    if table.split and line[table.split].strip().lower() not in ("", *SPLITS):
        yield f"{table.split} is '{line[table.split]}'; allowed: {', '.join(SPLITS)} or empty"
    for name, task in table.tasks.items():
        cells = [line[column].strip() for column in task.columns]
        if task.kind == "multi-label":
            if any(cells) and not set(cells) <= {"0", "1", "0.0", "1.0"}:
                yield f"labels of {name} are not 0 or 1 each"
        elif cells[0] and cells[0] not in settings[name].classes:
            yield f"'{cells[0]}' is no class of {name}: {', '.join(settings[name].classes)}"


def _told(path: Path, problems: Mapping[str, list[str]]) -> list[Problem]:
    return [
        Problem(
            where=f"labels: {path.name}: {', '.join(places[:SHOWN])}"
            + (f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""),
            what=what,
        )
        for what, places in problems.items()
    ]
