"""Rows chosen by a user's words, `Training==1` or `loss>=4.2 or Model in (a, b)`: parsed here, never evaluated.

    expression := all ("or" all)*        all := one (("and" | ",") one)*        one := "(" expression ")" | comparison
    comparison := COLUMN (== | != | < | <= | > | >= | in) VALUE

A column's name stands as it is, spaces and all, or between backticks; a value as it is, or between quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.tables.cells import as_number, numbers
from analysis.tables.problems import InputError, unknown

Mask = NDArray[np.bool_]
OPERATORS = ("==", "!=", "<=", ">=", "<", ">", "=", "in")
FORM = "COLUMN == VALUE (or !=, <, <=, >, >=, in (A, B)), joined by 'and', 'or', brackets"
END_OF_VALUE = re.compile(r"\s+(and|or)(?=\s|\(|$)|\s*&&?|\s*\|\|?|\s*,|\s*\)|\s*$", re.IGNORECASE)
OPERATOR = re.compile(r"\s*(==|!=|<=|>=|<|>|=|in\s*[\[(])", re.IGNORECASE)
JOINS = {
    "and": re.compile(r"(and(?=\s|\(|$)|&&?|,)", re.IGNORECASE),
    "or": re.compile(r"(or(?=\s|\(|$)|\|\|?)", re.IGNORECASE),
}
WORDS = {"true": 1.0, "false": 0.0}
MAX_DEPTH = 50
"""Brackets within brackets; nobody writes more."""


@dataclass(frozen=True, kw_only=True)
class Expression:
    """What was asked, checked against the columns of a table."""

    text: str
    choose: Callable[[pd.DataFrame], Mask]
    """Rows for which it holds. A missing cell satisfies no comparison but that with '' (`loss == ''`)."""

    def __str__(self) -> str:
        return self.text


def parse(text: str, columns: Iterable[object], *, where: str) -> Expression:
    """Raises InputError with the place in `text` where it stops making sense; `where` is the option's name."""
    reader = _Reader(text, sorted(map(str, columns), key=len, reverse=True), where)
    choose = reader.any_of(0)
    if reader.rest():
        raise reader.wrong(f"nothing can be made of {_short(reader.rest())!r}")
    return Expression(text=text, choose=choose)


class _Reader:
    """Recursive descent over `text`; `at` is the next character."""

    def __init__(self, text: str, columns: Sequence[str], where: str) -> None:
        self.text, self.columns, self.where, self.at = text, columns, where, 0

    def wrong(self, what: str) -> InputError:
        return InputError(f"{self.where}: {what} in {_short(self.text)!r}; the form is {FORM}")

    def rest(self) -> str:
        """What is still to be read, without leading blanks."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at :]

    def take(self, *tokens: str) -> str:
        """The first of `tokens` that stands here, taken; '' if none."""
        here = self.rest().lower()
        for token in tokens:
            if here.startswith(token):
                self.at += len(token)
                return token
        return ""

    def joined(self, how: str) -> bool:
        found = JOINS[how].match(self.rest())
        self.at += found.end() if found else 0
        return found is not None

    def any_of(self, depth: int) -> Callable[[pd.DataFrame], Mask]:
        parts = [self.all_of(depth)]
        while self.joined("or"):
            parts.append(self.all_of(depth))
        return parts[0] if len(parts) == 1 else lambda rows: np.logical_or.reduce([part(rows) for part in parts])

    def all_of(self, depth: int) -> Callable[[pd.DataFrame], Mask]:
        parts = [self.one(depth)]
        while self.joined("and"):
            parts.append(self.one(depth))
        return parts[0] if len(parts) == 1 else lambda rows: np.logical_and.reduce([part(rows) for part in parts])

    def one(self, depth: int) -> Callable[[pd.DataFrame], Mask]:
        if not self.rest():
            raise self.wrong("a comparison is missing at the end")
        start = self.at
        column = self.column()
        if column is None and self.take("("):
            if depth >= MAX_DEPTH:
                raise self.wrong(f"more than {MAX_DEPTH} brackets within each other")
            inside = self.any_of(depth + 1)
            if not self.take(")"):
                raise self.wrong("a bracket is not closed")
            return inside
        if column is None:
            raise self.unknown_column(start)
        operator = self.take(*OPERATORS)
        if operator == "in":
            return _any_equal(column, self.values())
        value, quoted = self.value()
        return self.comparison(column, "==" if operator == "=" else operator, value, quoted)

    def column(self) -> str | None:
        """The longest known name that an operator follows; None, and nothing taken, if there is none."""
        here = self.rest()
        quoted = re.match(r"`([^`]*)`", here)
        forms = {quoted.group(0): quoted.group(1)} if quoted else {name: name for name in self.columns}
        for form, name in forms.items():
            if name in self.columns and here.startswith(form) and OPERATOR.match(here[len(form) :]):
                self.at += len(form)
                return name
        return None

    def unknown_column(self, start: int) -> InputError:
        here = self.text[start:].strip()
        found = re.match(r"`([^`]*)`|(.+?)\s*(==|!=|<=|>=|<|>|=|\sin[\s(])", here, re.DOTALL)
        if not found:
            return self.wrong(f"no comparison can be read from {_short(here)!r}")
        name = (found.group(1) if found.group(1) is not None else found.group(2)).strip()
        if name in self.columns:
            return self.wrong(f"column {name!r} is compared with nothing")
        return InputError(f"{self.where}: {unknown('column', name, sorted(self.columns))}")

    def value(self) -> tuple[str, bool]:
        """The text of a value and whether it stood between quotes."""
        here = self.rest()
        if here[:1] in ("'", '"'):
            end = here.find(here[0], 1)
            if end < 0:
                raise self.wrong("a quote is not closed")
            self.at += end + 1
            return here[1:end], True
        found = END_OF_VALUE.search(here)
        text = here[: found.start()] if found else here
        if not text.strip():
            raise self.wrong("a value is missing")
        self.at += len(text)
        return text.strip(), False

    def values(self) -> list[tuple[str, bool]]:
        closing = {"(": ")", "[": "]"}.get(self.take("(", "["), "")
        if not closing:
            raise self.wrong("'in' wants a list in brackets")
        found = [self.value()]
        while self.take(","):
            found.append(self.value())
        if closing == "]" and found[-1][0].endswith("]"):  # an unquoted last value runs on to the bracket
            found[-1] = (found[-1][0][:-1], found[-1][1])
        elif not self.take(closing):
            raise self.wrong("a bracket is not closed")
        return found

    def comparison(self, column: str, operator: str, value: str, quoted: bool) -> Callable[[pd.DataFrame], Mask]:
        if operator == "==":
            return lambda rows: _equal(rows[column], value, quoted)
        if operator == "!=":
            return lambda rows: ~_equal(rows[column], value, quoted) & (rows[column].notna().to_numpy() | (value == ""))
        limit = as_number(value)
        if limit is None:
            raise self.wrong(f"{column} {operator} wants a number, not {value!r}")
        compare = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}[operator]
        return lambda rows: np.asarray(compare(numbers(rows[column])[0], limit), bool)  # NaN compares as False


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."


def _any_equal(column: str, values: list[tuple[str, bool]]) -> Callable[[pd.DataFrame], Mask]:
    return lambda rows: np.logical_or.reduce([_equal(rows[column], value, quoted) for value, quoted in values])


def _equal(cells: pd.Series, value: str, quoted: bool) -> Mask:
    """Equal as numbers where both are (1 and 1.0 and True), else as texts; '' is a missing cell."""
    if value == "":
        return cells.isna().to_numpy()
    texts = cells.map(lambda cell: "" if pd.isna(cell) else str(cell).strip())
    same = (texts == value).to_numpy(bool)
    number = None if quoted else as_number(value)
    number = WORDS.get(value.lower()) if number is None and not quoted else number
    if number is None:
        return same
    words = texts.str.lower().map(WORDS).to_numpy(float)
    return same | (numbers(cells)[0] == number) | (words == number)
