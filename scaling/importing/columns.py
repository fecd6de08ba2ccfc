"""What columns say of an image - labels, split, group, modality - whatever format the columns are of. Row of data/.

Cells are text, numbers, truth values, lists of these, or nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling.errors import Problem, SpecError
from scaling.importing.folder import SPLIT_OF
from scaling.importing.reader import About, LabelSetting, LabelValue, SplitName
from scaling.reader_options import ColumnOptions, TaskField

SHOWN = 5
"""Places of one problem that are written out."""
NO_GROUP = "no group in its column"
Cells = Mapping[str, Any]


class Columns:
    """Reads rows as the options of a source say."""

    def __init__(self, options: ColumnOptions, named: Mapping[str, Sequence[str]] | None = None) -> None:
        """`named`: column -> names of the classes that the format itself gives its codes."""
        self._options = options
        self._named = named or {}
        self._settings: Mapping[str, LabelSetting] = {}

    @property
    def needed(self) -> list[str]:
        """Columns that are asked for, each once."""
        split = None if self._options.split == "path" else self._options.split
        asked = [self._options.group, self._options.modality_column, split]
        asked += [column for task in self._options.tasks.values() for column in task.columns]
        return list(dict.fromkeys(each for each in asked if each))

    def learn(self, rows: Iterable[tuple[str, Cells]]) -> Mapping[str, LabelSetting]:
        """What the tasks' labels mean, of all rows and where each stands. Raises SpecError with all problems."""
        open_, faults, places = dict[str, set[str]](), dict[str, list[str]](), dict[str, int]()
        known = {name: self._classes(task) for name, task in self._options.tasks.items()}
        waiting = {name for name, classes in known.items() if classes is None}
        checked = bool(self._options.tasks) or self._options.split not in (None, "path")
        for where, cells in rows if checked else ():
            for name, task in self._options.tasks.items():
                if name in waiting:
                    open_.setdefault(name, set()).update(_texts(task, cells))
                    continue
                for what in _label_faults(name, task, known[name] or (), cells):
                    _note(faults, places, what, where)
            if (fault := self._split_fault(cells)) is not None:
                _note(faults, places, fault, where)
        self._settings = {
            name: LabelSetting(
                kind=task.kind, classes=tuple(known[name] or sorted(open_.get(name, ()), key=_numbers_first))
            )
            for name, task in self._options.tasks.items()
        }
        problems = [
            Problem(
                where=", ".join(at) + (f" and {places[what] - len(at)} more" if places[what] > len(at) else ""),
                what=what,
            )
            for what, at in faults.items()
        ]
        problems += [
            Problem(where=f"tasks.{name}", what=_wrong_number(setting.classes))
            for name, setting in self._settings.items()
            if (len(setting.classes) != 2 if setting.kind == "binary" else len(setting.classes) < 2)
            and setting.kind != "multi-label"
        ]
        if problems:
            raise SpecError(problems)
        return self._settings

    def about(self, cells: Cells) -> tuple[About, str | None]:
        """What a row says, and why its image cannot be used."""
        options = self._options
        group = _text(cells.get(options.group)) if options.group else None
        labels = dict[str, LabelValue]()
        fault = NO_GROUP if group == "" else self._split_fault(cells)
        for name, setting in self._settings.items():
            task = options.tasks[name]
            found = _label_faults(name, task, setting.classes, cells)
            fault = fault or next(iter(found), None)
            if not found and (label := _label(task, setting.classes, cells)) is not None:
                labels[name] = label
        about = About(modality=self._modality(cells), group=group or None, split=self._split(cells), labels=labels)
        return about, fault

    def _classes(self, task: TaskField) -> Sequence[str] | None:
        if task.classes is not None:
            return task.classes
        if task.kind == "multi-label" and len(task.columns) > 1:
            return task.columns
        return self._named.get(task.columns[0])

    def _modality(self, cells: Cells) -> str | None:
        stated, column = self._options.modality, self._options.modality_column
        if isinstance(stated, str):
            return stated
        value = _text(cells.get(column)) if column else ""
        return (stated or {}).get(value, value) or None

    def _split(self, cells: Cells) -> SplitName | None:
        if self._options.split in (None, "path"):
            return None
        return SPLIT_OF.get(_text(cells.get(str(self._options.split))).lower())

    def _split_fault(self, cells: Cells) -> str | None:
        if self._options.split in (None, "path"):
            return None
        value = _text(cells.get(str(self._options.split)))
        if not value or value.lower() in SPLIT_OF:
            return None
        return f"split '{value}' in column '{self._options.split}'; known: {', '.join(SPLIT_OF)}, or empty"


def split_in_path(path: str) -> SplitName | None:
    """By the first of its words that is a split's."""
    return next((SPLIT_OF[word] for word in re.split(r"[^a-z]+", path.lower()) if word in SPLIT_OF), None)


def _wrong_number(classes: Sequence[str]) -> str:
    named = f" ({', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''})" if classes else ""
    what = f"{len(classes)} classes{named}; a binary task has 2, any other at least 2"
    return what + ("; set `kind`, or name its `classes` to hear which rows have others" if len(classes) > 2 else "")


def _note(faults: dict[str, list[str]], places: dict[str, int], what: str, where: str) -> None:
    places[what] = places.get(what, 0) + 1
    at = faults.setdefault(what, [])
    if len(at) < SHOWN:
        at.append(where)


def _text(cell: Any) -> str:
    """Empty for nothing and for NaN; 1.0 is 1, as tables with gaps turn integers into reals."""
    if cell is None:
        return ""
    if isinstance(cell, bool | np.bool_):
        return str(int(cell))
    if isinstance(cell, float):
        if math.isnan(cell):
            return ""
        return str(int(cell)) if cell.is_integer() else str(cell)
    return str(cell).strip()


def _numbers_first(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def _is_set(task: TaskField) -> bool:
    """Whether one cell names all labels that an image has."""
    return task.kind == "multi-label" and len(task.columns) == 1


def _texts(task: TaskField, cells: Cells) -> list[str]:
    """Names in the row's cell, which may be none."""
    cell = cells.get(task.columns[0])
    if _is_set(task):
        parts = cell if isinstance(cell, list | tuple) else str(cell or "").split(task.separator or "|")
        return [text for each in parts if (text := _text(each))]
    return [text] if (text := _text(cell)) else []


def _code(text: str, classes: Sequence[str]) -> int | None:
    """By name, else as a number where the classes are words; None where it is neither."""
    if text in classes:
        return classes.index(text)
    words = not any(_numbers_first(each)[1] or each == "0" for each in classes)
    return int(text) if words and text.isdecimal() and int(text) < len(classes) else None


def _label_faults(name: str, task: TaskField, classes: Sequence[str], cells: Cells) -> list[str]:
    if task.kind == "multi-label" and not _is_set(task):
        values = [_text(cells.get(column)) for column in task.columns]
        wrong = [value for value in values if value not in ("", "0", "1")]
        return [f"label '{wrong[0]}' of task '{name}'; 0, 1 and empty are allowed"] if wrong else []
    wrong = [text for text in _texts(task, cells) if _code(text, classes) is None and text != "-1"]
    known = ", ".join(classes[:8]) + (" ..." if len(classes) > 8 else "")
    return [f"label '{wrong[0]}' is no class of task '{name}': {known}"] if wrong else []


def _label(task: TaskField, classes: Sequence[str], cells: Cells) -> LabelValue | None:
    """None without one, which an empty cell is, and -1 as the Hub has it."""
    if task.kind == "multi-label" and not _is_set(task):
        values = [_text(cells.get(column)) for column in task.columns]
        return tuple(int(value) for value in values) if all(values) else None
    codes = [code for text in _texts(task, cells) if (code := _code(text, classes)) is not None]
    if _is_set(task):
        return tuple(int(code in codes) for code in range(len(classes)))
    return codes[0] if codes else None
