"""The `npz` source: labelled packs in MedMNIST's layout, pretrained on and probed as the YAML says."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from scaling.data.source import Images, Labels, Pool, Split, Task, TaskInfo, TaskKind
from scaling.errors import DataMissing, Problem, SpecError, unknown
from scaling.source_options import NpzOptions, NpzPack

SPLITS = ("train", "val", "test")
Arrays = dict[str, NDArray]


class Npz:
    """Reads every pack once per process; a 60,000-image set at 28 pixels is 0.1 GB."""

    synthetic = False

    def __init__(self, options: NpzOptions) -> None:
        self.options = options
        self.root = Path(options.root or ".")
        problems = [p for name, pack in options.files.items() for p in self._check(name, pack)]
        if problems:
            absent = sum(not (self.root / name).is_file() for name in options.files)  # of each there is one problem
            raise (DataMissing if absent == len(problems) else SpecError)(problems)

    def pool(self) -> Pool:
        return self._pooled[0]

    def read(self, indices: NDArray[np.int64]) -> Images:
        _, images, rows = self._pooled
        return images[rows[indices]]

    def labels(self, indices: NDArray[np.int64]) -> Labels:
        """A copy of a labelled image has its label, whatever file it was read from; of several labels, the first."""
        known = self._labelled
        return Labels(tasks=known.tasks, task=known.task[indices], values=known.values[indices])

    def tasks(self) -> tuple[TaskInfo, ...]:
        return tuple(self._info(name) for name, pack in self.options.files.items() if pack.task)

    def task(self, name: str) -> Task:
        by_name = {self._info(file).name: file for file, pack in self.options.files.items() if pack.task}
        if name not in by_name:
            raise KeyError(unknown("task", name, by_name))
        arrays = self._load(by_name[name])
        splits = {split: Split(images=self._images(arrays, split), labels=_labels(arrays, split)) for split in SPLITS}
        return Task(info=self._info(by_name[name]), **splits)

    # --- one pack ---------------------------------------------------------------------------------------------

    @functools.cache  # noqa: B019 - lives as long as the process's one source
    def _load(self, name: str) -> Arrays:
        with np.load(self.root / name, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    def _check(self, name: str, pack: NpzPack) -> Iterator[Problem]:
        """Whatever is wrong with one pack: missing, unreadable, wrong layout, labels or modalities that do not fit."""
        where, path = f"data.files.{name}", self.root / name
        if not path.is_file():
            found = ", ".join(sorted(p.name for p in self.root.glob("*.npz"))) or "no .npz files"
            yield Problem(where=where, what=f"no file {path}; the folder holds {found}")
            return
        try:
            arrays = self._load(name)
        except TypeError:
            yield Problem(where=where, what=f"{path} is no readable .npz: it holds one bare array; save it by np.savez")
            return
        except (OSError, ValueError, BadZipFile, EOFError) as error:
            yield Problem(where=where, what=f"{path} is no readable .npz: {error}")
            return
        wanted = set(pack.pretrain) | (set(SPLITS) if pack.task else set())
        missing = sorted(f"{s}_{part}" for s in wanted for part in ("images", "labels") if f"{s}_{part}" not in arrays)
        if missing:
            yield Problem(where=where, what=f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays))}")
            return
        for split in sorted(wanted):
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
            if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
                what = f"{split}_images are {images.dtype} {images.shape}; uint8 (n, h, w) or (n, h, w, 3) wanted"
                yield Problem(where=where, what=what)
            if len(labels) != len(images):
                yield Problem(where=where, what=f"{split} has {len(images)} images and {len(labels)} labels")
            if pack.task and (wrong := _misfit(labels, pack.task.kind)):
                yield Problem(
                    where=f"{where}.task.kind", what=f"{split}_labels are no {pack.task.kind} labels: {wrong}"
                )
        if isinstance(pack.modality, dict):
            yield from self._check_classes(where, arrays, pack.modality)
            if pack.task and pack.task.modality is None:
                yield Problem(where=f"{where}.task.modality", what="is missing; the classes are of several modalities")

    def _check_classes(self, where: str, arrays: Arrays, modality: dict[str, str]) -> Iterator[Problem]:
        known = _class_names(arrays)
        for name in modality:
            if name not in known:
                yield Problem(where=f"{where}.modality.{name}", what=unknown("class", name, known))
        for name in known:
            if name not in modality:
                yield Problem(where=f"{where}.modality", what=f"class '{name}' has no modality; add it")

    def _info(self, name: str) -> TaskInfo:
        pack = self.options.files[name]
        assert pack.task is not None
        by_split = {split: _labels(self._load(name), split) for split in SPLITS}
        labels = np.concatenate(list(by_split.values()))
        multi_label = pack.task.kind == "multi-label"
        return TaskInfo(
            name=pack.task.name or name.removesuffix(".npz"),
            modality=pack.task.modality or str(pack.modality),
            kind=pack.task.kind,
            n_classes=labels.shape[1] if multi_label else int(labels.max()) + 1,
            identity=f"{_sha(self._load(name))}-{self.options.image_size}x{self.options.channels}",
            n_train=len(by_split["train"]),
            n_other=len(labels) - len(by_split["train"]),
        )

    # --- pixels -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _pooled(self) -> tuple[Pool, Images, NDArray[np.int64]]:
        """The pool without exact duplicates, all images, and the row among them of each member of the pool."""
        parts, names = [], []
        for file, pack in self.options.files.items():
            for split in pack.pretrain:
                parts.append(self._images(self._load(file), split))
                names.append(_modalities(self._load(file), split, pack.modality))
        if not parts:
            raise SpecError(
                [Problem(where="data.files", what="no pack is pretrained on; give one `pretrain: [train]`")]
            )
        modalities, codes = np.unique(np.concatenate(names), return_inverse=True)
        images = np.concatenate(parts)
        keys, rows = np.unique(_keys(images), return_index=True)
        pool = Pool(
            keys=keys, groups=keys, modality=codes[rows].astype(np.int16), modalities=tuple(map(str, modalities))
        )
        return pool, images, rows

    @functools.cached_property
    def _labelled(self) -> Labels:
        """Of all members of the pool, in its order."""
        files = [file for file, pack in self.options.files.items() if pack.task]
        keys = {(f, split): _keys(self._images(self._load(f), split)) for f in files for split in SPLITS}
        labels = [_labels(self._load(f), "train").reshape(len(keys[f, "train"]), -1) for f in files]
        pool = self.pool().keys
        task = np.full(len(pool), -1)
        values = np.zeros((len(pool), max((rows.shape[1] for rows in labels), default=1)), np.int64)
        for code in reversed(range(len(files))):  # the first file is written last
            found, first = np.unique(keys[files[code], "train"], return_index=True)
            members = np.flatnonzero(np.isin(pool, found))
            rows = labels[code][first[np.searchsorted(found, pool[members])]]
            task[members], values[members] = code, 0
            values[members, : rows.shape[1]] = rows
        for (_, split), held in keys.items():
            if split != "train":  # a duplicate would carry a label of what is tested
                kept_out = np.isin(pool, held)
                task[kept_out], values[kept_out] = -1, 0
        return Labels(tasks=self.tasks(), task=task, values=values)

    def _images(self, arrays: Arrays, split: str) -> Images:
        """(n, channels, size, size): grey repeated, colour to luminance (ITU-R 601), other sizes by area averaging."""
        images = arrays[f"{split}_images"]
        if images.ndim == 3:
            images = images[..., None]
        if images.shape[3] > self.options.channels:
            images = (images @ np.array([0.299, 0.587, 0.114], np.float32))[..., None].round().astype(np.uint8)
        images = np.repeat(images, self.options.channels // images.shape[3], axis=3)
        if images.shape[1:3] != (self.options.image_size,) * 2:
            images = _resized(images, self.options.image_size)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    from PIL import Image

    def one(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        small = np.asarray(
            picture.resize((size, size), Image.Resampling.BOX if size < len(image) else Image.Resampling.BICUBIC)
        )
        return small if small.ndim == 3 else small[..., None]

    return np.stack([one(image) for image in images])


def _misfit(labels: NDArray, kind: TaskKind) -> str:
    """Why labels cannot be those of a task of this kind, and what is wanted; empty when they can."""
    many = labels.ndim == 2 and labels.shape[1] > 1
    if labels.dtype.kind not in "iub":
        return f"they are {labels.dtype}; integers wanted"
    if kind == "multi-label":
        if not many:
            return f"their shape is {labels.shape}; (n, labels) wanted, or another kind"
        return "" if np.isin(labels, (0, 1)).all() else "values besides 0 and 1; each label is 0 or 1"
    if many or labels.ndim not in (1, 2):
        return f"their shape is {labels.shape}; (n,) or (n, 1) wanted, or kind multi-label"
    if kind == "binary" and not np.isin(labels, (0, 1)).all():
        return f"values {labels.min()} to {labels.max()}; 0 and 1 wanted, or kind multi-class"
    return f"a class {labels.min()}; classes count from 0" if len(labels) and labels.min() < 0 else ""


def _labels(arrays: Arrays, split: str) -> NDArray[np.int64]:
    """(n,) or, for several labels an image, (n, n_labels)."""
    labels = arrays[f"{split}_labels"].astype(np.int64)
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _class_names(arrays: Arrays) -> list[str]:
    if "classes" in arrays:
        return [str(name) for name in arrays["classes"]]
    return [str(i) for i in range(int(max(arrays[f"{s}_labels"].max() for s in SPLITS if f"{s}_labels" in arrays)) + 1)]


def _modalities(arrays: Arrays, split: str, modality: str | dict[str, str]) -> NDArray[np.str_]:
    labels = _labels(arrays, split)
    if isinstance(modality, str):
        return np.full(len(labels), modality)
    return np.array([modality[name] for name in _class_names(arrays)])[labels]


def _keys(images: Images) -> NDArray[np.uint64]:
    """64 bits of each image's BLAKE2b: the same image has the same key in whatever file and place."""
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _sha(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        digest.update(f"{key}{arrays[key].dtype}{arrays[key].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()[:16]
