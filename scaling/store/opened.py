"""A finished store as it is read: its cards and columns, checked, and its images, mapped. Row of data/.

What is cheap is always checked: cards, sizes of files, schema and length of manifests, links. Checksums are
`scaling data verify`'s work. Nothing outside the store's folder is ever opened.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from scaling.data.perceptual import grey, overlaps
from scaling.data.source import Images
from scaling.errors import Problem, SpecError, unknown
from scaling.source_options import SplitName
from scaling.store.layout import LABEL, NAME, SourceCard, StoreCard, part_path, schema_with, sources_of
from scaling.store.writing import store_card

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
NO_SPLIT = -1
HEADER = 128
"""Bytes of a part before its pixels."""
AGAIN = "import it again with --replace"


@dataclass(frozen=True, kw_only=True)
class StoredSource:
    """One source of a store."""

    folder: Path
    card: SourceCard

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.parquet"

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Of the manifest. Raises SpecError where it cannot be read."""
        try:
            return pq.read_table(self.manifest, columns=list(columns), memory_map=True).unify_dictionaries()
        except (pa.ArrowException, OSError) as error:
            raise SpecError([self._fault(f"cannot be read: {_first_line(error)}; {AGAIN}")]) from None

    def numbers(self, column: str) -> NDArray:
        """(n,) of a column without nulls."""
        return self.table([column])[column].to_numpy()

    def splits(self, table: pa.Table) -> NDArray[np.int8]:
        """(n,) index into `SPLITS`, `NO_SPLIT` without one. Raises SpecError for any other."""
        codes, names = _codes(table["split"])
        if strange := sorted(set(names) - set(SPLITS)):
            raise SpecError([self._fault(f"has split '{strange[0]}'; allowed: {', '.join(SPLITS)}; {AGAIN}")])
        order = np.array([*map(SPLITS.index, names), NO_SPLIT], np.int8)
        return order[codes]

    def modalities(self, table: pa.Table) -> tuple[NDArray[np.signedinteger], list[str]]:
        """(n,) index into the names beside it."""
        return _codes(table["modality"])

    def labels(self, task: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,), or (n, n_labels) for multi-label, of rows that have one. Raises SpecError for values out of range."""
        about = self.card.tasks[task]
        column = self.table([LABEL + task])[LABEL + task].take(pa.array(rows)).combine_chunks()
        n_classes = len(about.classes)
        if about.kind == "multi-label":
            lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
            if (lengths != n_classes).any():
                raise SpecError([self._fault(f"has labels of task '{task}' that are not {n_classes} each; {AGAIN}")])
            values = pc.list_flatten(column).to_numpy(zero_copy_only=False).astype(np.int64).reshape(-1, n_classes)
            top = 2
        else:
            values, top = column.to_numpy(zero_copy_only=False).astype(np.int64), n_classes
        if len(values) and (values.min() < 0 or values.max() >= top):
            what = f"has labels of task '{task}' from {values.min()} to {values.max()}; 0 to {top - 1} allowed; {AGAIN}"
            raise SpecError([self._fault(what)])
        return values

    def labelled(self, task: str) -> NDArray[np.bool_]:
        """(n,)."""
        return self.table([LABEL + task])[LABEL + task].is_valid().to_numpy()

    def _fault(self, what: str) -> Problem:
        return Problem(where=str(self.manifest), what=what)


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.signedinteger], list[str]]:
    """Of a dictionary column: (n,) codes as narrow as they are stored, -1 for null, and the names."""
    if not column.num_chunks:
        return np.empty(0, np.int16), []
    indices = [chunk.indices for chunk in column.chunks]
    parts = [(each.fill_null(-1) if each.null_count else each).to_numpy() for each in indices]
    return np.concatenate(parts), column.chunk(0).dictionary.to_pylist()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- opening -----------------------------------------------------------------------------------------------------


def open_sources(store: Path, names: Sequence[str] | None = None) -> tuple[StoreCard, dict[str, StoredSource]]:
    """The store's card and its sources, all or those named, in order. Raises SpecError with all that is wrong."""
    if (store / "store.json").is_symlink():
        raise SpecError([Problem(where=str(store / "store.json"), what=LINK)])
    card = store_card(store)
    there = sources_of(store)
    wanted = there if names is None else list(dict.fromkeys(names))
    problems = list(_closed(store))
    problems += [Problem(where=str(store), what=unknown("source", name, there)) for name in wanted if name not in there]
    if not there:
        problems.append(Problem(where=str(store), what="has no source yet; `scaling data import` adds one"))
    if problems:
        raise SpecError(problems)
    opened: dict[str, StoredSource] = {}
    for name in wanted:
        try:
            source = StoredSource(folder=store / name, card=source_card(store / name))
            faults = list(_faults(source, card.image_size))
        except SpecError as error:
            faults = list(error.problems)
        problems += faults
        if not faults:
            opened[name] = source
    if problems:
        raise SpecError(problems)
    return card, opened


def _closed(store: Path) -> Iterator[Problem]:
    """Folders that we may not look into: a source there would else be absent without a word."""
    folders = [store]
    if os.access(store, os.R_OK | os.X_OK):
        folders = [each for each in sorted(store.iterdir()) if NAME.match(each.name) and each.is_dir()]
    for each in folders:
        if not os.access(each, os.R_OK | os.X_OK):
            yield Problem(where=str(each), what="cannot be looked into: Permission denied; sources may be there")


LINK = "is a link; a store holds plain files of its own alone"


def source_card(folder: Path) -> SourceCard:
    """Raises SpecError where it is none, or that of another folder."""
    path = folder / "source.json"
    links = [each for each in (folder, path) if each.is_symlink()]
    if links:
        raise SpecError([Problem(where=str(links[0]), what=LINK)])
    try:
        card = SourceCard.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "it"
        what = f"is no card of a source: {at}: {first['msg']}; {AGAIN}"
        raise SpecError([Problem(where=str(path), what=what)]) from None
    except (UnicodeDecodeError, OSError) as error:
        raise SpecError([Problem(where=str(path), what=f"cannot be read: {error}; {AGAIN}")]) from None
    if card.name != folder.name:
        what = f"is the card of a source '{card.name}'; a source's folder has its name"
        raise SpecError([Problem(where=str(path), what=what)])
    if strange := [task for task in card.tasks if not NAME.match(task)]:
        raise SpecError([Problem(where=str(path), what=f"has a task {strange[0]!r}, which is no name; {AGAIN}")])
    return card


def _faults(source: StoredSource, image_size: int) -> Iterator[Problem]:
    """What is wrong with a source's files, as far as their sizes tell."""
    card, folder = source.card, source.folder
    with os.scandir(folder) as entries:
        there = {entry.name: entry for entry in entries}
    expected = [part_path(folder, i).name for i in range(len(card.parts))]
    n_bytes = card.channels * image_size**2
    for name, part in zip(expected, card.parts, strict=True):
        if name not in there:
            yield Problem(where=str(folder / name), what=f"is missing; {AGAIN}")
        elif there[name].is_symlink():
            yield Problem(where=str(folder / name), what=LINK)
        elif (size := there[name].stat().st_size) != (full := HEADER + part.n_images * n_bytes):
            how = "cut short" if size < full else "too long"
            yield Problem(where=str(folder / name), what=f"is {how}: {size:,} bytes, not {full:,}; {AGAIN}")
    in_parts = sum(part.n_images for part in card.parts)
    if in_parts != card.n_images:
        what = f"says {card.n_images:,} images and lists {in_parts:,} in its parts; {AGAIN}"
        yield Problem(where=str(folder / "source.json"), what=what)
    yield from _faults_of_manifest(source, there)


def _faults_of_manifest(source: StoredSource, there: Mapping[str, os.DirEntry]) -> Iterator[Problem]:
    path, card = source.manifest, source.card
    if path.name not in there:
        yield Problem(where=str(path), what=f"is missing; {AGAIN}")
        return
    if there[path.name].is_symlink():
        yield Problem(where=str(path), what=LINK)
        return
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            n_rows, schema = file.metadata.num_rows, file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        yield Problem(where=str(path), what=f"is no readable Parquet file: {_first_line(error)}; {AGAIN}")
        return
    wanted = schema_with(card.tasks)
    lacking = [each.name for each in wanted if each.name not in schema.names]
    others = [each.name for each in wanted if each.name in schema.names and schema.field(each.name).type != each.type]
    if lacking or others:
        what = f"lacks {', '.join(lacking)}" if lacking else f"has another type of {', '.join(others)}"
        yield Problem(where=str(path), what=f"{what}; {AGAIN}")
    if n_rows != (n_images := sum(part.n_images for part in card.parts)):
        yield Problem(where=str(path), what=f"has {n_rows:,} rows for {n_images:,} images; {AGAIN}")


def manifests_digest(sources: Sequence[StoredSource]) -> str:
    """SHA-256 of the names and manifests: changes with any image, label or order."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.name} {source.card.manifest_sha256}\n".encode())
    return digest.hexdigest()


# --- images ------------------------------------------------------------------------------------------------------


class StoredImages:
    """Images of several sources, numbered through in their order, in one size and number of channels."""

    def __init__(self, sources: Sequence[StoredSource], stored_size: int, size: int, channels: int) -> None:
        """`size`: `stored_size` or less."""
        self.size, self.channels = size, channels
        self._shapes, self._paths, lengths = list[tuple[int, ...]](), list[Path](), list[int]()
        for source in sources:
            for number, part in enumerate(source.card.parts):
                self._paths.append(part_path(source.folder, number))
                self._shapes.append((part.n_images, source.card.channels, stored_size, stored_size))
                lengths.append(part.n_images)
        self._starts = np.cumsum([0, *lengths])
        self._part = functools.lru_cache(maxsize=_room(len(self._paths)))(self._mapped)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: NDArray[np.int64]) -> Images:
        """(n, channels, size, size) in the order asked for; forwards through each part, each once. Safe to call from
        several threads. Raises IndexError for rows that there are not, ValueError for a part that was changed."""
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows from {rows.min()} to {rows.max()} of {len(self)}")
        images = np.empty((len(rows), self.channels, self.size, self.size), np.uint8)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        which = np.searchsorted(self._starts, ordered, side="right") - 1
        first = np.flatnonzero(np.diff(which, prepend=-1)) if len(rows) else np.empty(0, np.int64)
        spans = [slice(*span) for span in pairwise([*first.tolist(), len(rows)])]
        parts = [
            (span, self._part(n), ordered[span] - self._starts[n]) for span in spans for n in [int(which[span.start])]
        ]
        for _, part, within in parts:
            announce(part, within)
        for span, part, within in parts:
            images[order[span]] = resized(recoloured(part[within], self.channels), self.size)
        return images

    def _mapped(self, part: int) -> Images:
        return mapped(self._paths[part], self._shapes[part])


class DamagedPart(ValueError):
    """A file of images that is not what its card says; the message says why, and the way out."""


def mapped(path: Path, shape: tuple[int, ...]) -> Images:
    """A part. Raises DamagedPart where it is not one of this shape, OSError where it cannot be opened."""
    try:
        images: Images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DamagedPart(f"{path} is no readable part: {_first_line(error)}; {AGAIN}") from None
    if images.shape != shape or images.dtype != np.uint8:
        raise DamagedPart(f"{path} holds {images.dtype} {images.shape}, not uint8 {shape}; {AGAIN}")
    return images


def announce(images: Images, rows: NDArray[np.int64]) -> None:
    """Asks the system to fetch the pages of rows, in order, of a mapped part, all at once.

    Else a fault waits for each of them, and the system fetches what lies around it: measured on a disk that reads
    8 MB ahead, a batch of 1,024 images of 12 kB of 3 GB then read 220 times its bytes and took 50 to 100 times as long.
    """
    mapping, size = cast(mmap.mmap, images.base), images[0].nbytes
    starts = HEADER + rows * size
    ends, starts = starts + size, starts - starts % mmap.PAGESIZE
    apart = np.flatnonzero(starts[1:] > ends[:-1])
    firsts, lasts = starts[np.concatenate([[0], apart + 1])], ends[np.concatenate([apart, [len(rows) - 1]])]
    for start, end in zip(firsts.tolist(), lasts.tolist(), strict=True):
        mapping.madvise(mmap.MADV_WILLNEED, start, end - start)


def _room(n_files: int) -> int:
    """How many parts may stay mapped, which keeps a file open each: all, where the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2**20
    soft, hard = (most if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    if n_files > soft // 2 and hard > soft:
        soft = min(hard, soft + n_files)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(16, min(n_files, soft // 2))


def recoloured(images: Images, channels: int) -> Images:
    """Grey repeated, or colour to luminance."""
    if images.shape[1] == channels:
        return images
    return grey(images)[:, None] if channels == 1 else np.repeat(images, 3, axis=1)


def resized(images: Images, size: int) -> Images:
    """Means over areas, exact, rounded half up; `size` is theirs or less."""
    length = images.shape[-1]
    if length == size:
        return images
    weights, area = overlaps(length, size), length**2
    sums = weights @ images.astype(np.float64) @ weights.T
    return np.floor((2 * sums + area) / (2 * area)).astype(np.uint8)
