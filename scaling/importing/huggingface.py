"""Reads Parquet files of a data set as on the Hugging Face Hub, with the images in them. Row of data/.

Nothing is ever fetched: an image that is a path alone is set aside. A group of rows is an item.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import Problem, SpecError
from scaling.importing.clinical_files import archives_below, inside, root_of, stamp_of
from scaling.importing.columns import Columns, split_in_path
from scaling.importing.image_file import frames_of
from scaling.importing.reader import About, Frame, Item, LabelSetting, Unreadable
from scaling.importing.safety import MAX_FILE
from scaling.reader_options import HuggingfaceOptions

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 32
"""Rows with their images in memory."""


class Huggingface:
    """Every row of every Parquet file below a folder, or of one file."""

    def __init__(self, options: HuggingfaceOptions) -> None:
        """Raises SpecError."""
        self.options = options
        self.root = root_of(options.path)

    def items(self) -> Iterator[Item]:
        """Raises SpecError with what is wrong with the columns of all files."""
        self.tasks()
        for name, path in self._files:
            n_bytes, stamp = stamp_of(path)
            groups = _groups(path)
            if isinstance(groups, str):
                yield Item(id=name, path=path, n_bytes=n_bytes, stamp=stamp, fault=groups)
                continue
            about, start = self._stated(name), 0
            for number, (n_rows, size) in enumerate(groups):
                yield Item(
                    id=f"{name}/rows-{start:09}",
                    path=path,
                    n_bytes=size,
                    stamp=f"{stamp} {number}",
                    span=(start, start + n_rows),
                    about=about,
                )
                start += n_rows

    def tasks(self) -> Mapping[str, LabelSetting]:
        """Raises SpecError with all problems of columns and labels."""
        return self._known[1]

    def frames(self, item: Item) -> Iterator[Frame | Unreadable]:
        if item.fault:
            raise Unreadable(item.fault)
        if not inside(item.path, self.root):
            raise Unreadable("path outside the folder")
        assert item.span is not None
        columns, _ = self._known
        image = self._image(_schema(item.path))
        name = item.id.rpartition("/")[0]
        for number, cells in enumerate(_rows(item.path, [image, *columns.needed], item.span), item.span[0]):
            image_id = f"{name}/{number}"
            about, fault = columns.about(cells)
            about = replace(
                about, modality=about.modality or item.about.modality, split=about.split or item.about.split
            )
            try:
                if fault:
                    raise Unreadable(fault)
                yield from frames_of(_content(cells[image]), image_id, self.options, about)
            except Unreadable as why:
                yield Unreadable(str(why), image_id=image_id)

    @cached_property
    def _files(self) -> list[tuple[str, Path]]:
        if self.root.is_file():
            return [(self.root.name, self.root)]
        found = archives_below(self.root, (".parquet",))
        if not found:
            raise SpecError([Problem(where="path", what=f"no file below '{self.options.path}' ends in .parquet")])
        return found

    @cached_property
    def _known(self) -> tuple[Columns, Mapping[str, LabelSetting]]:
        named, problems, sound = dict[str, Sequence[str]](), list[Problem](), list[tuple[str, Path]]()
        asked = Columns(self.options).needed
        for name, path in self._files:
            try:
                schema = _schema(path)
            except Unreadable:
                continue  # an item that is set aside
            sound.append((name, path))
            named |= _class_names(schema)
            try:
                self._image(schema)
            except SpecError as error:
                problems += [Problem(where=name, what=each.what) for each in error.problems]
            if missing := [each for each in asked if each not in schema.names]:
                what = f"no column {', '.join(map(repr, missing))}; its columns: {', '.join(schema.names)}"
                problems.append(Problem(where=name, what=what))
        if problems:
            raise SpecError(problems)
        columns = Columns(self.options, named)
        return columns, columns.learn(_cells(sound, asked))

    def _image(self, schema: pa.Schema) -> str:
        """Name of the column. Raises SpecError."""
        fitting = [field.name for field in schema if _holds_images(field.type)]
        asked = self.options.image
        if asked is not None and asked in fitting:
            return asked
        if asked is None and len(fitting) == 1:
            return fitting[0]
        there = ", ".join(f"{field.name} ({field.type})" for field in schema)
        what = (
            f"column '{asked}' holds no images"
            if asked
            else f"{len(fitting)} columns hold images; name one by `image:`"
        )
        raise SpecError([Problem(where="image", what=f"{what}; its columns: {there}")])

    def _stated(self, name: str) -> About:
        return About(split=split_in_path(name) if self.options.split == "path" else None)


def _cells(files: list[tuple[str, Path]], names: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where a row stands, and its columns without images. What is damaged is told when its images are read."""
    for name, path in files:
        with suppress(Unreadable):
            for number, cells in enumerate(_rows(path, names, None, 16_384)):
                yield f"{name}, row {number}", cells


def _schema(path: Path) -> pa.Schema:
    """Raises Unreadable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        schema.names  # noqa: B018  which are decoded only now
        return schema
    except (OSError, pa.ArrowException, ValueError):
        raise Unreadable("damaged Parquet file") from None


def _groups(path: Path) -> list[tuple[int, int]] | str:
    """Rows and bytes of each group, or why there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            known = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            return [(each.num_rows, each.total_byte_size) for each in known]
    except (OSError, pa.ArrowException, ValueError):
        return "damaged Parquet file"


def _rows(
    path: Path, names: list[str], span: tuple[int, int] | None, batch: int = BATCH
) -> Iterator[Mapping[str, Any]]:
    """Of one group of rows, or of all. Raises Unreadable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not names:
        return
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            groups = list(range(file.metadata.num_row_groups))
            if span is not None:
                starts = [0]
                for i in groups:
                    starts.append(starts[-1] + file.metadata.row_group(i).num_rows)
                groups = [i for i in groups if span[0] <= starts[i] < span[1]]
            for part in file.iter_batches(
                batch, row_groups=groups, columns=list(dict.fromkeys(names)), use_threads=False
            ):
                yield from part.to_pylist()
    except (OSError, pa.ArrowException, ValueError):
        raise Unreadable("damaged Parquet file") from None


def _holds_images(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(each.name == "bytes" and _holds_images(each.type) for each in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _content(cell: Any) -> bytes:
    """Raises Unreadable."""
    if isinstance(cell, Mapping):
        content = cell.get("bytes")
        if content is None:
            raise Unreadable("a path without bytes; nothing is fetched" if cell.get("path") else "no image")
    else:
        content = cell
    if content is None:
        raise Unreadable("no image")
    if len(content) > MAX_FILE:
        raise Unreadable(f"too large: more than {MAX_FILE} bytes")
    return bytes(content)


def _class_names(schema: pa.Schema) -> dict[str, Sequence[str]]:
    """Column -> names of its classes, as the Hub's library writes them into the schema."""
    try:
        known = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = known.get("info", {}).get("features", {})
        found = {column: _names_of(feature) for column, feature in features.items()}
    except (ValueError, AttributeError, RecursionError):
        return {}
    return {column: names for column, names in found.items() if names}


def _names_of(feature: Any) -> Sequence[str] | None:
    """Of a ClassLabel, or of a list of them; the list is written in three ways, by the library's age."""
    if isinstance(feature, list):
        return _names_of(feature[0]) if feature else None
    if not isinstance(feature, Mapping):
        return None
    if feature.get("_type") == "ClassLabel":
        return [str(each) for each in feature.get("names") or ()]
    return _names_of(feature.get("feature"))
