"""What a report is made of - words, notes, tables, figures, folds - and how a number is shown to people.

`page` writes blocks as HTML, `markdown` as Markdown, `latex` tables as LaTeX; all show the same cells.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Line:
    """A sentence that says where its numbers come from."""

    text: str
    see: tuple[str, ...] = ()
    """Names of tables or pictures of the same report that hold the numbers; others are left out."""
    runs: tuple[str, ...] = ()
    """Ids of the runs behind the numbers."""


@dataclass(frozen=True, kw_only=True)
class Words:
    lines: list[str] | list[Line] | list[str | Line]
    bullets: bool = False


Severity = Literal["info", "warning", "serious"]
SEVERITIES: dict[Severity, str] = {"info": "Note", "warning": "Warning", "serious": "Do not rely on this"}
"""How a note opens, so that colour is not all that tells them apart."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """What to hold against a result."""

    text: str
    severity: Severity = "warning"


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A table, shown with three digits; the CSV beside the report has them all.

    Columns `c`, `c_low` and `c_high` are shown as one, `c [low, high]`.
    """

    name: str
    caption: str
    rows: pd.DataFrame
    most: int = 60
    """Rows shown at first; the CSV has all."""
    meanings: dict[str, str] = field(default_factory=dict)
    """Column -> what it is, with its unit; shown when the pointer rests on its head."""

    @property
    def cut(self) -> str:
        """What the caption adds when not all rows are shown."""
        n = len(self.rows)
        return f" The first {self.most} of {n} rows; all are in {self.name}.csv." if n > self.most else ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    name: str
    """File name under figures/, without ending; a PNG of it lies there."""
    caption: str
    path: Path
    """SVG or PNG to embed. An SVG with hover values (`figures.style.hover`) goes into the page itself."""

    @property
    def formats(self) -> list[str]:
        """Endings of the files of this picture that lie beside `path`, for links."""
        return [kind for kind in ("png", "svg", "pdf") if self.path.with_suffix(f".{kind}").exists()]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Text shown as it is."""

    text: str
    language: str = "yaml"


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Blocks behind a line that opens them: what is long and seldom read."""

    title: str
    blocks: list[Block]
    opened: bool = False


Block = Words | Note | Numbers | Picture | Listing | Fold


@dataclass(frozen=True, kw_only=True)
class Section:
    title: str
    blocks: list[Block] = field(default_factory=list)


def every(blocks: list[Block]) -> list[Block]:
    """Blocks in reading order, those inside folds too."""
    return [
        inner for block in blocks for inner in ([block, *every(block.blocks)] if isinstance(block, Fold) else [block])
    ]


def slug(text: str) -> str:
    """For an address inside the page."""
    return "".join(c if c.isalnum() else "-" for c in text.lower())


def shown(value: object) -> str:
    """A cell for people: three significant digits, thousands separated, nothing for a missing number."""
    if missing(value):
        return ""
    if _is_bool(value):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    if isinstance(value, numbers.Real):
        return _digits(float(value))
    return str(value)


def _digits(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value.is_integer() and abs(value) < 1e10:
        return f"{int(value):,}"
    if 1e3 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    mantissa, _, power = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(power)}" if power else mantissa


def missing(value: object) -> bool:
    return value is None or value is pd.NaT or value is pd.NA or (isinstance(value, numbers.Real) and value != value)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")


RUNS = "runs"
"""Column of ids of runs, separated by spaces."""
LONGEST = 160
"""Characters of a cell above which it folds."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    text: str
    """As shown."""
    value: float | None = None
    """To sort by; None for words and for what is missing."""
    exact: str = ""
    """All digits, where `text` has fewer."""
    folded: str = ""
    """What a page shows of a long text until it is asked for all; empty for what is shown whole."""


@dataclass(frozen=True, kw_only=True)
class Head:
    name: str
    meaning: str = ""
    numeric: bool = False


def cells(block: Numbers) -> tuple[list[Head], list[list[Cell]]]:
    """Heads and rows as shown: an interval stands in the cell of its value; columns without any value are left out."""
    frame = block.rows
    names = [str(column) for column in frame.columns]
    ends = {
        name: (f"{name}_low", f"{name}_high")
        for i, name in enumerate(names)
        if {f"{name}_low", f"{name}_high"} <= set(names)
        and not any(isinstance(value, str) for value in _values(frame, i))
    }
    inside = {end for pair in ends.values() for end in pair}
    heads, columns = [], []
    for i, name in enumerate(names):
        if name in inside:
            continue
        values = _values(frame, i)
        if name in ends:
            low, high = (_values(frame, names.index(end)) for end in ends[name])
            columns.append([_interval(*three) for three in zip(values, low, high, strict=True)])
        else:
            columns.append([_cell(value, ids=name == RUNS) for value in values])
        if len(frame) and not any(cell.text for cell in columns[-1]):
            columns.pop()
            continue
        numeric = any(cell.value is not None for cell in columns[-1])
        label = f"{name} [low, high]" if name in ends else name
        heads.append(Head(name=label, meaning=block.meanings.get(name, ""), numeric=numeric))
    return heads, [list(row) for row in zip(*columns, strict=True)]


def _values(frame: pd.DataFrame, column: int) -> list[object]:
    return list(frame.iloc[:, column])


def _cell(value: object, *, ids: bool = False) -> Cell:
    text = shown(value)
    if ids and (n := len(text.split())) > 1:
        return Cell(text=text, folded=f"{n} runs")
    if len(text) > LONGEST:
        return Cell(text=text, folded=f"{text[:28]}…")
    if missing(value) or _is_bool(value) or not isinstance(value, numbers.Real):
        return Cell(text=text)
    exact = _exact(value)
    return Cell(text=text, value=float(value), exact="" if exact == text.replace(",", "") else exact)


def _interval(value: object, low: object, high: object) -> Cell:
    middle = _cell(value)
    if middle.value is None:
        return middle
    ends = [low, high]
    if all(missing(end) for end in ends):
        return Cell(text=f"{middle.text} [no interval]", value=middle.value, exact=middle.exact)
    text = ", ".join("?" if missing(end) else shown(end) for end in ends)
    exact = ", ".join("?" if missing(end) else _exact(end) for end in ends)
    return Cell(text=f"{middle.text} [{text}]", value=middle.value, exact=f"{_exact(value)} [{exact}]")


def _exact(value: object) -> str:
    if isinstance(value, numbers.Integral):
        return str(int(value))
    return repr(float(value)) if isinstance(value, numbers.Real) else str(value)
