"""How a source gets into a store: parts of images, then rows, then the card; it appears whole or not at all.

Row of data/. The importer writes parts as they are decoded; `write_source` writes a whole source from arrays at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from scaling.data.perceptual import perceptual_hash
from scaling.data.source import Images
from scaling.errors import Problem, SpecError
from scaling.options import Options
from scaling.rundir import beside, write_whole
from scaling.source_options import SplitName
from scaling.store.layout import (
    LABEL,
    NAME,
    QUARANTINE,
    Part,
    SourceCard,
    StoreCard,
    TaskCard,
    checksums,
    group_hashes,
    keys_of,
    part_path,
    schema_with,
)

LabelValue = int | Sequence[int]
ROW_GROUP = 131_072
"""Rows of the manifest that are read together."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the manifest says of an image beside what follows from its pixels."""

    image_id: str
    modality: str
    height: int
    width: int
    """Before resizing."""
    group: str | None = None
    """None: the image is a group of its own."""
    split: SplitName | None = None
    labels: Mapping[str, LabelValue] = field(default_factory=dict)


class Finished(Options):
    """A part of an import that is done; written after its images and rows."""

    n_items: int
    n_images: int
    n_bytes: int = 0
    """Read of the items' files."""
    sha256: str
    """Of the images' file; empty without one."""
    quarantine: list[tuple[str, str]] = []
    """Item or image, and reason."""
    n_made_grey: int = 0
    """Coloured images of a grey source."""


def open_store(store: Path, image_size: int) -> None:
    """The store is there and takes images of this size; made where it is not. Raises SpecError."""
    path = store / "store.json"
    if not path.exists():
        if store.is_dir() and any(not each.name.startswith(".") for each in store.iterdir()):
            raise _problem(store, "is a folder with files in it but no store; give a new or empty folder")
        write_whole(path, StoreCard(image_size=image_size).model_dump_json(indent=1) + "\n")
        return
    card = store_card(store)
    if card.image_size != image_size:
        raise _problem(
            store, f"holds images of {card.image_size} pixels, not {image_size}; give image_size: {card.image_size}, "
            "or another store: one for each size"
        )  # fmt: skip


def store_card(store: Path) -> StoreCard:
    """Raises SpecError where there is no store, or one of another version."""
    try:
        return StoreCard.model_validate_json((store / "store.json").read_text())
    except FileNotFoundError:
        raise _problem(store, "is no store: it has no store.json; `scaling data import` makes one") from None
    except OSError as error:  # a file instead of a folder; no permission
        raise _problem(store, f"is no store that can be read: {error.strerror or error}") from None
    except (ValidationError, UnicodeDecodeError):
        raise _problem(store / "store.json", "is no card of a store that this version reads") from None


def checked_name(name: str) -> str:
    """Raises SpecError where a source cannot be called so: the name is a folder of the store and nothing else."""
    if not NAME.match(name):
        raise _problem(
            f"source {name!r}", "is no name: small letters, digits, - and _ only, at most 64, as in chest-ct"
        )
    return name


def _problem(where: object, what: str) -> SpecError:
    return SpecError([Problem(where=str(where), what=what)])


# --- parts -------------------------------------------------------------------------------------------------------


class PartFile:
    """Images written one batch after the other to a `.npy` whose length is known at the end."""

    def __init__(self, file: IO[bytes], shape: tuple[int, int, int]) -> None:
        self.n, self._file, self._shape = 0, file, shape
        self._header()

    def append(self, images: Images) -> None:
        """(n, channels, size, size)."""
        if images.shape[1:] != self._shape or images.dtype != np.uint8:
            raise ValueError(f"{images.dtype} {images.shape[1:]} among images of uint8 {self._shape}")
        self._file.write(np.ascontiguousarray(images).data)
        self.n += len(images)

    def close(self) -> None:
        self._file.seek(0)
        self._header()

    def _header(self) -> None:
        """Equally long whatever n is: the format leaves room for its first axis to grow."""
        shape = {"descr": "|u1", "fortran_order": False, "shape": (self.n, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, shape)


@contextmanager
def part_file(path: Path, shape: tuple[int, int, int]) -> Iterator[PartFile]:
    """Appears at `path` when the block ends well; without an image there is no file."""
    with beside(path) as draft, open(draft, "w+b") as file:  # not by a mapping: of that a full disk would kill us
        part = PartFile(file, shape)
        yield part
        part.close()
    if not part.n:
        path.unlink()


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rows_table(images: Images, rows: Sequence[Row], tasks: Mapping[str, TaskCard]) -> pa.Table:
    """The manifest's rows of these images, in their order."""
    sums, groups = checksums(images), [row.image_id if row.group is None else row.group for row in rows]
    columns: dict[str, object] = {
        "image_id": [row.image_id for row in rows],
        "key": keys_of(sums),
        "checksum": sums,
        "phash": perceptual_hash(images) if len(images) else [],
        "modality": [row.modality for row in rows],
        "group": groups,
        "group_hash": group_hashes(groups),
        "split": [row.split for row in rows],
        "height": [row.height for row in rows],
        "width": [row.width for row in rows],
    }
    schema = schema_with(dict(tasks))
    for task in tasks:
        columns[LABEL + task] = [row.labels.get(task) for row in rows]
    return pa.table([_column(columns[each.name], each.type) for each in schema], schema=schema)


def _column(values: object, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


# --- a whole source ----------------------------------------------------------------------------------------------


def draft_of(store: Path, name: str) -> Path:
    """Folder of the import of a source that is under way."""
    return store / f".{name}.importing"


def save_part(draft: Path, number: int, rows: pa.Table, finished: Finished) -> None:
    """The part counts as done from here on; its images are at `draft_part` already."""
    with beside(draft / f"part-{number:05d}.parquet") as path:
        pq.write_table(rows, path)
    # not synced: after a power cut it may be empty, and the part is done again
    write_whole(draft / f"part-{number:05d}.json", finished.model_dump_json() + "\n", durable=False)


def draft_part(draft: Path, number: int) -> Path:
    return draft / f"part-{number:05d}.npy"


def finished_parts(draft: Path) -> dict[int, Finished]:
    """By number, in order."""
    found = dict[int, Finished]()
    for path in sorted(draft.glob("part-*.json"), key=lambda path: int(path.stem[5:])):
        with suppress(ValidationError):
            found[int(path.stem[5:])] = Finished.model_validate_json(path.read_text())
    return found


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a source's card says of where its images are from."""

    reader: str
    options: dict[str, object] = field(default_factory=dict)
    listing: str = ""
    conversion: int = 0
    synthetic: bool = False


def finish(
    store: Path, name: str, *, channels: int, tasks: Mapping[str, TaskCard], origin: Origin, replace: bool = False
) -> SourceCard:
    """Makes a source of the parts of its draft, in their order. Safe to repeat after a crash at any point."""
    draft = draft_of(store, name)
    parts = finished_parts(draft)
    kept = {number: part for number, part in parts.items() if part.n_images}
    if not kept:
        raise _problem(f"source {name!r}", "has no image")
    write_manifest(draft, list(kept), tasks)
    quarantine = [row for part in parts.values() for row in part.quarantine]
    with beside(draft / "quarantine.parquet") as path:
        columns = [[row[i] for row in quarantine] for i in (0, 1)]
        pq.write_table(pa.table(columns, schema=QUARANTINE), path)
    for new, number in enumerate(kept):
        if (old := draft_part(draft, number)).exists():  # else moved before a crash
            old.rename(part_path(draft, new))
    n_by_modality, n_groups = _counts(draft / "manifest.parquet")
    card = SourceCard(
        name=name,
        reader=origin.reader,
        options=origin.options,
        listing=origin.listing,
        channels=3 if channels == 3 else 1,
        n_images=sum(part.n_images for part in kept.values()),
        n_quarantined=len(quarantine),
        n_by_modality=n_by_modality,
        n_groups=n_groups,
        tasks=dict(tasks),
        parts=[Part(n_images=part.n_images, sha256=part.sha256) for part in kept.values()],
        manifest_sha256=sha256_of(draft / "manifest.parquet"),
        conversion=origin.conversion,
        imported=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        synthetic=origin.synthetic,
    )
    write_whole(draft / "source.json", card.model_dump_json(indent=1) + "\n")
    put_in_place(store, name, replace=replace)
    return card


def put_in_place(store: Path, name: str, *, replace: bool = False) -> None:
    """A draft with its card becomes the source; what it replaces is deleted after that."""
    draft, folder, old = draft_of(store, name), store / name, store / f".{name}.replaced"
    for pattern in ("part-*", "import.json", ".*"):
        for path in draft.glob(pattern):
            path.unlink()
    if folder.exists():
        if not replace:
            raise _problem(folder, "is there already; --replace makes it anew")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    directory = os.open(store, os.O_RDONLY)
    try:
        os.fsync(directory)  # the names survive a power cut too
    finally:
        os.close(directory)


def write_manifest(draft: Path, numbers: Iterable[int], tasks: Mapping[str, TaskCard]) -> None:
    """Rows of the parts in their order, in groups of `ROW_GROUP` whatever the parts' sizes."""
    schema = schema_with(dict(tasks))
    with beside(draft / "manifest.parquet") as path, pq.ParquetWriter(path, schema) as writer:
        waiting: list[pa.Table] = []
        for number in numbers:
            waiting.append(pq.read_table(draft / f"part-{number:05d}.parquet", schema=schema))
            if sum(map(len, waiting)) >= ROW_GROUP:
                writer.write_table(_joined(waiting), row_group_size=ROW_GROUP)
                waiting = []
        if waiting:
            writer.write_table(_joined(waiting), row_group_size=ROW_GROUP)


def _joined(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).unify_dictionaries()


def _counts(manifest: Path) -> tuple[dict[str, int], int]:
    """Images of each modality, and groups."""
    table = pq.read_table(manifest, columns=["modality", "group_hash"]).unify_dictionaries()
    counted = pc.value_counts(table["modality"])
    by_modality = dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
    return dict(sorted(by_modality.items())), int(pc.count_distinct(table["group_hash"]).as_py())


def write_source(
    store: Path,
    name: str,
    images: Images,
    rows: Sequence[Row],
    *,
    tasks: Mapping[str, TaskCard] | None = None,
    part_size: int = 1024,
    quarantine: Sequence[tuple[str, str]] = (),
    origin: Origin | None = None,
    replace: bool = False,
) -> SourceCard:
    """A finished source of `images` (n, channels, size, size), uint8, and a row for each; makes the store if need be.

    Raises SpecError for a name that is none or taken, and for a store of another image size.
    """
    if len(images) != len(rows):
        raise ValueError(f"{len(images)} images and {len(rows)} rows")
    checked_name(name)
    if not rows:
        raise _problem(f"source {name!r}", "has no image")
    open_store(store, images.shape[-1])
    draft, tasks = draft_of(store, name), dict(tasks or {})
    shutil.rmtree(draft, ignore_errors=True)
    for number, start in enumerate(range(0, len(images), part_size)):
        span = slice(start, start + part_size)
        with part_file(draft_part(draft, number), images.shape[1:]) as part:
            part.append(images[span])
        finished = Finished(
            n_items=part.n,
            n_images=part.n,
            sha256=sha256_of(draft_part(draft, number)),
            quarantine=[] if number else list(quarantine),
        )
        save_part(draft, number, rows_table(images[span], rows[span], tasks), finished)
    listing = hashlib.sha256("\n".join(row.image_id for row in rows).encode()).hexdigest()
    given = origin or Origin(reader="arrays", listing=listing)
    return finish(store, name, channels=images.shape[1], tasks=tasks, origin=given, replace=replace)
