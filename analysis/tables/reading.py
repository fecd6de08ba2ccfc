"""Any CSV, TSV or Parquet file as it is: cells of text stay text, and what cannot be a table is said with its line.

Pandas' own reader renames columns of the same name, shifts rows that have a cell too many and cuts those with one too
few; a user whose file has these should hear of it.
"""

from __future__ import annotations

import csv
import difflib
import gzip
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis.tables.problems import InputError

SEPARATORS = (",", "\t", ";", "|")
KINDS = "a file that ends in .csv, .tsv, .txt (these also with .gz) or .parquet"
MOST_NAMED = 5
"""Lines, rows or columns that a message names."""


def read(path: Path) -> pd.DataFrame:
    """Every cell of a text file as a string without blanks around it, None where empty; a Parquet file's own types.

    The row at position i is the (i + 1)-th below the header. Raises InputError.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file;{_near(path)} give {KINDS}")
    if path.is_dir():
        raise InputError(f"{path}: a folder; give {KINDS}")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else _read_text(path)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except Exception as error:  # whatever a damaged file makes of its reader; the path says which
        raise InputError(f"{path}: cannot be read ({_line(error)}); give {KINDS}") from None
    table.columns = pd.Index([str(name).strip() for name in table.columns], dtype=object)
    repeated = [name for name, times in Counter(table.columns).items() if times > 1]
    if repeated:
        names = ", ".join(map(repr, repeated[:MOST_NAMED]))
        raise InputError(f"{path}: several columns are called {names}; a name must mean one column: rename the others")
    if not len(table):
        raise InputError(f"{path}: no rows below the header; nothing can be fitted to it")
    return table.reset_index(drop=True)


def _read_text(path: Path) -> pd.DataFrame:
    with (
        gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8-sig", newline="") as file
    ):
        first = file.readline()
        if not first.strip():
            raise InputError(f"{path}: empty; the first line names the columns")
        file.seek(0)
        separator = max(SEPARATORS, key=first.count)  # the first of them where none occurs
        rows = _rows(path, csv.reader(file, delimiter=separator, skipinitialspace=True))
        header = next(rows)
        cells = list(rows)
    columns = list(zip(*cells, strict=True)) if cells else [()] * len(header)
    return pd.DataFrame(
        {i: pd.Series(column, dtype=object) for i, column in enumerate(columns)}, columns=range(len(header))
    ).set_axis([name or f"Unnamed: {i}" for i, name in enumerate(header)], axis=1)


def _rows(path: Path, reader: Iterator[list[str]]) -> Iterator[list[str | None]]:
    """The header and every row that has anything in it, all of one length."""
    wanted, ragged = 0, []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        wanted = wanted or len(cells)
        if len(cells) != wanted:
            ragged.append(f"line {reader.line_num} has {len(cells)}")  # type: ignore[attr-defined]
            continue
        yield [cell.strip() or None for cell in cells]
    if ragged:
        more = f" and {len(ragged) - MOST_NAMED} more" if len(ragged) > MOST_NAMED else ""
        raise InputError(
            f"{path}: the header has {wanted} cells, {', '.join(ragged[:MOST_NAMED])}{more}; "
            "a cell with the separator in it stands between quotes"
        )


def _near(path: Path) -> str:
    try:
        near = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=1)
    except OSError:
        return ""
    return f" did you mean '{path.with_name(near[0])}'?" if near else ""


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
