"""Other people's column names in ours: `task=dataset,n_params="Model Size, M"*1e6`, parsed here, never evaluated.

    mapping := pair ("," pair)*        pair := NAME = COLUMN (("*" | "/") NUMBER)*

A column's name stands as it is, spaces and all. One with a comma in it, or one that ends like a factor, goes into
quotes or backticks; a quote inside such quotes is doubled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.tables.cells import as_number, numbers
from analysis.tables.problems import InputError, unknown

FORM = "NAME=COLUMN, with *NUMBER or /NUMBER for units, joined by commas; a column's name with a comma goes into quotes"
QUOTED = re.compile(
    r"""(?P<quote>["'`])(?P<name>(?:(?!(?P=quote)).|(?P=quote){2})*)(?P=quote)(?!(?P=quote))""", re.DOTALL
)
FACTOR = re.compile(r"\s*(?P<sign>[*/])\s*(?P<number>[^*/,\s]+)\s*$")
FACTORS = re.compile(r"(?:\s*[*/]\s*[^*/,\s]+)*\s*")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a column of ours comes from."""

    column: str
    factor: float = 1.0
    """What its numbers are multiplied by: 1e6 for millions."""

    def __str__(self) -> str:
        return self.column if self.factor == 1 else f"{self.column} * {self.factor:g}"


Names = Mapping[str, Source]
"""Our name -> where it comes from."""


def parse_mapping(text: str, *, where: str = "--map") -> dict[str, Source]:
    """Raises InputError with all that cannot be read in `text`; `where` is the option's name."""
    found: dict[str, Source] = {}
    problems = []
    rest = text.strip()
    while rest:
        pair, rest = _first(rest)
        try:
            name, source = _pair(pair)
        except ValueError as error:
            problems.append(f"{where}: {error} in {pair.strip()!r}; the form is {FORM}")
            continue
        if name in found:
            problems.append(f"{where}: {name} is given twice, as {found[name]} and as {source}; give it once")
        found.setdefault(name, source)
    if not found and not problems:
        problems = [f"{where}: is empty; the form is {FORM}"]
    if problems:
        raise InputError(problems)
    return found


def _first(text: str) -> tuple[str, str]:
    """The text up to the next comma that is in no quotes, and what follows it."""
    start = re.match(r"[^,=]*=\s*", text)
    at = start.end() if start else 0
    quoted = QUOTED.match(text, at)
    comma = text.find(",", quoted.end() if quoted else at)
    return (text, "") if comma < 0 else (text[:comma], text[comma + 1 :].strip())


def _pair(text: str) -> tuple[str, Source]:
    """Raises ValueError with what is wrong with it."""
    name, equals, column = (part.strip() for part in text.partition("="))
    if not equals:
        raise ValueError("'=' is missing")
    if not name:
        raise ValueError("the name before '=' is missing")
    if column[:1] in ("'", '"', "`") and column:
        quoted = QUOTED.match(column)
        if not quoted:
            raise ValueError("a quote is not closed")
        inside, rest = quoted["name"].replace(quoted["quote"] * 2, quoted["quote"]), column[quoted.end() :]
        if not FACTORS.fullmatch(rest):
            raise ValueError(f"nothing can be made of {rest.strip()!r} after the quoted name")
        column, factor = rest, 1.0
    else:
        inside, factor = "", 1.0
    while (match := FACTOR.search(column)) and (inside or match.start()):
        number = as_number(match["number"])
        if number is None:
            if inside:
                raise ValueError(f"{match['number']!r} is no number")
            break  # a name with a stroke in it, as in tokens/image
        if not 0 < abs(number) < float("inf"):
            raise ValueError(f"a factor of {match['number']} makes no unit")
        factor = factor * number if match["sign"] == "*" else factor / number
        column = column[: match.start()]
    column = inside or column.strip()
    if not column:
        raise ValueError("the column after '=' is missing")
    return name, Source(column=column, factor=factor)


def apply(table: pd.DataFrame, names: Names, *, where: str = "--map") -> pd.DataFrame:
    """A copy with the mapped columns under our names, in place of theirs; a column of that name before is replaced.

    Raises InputError with every column that is not there and every factor for a column that holds no numbers.
    """
    problems = missing(table, names, where=where)
    made = {}
    for name, source in names.items():
        if source.column not in table:
            continue
        cells = table[source.column]
        if source.factor != 1:
            found, strange = numbers(cells)
            if strange.any():
                what = f"{source.column!r} holds {str(cells[strange].iloc[0])!r}, which cannot be multiplied"
                problems.append(f"{where}: {what}; leave a missing value empty, or map it plainly")
            cells = pd.Series(found * source.factor, index=table.index)
        made[name] = cells
    if problems:
        raise InputError(problems)
    gone = {source.column for source in names.values()} | set(names)
    return table.drop(columns=[c for c in table.columns if c in gone]).assign(**made)


def missing(table: pd.DataFrame, names: Names, *, where: str = "--map") -> list[str]:
    """A problem for every column that the table does not have."""
    there = list(map(str, table.columns))
    return [
        f"{where}: {name}: {unknown('column', source.column, there)}"
        for name, source in names.items()
        if source.column not in table
    ]


def unknown_names(names: Iterable[str], known: Iterable[str], *, where: str = "--map") -> list[str]:
    """A problem for every name on the left of a '=' that means nothing to us."""
    known = list(known)
    return [f"{where}: {unknown('name', name, known)}" for name in names if name not in known]
