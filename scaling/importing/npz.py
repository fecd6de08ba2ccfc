"""Reads packs in MedMNIST's layout, of any size: members are streamed out of the archive, never loaded. Row of data/.

A file is what its options say, whatever its name; MedMNIST's own files, known by their MD5, are the source `medmnist`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from scaling.data.npz_members import BadNpz, Member, members, rows, whole
from scaling.errors import Problem, SpecError
from scaling.importing.clinical_files import archives_below, inside, root_of, stamp_of
from scaling.importing.folder import modality_by_path
from scaling.importing.reader import About, Frame, Item, LabelSetting, LabelValue, SplitName, Unreadable
from scaling.importing.safety import OUTSIDE, checked_ratio
from scaling.reader_options import NpzReaderOptions, NpzTask

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
ITEM_BYTES, ITEM_ROWS = 64 << 20, 4096
"""Of the rows that are one item, at most."""


class Npz:
    """Every image of every .npz below a folder, or of one file; an item is a span of rows."""

    def __init__(self, options: NpzReaderOptions) -> None:
        """Raises SpecError."""
        self.options = options
        self.root = root_of(options.path)
        self._stream: tuple[tuple[Path, str, int], int, Iterator[NDArray]] | None = None
        self._read: dict[tuple[Path, str], NDArray] = {}

    def items(self) -> Iterator[Item]:
        self.tasks()
        for name, path in self._files:
            n_bytes, stamp = stamp_of(path)
            found = self._packs[name]
            if isinstance(found, str):
                yield Item(id=name, path=path, n_bytes=n_bytes, stamp=stamp, fault=found)
                continue
            for split in SPLITS:
                if images := found.get(f"{split}_images"):
                    yield from self._spans(name, path, split, images, stamp)

    def _spans(self, name: str, path: Path, split: SplitName, images: Member, stamp: str) -> Iterator[Item]:
        n, step = images.shape[0], _step(images)
        about = About(modality=modality_by_path(self.options.modality, name), split=split)
        for start in range(0, n, step):
            end = min(start + step, n)
            yield Item(
                id=f"{name}/{split}/{start:08}",
                path=path,
                n_bytes=images.n_bytes * (end - start) // n,
                stamp=stamp,
                span=(start, end),
                about=about,
            )

    def tasks(self) -> Mapping[str, LabelSetting]:
        """Raises SpecError with all that is wrong with the packs' labels."""
        return self._settings

    def frames(self, item: Item) -> Iterator[Frame | Unreadable]:
        if item.fault or item.span is None:
            raise Unreadable(item.fault or "no image")
        if not inside(item.path, self.root):
            raise Unreadable(OUTSIDE)
        name, split = item.id.rsplit("/", 2)[:2]
        try:
            found = members(item.path)
            images = found[f"{split}_images"]
            values = self._rows(item.path, images, item.span[0])
            labels, groups = self._beside(item.path, name, split, found)
        except (BadNpz, KeyError):
            raise Unreadable("damaged pack") from None
        task = self.options.tasks.get(name)
        for number, pixels in enumerate(values, item.span[0]):
            image_id = f"{name}/{split}/{number}"
            said = {} if task is None or labels is None else {task.name: _label(task, labels[number])}
            group = None if groups is None else str(groups[number])
            yield from self._images(image_id, pixels, About(labels=said, group=group), images)

    def _images(self, image_id: str, pixels: NDArray, about: About, images: Member) -> Iterator[Frame]:
        if not self._is_volume(images):
            yield Frame(id=image_id, pixels=pixels, about=about)
            return
        about = About(labels=about.labels, group=about.group or image_id)
        for depth in range(0, len(pixels), self.options.stride):
            yield Frame(id=f"{image_id}#{depth}", pixels=pixels[depth], about=about)

    def _is_volume(self, images: Member) -> bool:
        return len(images.shape) == 4 and (images.shape[3] != 3 or self.options.volumes == "yes")

    def _rows(self, path: Path, images: Member, start: int) -> NDArray:
        """The item's rows. The stream stays where it is, so that consecutive items pass over nothing twice."""
        step = _step(images)
        key, wanted = (path, images.name, path.stat().st_mtime_ns), start // step
        if self._stream is None or self._stream[0] != key or self._stream[1] > wanted:
            self._stream = (key, 0, rows(path, images.name, n_rows=step))
        _, at, stream = self._stream
        try:
            for _ in range(wanted - at):
                next(stream)
            found = next(stream)
        except (BadNpz, StopIteration):
            self._stream = None
            raise Unreadable("damaged pack") from None
        self._stream = (key, wanted + 1, stream)
        return found

    def _beside(
        self, path: Path, name: str, split: str, found: Mapping[str, Member]
    ) -> tuple[NDArray | None, NDArray | None]:
        """Labels and groups of a split, where they are asked for."""
        asked = [f"{split}_labels" if name in self.options.tasks else None]
        asked.append(f"{split}_{self.options.group}" if self.options.group else None)
        both = [self._whole(path, each) if each in found else None for each in asked]
        return both[0], both[1]

    def _whole(self, path: Path, member: str | None) -> NDArray:
        key = (path, str(member))
        if key not in self._read:
            self._read[key] = whole(path, str(member))
        return self._read[key]

    # --- what is in the packs ------------------------------------------------------------------------------------

    @cached_property
    def _files(self) -> list[tuple[str, Path]]:
        if self.root.is_file():
            return [(self.root.name, self.root)]
        found = archives_below(self.root, (".npz",))
        if not found:
            raise SpecError([Problem(where="path", what=f"no file below '{self.options.path}' ends in .npz")])
        return found

    @cached_property
    def _packs(self) -> Mapping[str, Mapping[str, Member] | str]:
        """File -> its members, or why it is no pack."""
        return {name: self._pack(path) for name, path in self._files}

    def _pack(self, path: Path) -> Mapping[str, Member] | str:
        try:
            with ZipFile(path) as archive:
                for info in archive.infolist():
                    checked_ratio(path.name, info.compress_size, info.file_size)
            found = members(path)
        except SpecError as error:
            return f"decompression bomb: {error.problems[0].what}"
        except Exception as error:  # a damaged header or directory makes NumPy and zipfile raise all sorts
            text = str(error).replace(str(path), path.name)
            return f"no pack: {text[:160]}"
        return self._shape_fault(found) or found

    def _shape_fault(self, found: Mapping[str, Member]) -> str | None:
        there = [f"{split}_images" for split in SPLITS if f"{split}_images" in found]
        if not there:
            return f"no pack: none of train_images, val_images, test_images among {', '.join(found) or 'nothing'}"
        for name in there:
            images = found[name]
            if len(images.shape) not in (3, 4) or images.dtype.kind not in "uifb" or not np.prod(images.shape):
                return f"no pack: {name} is {images.dtype} {images.shape}"
            for other in (name.replace("images", "labels"), name.replace("images", str(self.options.group))):
                if other in found and found[other].shape[:1] != images.shape[:1]:
                    return f"no pack: {other} is {found[other].shape}, {name} {images.shape}: rows must be as many"
        return None

    @cached_property
    def _settings(self) -> Mapping[str, LabelSetting]:
        settings, problems = dict[str, LabelSetting](), list[Problem]()
        paths = dict(self._files)
        for file, task in self.options.tasks.items():
            found = self._packs.get(file)
            if found is None:
                what = f"no such file; there are {', '.join(list(self._packs)[:5])}"
                problems.append(Problem(where=f"tasks.{file}", what=what))
            elif not isinstance(found, str):
                labels = self._labels(paths[file], found, f"tasks.{file}", problems)
                settings[task.name] = _setting(task, labels, f"tasks.{file}", problems)
        if self.options.group:
            for file, found in self._packs.items():
                lacking = [
                    f"{s}_{self.options.group}"
                    for s in SPLITS
                    if not isinstance(found, str)
                    and f"{s}_images" in found
                    and f"{s}_{self.options.group}" not in found
                ]
                if lacking:
                    problems.append(
                        Problem(
                            where=f"{file}: group", what=f"no member {', '.join(lacking)}; there are {', '.join(found)}"
                        )
                    )
        if problems:
            raise SpecError(problems)
        return settings

    def _labels(self, path: Path, found: Mapping[str, Member], where: str, problems: list[Problem]) -> list[NDArray]:
        wanted = [f"{split}_labels" for split in SPLITS if f"{split}_images" in found]
        missing = [name for name in wanted if name not in found]
        wrong = [name for name in wanted if name in found and found[name].dtype.kind not in "uib"]
        for what, names in (("is missing", missing), ("holds no whole numbers", wrong)):
            problems += [Problem(where=where, what=f"{name} {what}") for name in names]
        try:
            return [self._whole(path, name) for name in wanted if name in found and name not in wrong]
        except BadNpz as error:
            problems.append(Problem(where=where, what=str(error).replace(os.fspath(path), path.name)))
            return []


def _step(images: Member) -> int:
    """Rows of an item."""
    return max(1, min(ITEM_ROWS, ITEM_BYTES // max(1, images.n_bytes // images.shape[0])))


def _label(task: NpzTask, row: NDArray) -> LabelValue:
    values = np.atleast_1d(row)
    return tuple(int(each) for each in values) if task.kind == "multi-label" else int(values[0])


def _setting(task: NpzTask, labels: list[NDArray], where: str, problems: list[Problem]) -> LabelSetting:
    """What the codes mean; problems where they are out of the range."""
    widths = {int(np.prod(each.shape[1:])) for each in labels}
    multi = task.kind == "multi-label"
    top = max((int(each.max()) for each in labels if each.size), default=1)
    n = (max(widths, default=1) if multi else top + 1) if task.classes is None else len(task.classes)
    classes = task.classes or [str(code) for code in range(max(n, 2))]
    if len(widths) > 1 or (widths and (widths != {n} if multi else widths != {1})):
        problems.append(
            Problem(where=where, what=f"labels of {sorted(widths)} columns; {n if multi else 1} is allowed")
        )
    if task.kind == "binary" and len(classes) != 2:
        problems.append(Problem(where=where, what=f"a binary task has 2 classes, not {len(classes)}"))
    low = min((int(each.min()) for each in labels if each.size), default=0)
    limit = 1 if multi else len(classes) - 1
    if low < 0 or top > limit:
        problems.append(Problem(where=where, what=f"labels from {low} to {top}; 0 to {limit} are allowed"))
    return LabelSetting(kind=task.kind, classes=tuple(classes))
