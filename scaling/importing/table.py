"""Reads a CSV, TSV or Parquet table with a row per image file, and the files it names. Row of data/."""

from __future__ import annotations

import csv
import hashlib
import os
import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from scaling.errors import Problem, SpecError
from scaling.importing.clinical_files import root_of, stamp_of
from scaling.importing.columns import Columns
from scaling.importing.image_file import frames_of
from scaling.importing.reader import Frame, Item, LabelSetting, Unreadable
from scaling.importing.safety import file_fault, name_fault, read_file
from scaling.reader_options import TableOptions

ENDINGS = (".csv", ".tsv", ".txt", ".parquet")
BATCH = 16_384
"""Rows of Parquet in memory."""
SHOWN = 5
TWICE = "its path stands in another row"


class Table:
    """Each row's file; an item each, in the order of the rows."""

    def __init__(self, options: TableOptions) -> None:
        """Raises SpecError."""
        self.options = options
        self.table = _table_in(root_of(options.path))
        self.root = Path(os.path.abspath(self.table.parent / options.root))
        self._columns = Columns(options)

    def items(self) -> Iterator[Item]:
        """Raises SpecError for paths that stand in two rows which say different things."""
        self.tasks()
        seen, conflicts = dict[bytes, bytes](), list[str]()
        for number, cells in self._rows():
            item = self._item(number, cells)
            path, says = _short(item.id), _short(repr(item.about))
            if path in seen:
                if seen[path] != says:
                    conflicts.append(f"row {number} ({item.id})")
                item = replace(item, id=f"{item.id} (row {number})", fault=item.fault or TWICE)
            seen.setdefault(path, says)
            yield item
        if conflicts:
            more = f" and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""
            what = "another row has the path and says otherwise of it; keep one of the two"
            raise SpecError([Problem(where=", ".join(conflicts[:SHOWN]) + more, what=what)])
        if not seen:
            raise SpecError([Problem(where=self.table.name, what="has no rows")])

    def tasks(self) -> Mapping[str, LabelSetting]:
        return self._settings

    @cached_property
    def _settings(self) -> Mapping[str, LabelSetting]:
        problems = list[Problem]()
        missing = [each for each in (self.options.image, *self._columns.needed) if each not in self._names]
        if missing:
            what = f"no column {', '.join(map(repr, missing))}; its columns: {', '.join(self._names) or 'none'}"
            problems.append(Problem(where=self.table.name, what=what))
        if not self.root.is_dir():
            what = f"no folder {self.root}; the paths in column '{self.options.image}' start there"
            problems.append(Problem(where="root", what=what))
        if problems:
            raise SpecError(problems)
        return self._columns.learn((f"{self.table.name}, row {number}", cells) for number, cells in self._rows())

    def frames(self, item: Item) -> Iterator[Frame | Unreadable]:
        if item.fault:
            raise Unreadable(item.fault)
        yield from frames_of(read_file(item.path, self.root), item.id, self.options, item.about)

    def _item(self, number: int, cells: Mapping[str, Any]) -> Item:
        name = str(cells.get(self.options.image) or "").strip()
        if os.path.isabs(name) and Path(name).is_relative_to(self.root):
            name = Path(name).relative_to(self.root).as_posix()
        about, fault = self._columns.about(cells)
        fault = name_fault(name) or fault
        path, n_bytes, stamp = self.root, 0, ""
        if fault is None:
            name = posixpath.normpath(name.replace("\\", "/"))
            path = self.root / name
            fault = file_fault(path, self.root)
        if fault is None:
            n_bytes, stamp = stamp_of(path)
        said = _short(repr((about, fault))).hex()
        return Item(
            id=name or f"row {number}", path=path, n_bytes=n_bytes, stamp=f"{stamp} {said}", about=about, fault=fault
        )

    @cached_property
    def _names(self) -> list[str]:
        """Of the columns."""
        with _told(self.table):
            if self.table.suffix.lower() == ".parquet":
                import pyarrow.parquet as pq

                return list(pq.read_schema(self.table).names)
            with open(self.table, newline="", encoding="utf-8-sig") as file:
                return list(csv.DictReader(file, delimiter=self._delimiter).fieldnames or ())

    @property
    def _delimiter(self) -> str:
        return "\t" if self.table.suffix.lower() == ".tsv" else ","

    def _rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """From 1, without the line of names."""
        with _told(self.table):
            if self.table.suffix.lower() == ".parquet":
                yield from enumerate(_parquet_rows(self.table, [self.options.image, *self._columns.needed]), 1)
                return
            with open(self.table, newline="", encoding="utf-8-sig") as file:
                yield from enumerate(csv.DictReader(file, delimiter=self._delimiter), 1)


def _parquet_rows(path: Path, names: list[str]) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH, columns=list(dict.fromkeys(names))):
            yield from batch.to_pylist()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What is wrong with a table as a SpecError."""
    try:
        yield
    except UnicodeDecodeError as error:
        what = f"is not UTF-8: byte {error.object[error.start]:#04x}; save it as UTF-8"
        raise SpecError([Problem(where=path.name, what=what)]) from None
    except csv.Error as error:
        raise SpecError([Problem(where=path.name, what=f"is no table: {error}")]) from None
    except OSError as error:  # what pyarrow raises for a damaged Parquet file is one too
        what = f"cannot be read: {error.strerror or str(error).splitlines()[0][:120]}"
        raise SpecError([Problem(where=path.name, what=what)]) from None
    except ValueError as error:  # pyarrow's ArrowInvalid
        if isinstance(error, SpecError):
            raise
        what = f"is no Parquet file: {str(error).splitlines()[0][:120]}"
        raise SpecError([Problem(where=path.name, what=what)]) from None


def _table_in(path: Path) -> Path:
    """The table, or the only one in a folder. Raises SpecError."""
    if path.is_file():
        return path
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in ENDINGS and not each.name.startswith("."))
    if len(found) != 1:
        there = ", ".join(each.name for each in found[:SHOWN]) or "none"
        what = f"'{path}' has {len(found)} tables ({there}); name the one to read"
        raise SpecError([Problem(where="path", what=what)])
    return found[0]


def _short(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest()
