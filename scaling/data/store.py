"""The `store` source: images that `scaling data import` made ready, mapped, with the tasks of their labels."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaling.data.labels import pooled_labels
from scaling.data.source import MIXED, Images, Labels, Pool, Split, Task, TaskInfo
from scaling.errors import DataMissing, Problem, SpecError, unknown
from scaling.source_options import StoreOptions
from scaling.store.layout import TABLES, group_keys
from scaling.store.opened import NO_SPLIT, SPLITS, StoredImages, StoredSource, manifests_digest, open_sources

TRAIN = SPLITS.index("train")


@dataclass(frozen=True, kw_only=True)
class StoredTask:
    """A task of one source that can be probed."""

    source: str
    info: TaskInfo
    rows: tuple[NDArray[np.int64], ...]
    """Per split, rows of the source."""
    labels: tuple[NDArray[np.int64], ...]
    n_torn: int
    """Groups that stand in several splits."""


@dataclass(frozen=True, kw_only=True)
class Pooled:
    pool: Pool
    rows: NDArray[np.int64]
    """(n,) of each image among those of all sources that are pretrained on."""
    left_out: dict[str, int]
    """Why -> images that are not in the pool."""


class Store:
    """Opening it looks at cards and sizes of files; columns of the manifests are read when they are asked for, pixels
    when a batch is."""

    direct, maps_tasks = True, False

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        path = Path(options.path)
        if not path.is_dir():
            what = f"no folder {path}; `scaling data import` makes a store; a relative path starts where you are"
            raise DataMissing([Problem(where="data.path", what=what)])
        self._card, self._all = open_sources(path)
        chosen = list(self._all) if isinstance(options.sources, str) else list(dict.fromkeys(options.sources))
        if problems := list(self._problems(chosen)):
            raise SpecError(problems)
        self.sources = [self._all[name] for name in chosen]
        self.direct = options.image_size == self._card.image_size
        self.synthetic = all(source.card.synthetic for source in self._all.values())
        self._images = self._images_of(self.sources)
        self._tasks, self.untasked = self._found_tasks()

    @property
    def version(self) -> str:
        """Of what stands at which place of the sources' files."""
        return manifests_digest(self.sources)

    def pool(self) -> Pool:
        return self._pooled.pool

    @property
    def left_out(self) -> dict[str, int]:
        """Why -> images of the sources pretrained on that are not in the pool, those of other splits apart."""
        return self._pooled.left_out

    def hashes(self) -> NDArray[np.uint64]:
        """Perceptual, of the pool, as they were noted at import."""
        return np.concatenate([source.numbers("phash") for source in self.sources])[self._pooled.rows]

    @property
    def doubts(self) -> dict[str, str]:
        """Task -> what is to be doubted of it."""
        shared = "groups stand in several of its splits, so that it seems easier than it is; `scaling data verify`"
        return {name: f"{task.n_torn:,} {shared}" for name, task in self._tasks.items() if task.n_torn}

    @property
    def tables(self) -> Path:
        """Folder for what was found of the pool by looking at its images."""
        return Path(self.options.path) / TABLES

    def read(self, indices: NDArray[np.int64]) -> Images:
        return self.take(self.places(indices))

    def places(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `rows.DirectSource` has it, as `take` and `version`."""
        return self._pooled.rows[indices]

    def take(self, places: NDArray[np.int64]) -> Images:
        return self._images.take(places)

    def tasks(self) -> tuple[TaskInfo, ...]:
        return tuple(task.info for task in self._tasks.values())

    def task(self, name: str) -> Task:
        if name not in self._tasks:
            raise KeyError(unknown("task", name, self._tasks))
        found = self._tasks[name]
        images = self._images_of([self._all[found.source]])
        splits = {
            split: Split(images=images.take(rows), labels=labels)
            for split, rows, labels in zip(SPLITS, found.rows, found.labels, strict=True)
        }
        return Task(info=found.info, **splits)

    def labels(self, indices: NDArray[np.int64]) -> Labels:
        known = self._labelled
        return Labels(tasks=known.tasks, task=known.task[indices], values=known.values[indices])

    # --- the pool ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def _pooled(self) -> Pooled:
        n = sum(source.card.n_images for source in self.sources)
        keys, groups = np.empty(n, np.uint64), np.empty(n, np.uint64)
        splits, modality = np.empty(n, np.int8), np.empty(n, np.int16)
        near, known = np.zeros(n, bool), dict[str, int]()
        start = 0
        for source in self.sources:  # each at its place at once: at tens of millions, copies are what takes time
            span = slice(start, start := start + source.card.n_images)
            keys[span], groups[span], splits[span], codes, names = _pool_columns(source)
            numbers = [known.setdefault(name, len(known)) for name in names]
            modality[span] = np.array(numbers, np.int16)[codes]
            near[span] = _beside(groups[span], splits[span] > TRAIN)  # groups are of one source
        held = splits > TRAIN
        near |= ~held & _among(keys, keys[near])  # nor by a copy in another source
        offered = np.flatnonzero(~(held | near))
        first = _firsts(keys[offered])
        rows = offered if len(first) == len(offered) else offered[first]
        left_out = {"of groups that are in validation or test splits": int(near.sum())}
        left_out["copies of another image"] = len(offered) - len(rows)
        if not len(rows):
            what = "has no image to pretrain on: all are of validation or test splits, or of their groups"
            raise SpecError([Problem(where="data.path", what=f"{self.options.path} {what}")])
        modality = modality[rows]
        counts = np.bincount(modality, minlength=len(known))
        there = sorted(name for name, code in known.items() if counts[code])
        renumbered = np.array([there.index(name) if name in there else 0 for name in known], np.int16)
        pool = Pool(
            keys=keys[rows],
            groups=groups[rows],
            modality=renumbered[modality],
            modalities=tuple(there),
        )
        return Pooled(pool=pool, rows=rows, left_out={why: n for why, n in left_out.items() if n})

    # --- tasks ------------------------------------------------------------------------------------------------

    def _images_of(self, sources: list[StoredSource]) -> StoredImages:
        return StoredImages(sources, self._card.image_size, self.options.image_size, self.options.channels)

    def _problems(self, chosen: list[str]) -> Iterator[Problem]:
        for i, name in enumerate(chosen):
            if name not in self._all:
                yield Problem(where=f"data.sources.{i}", what=unknown("source", name, self._all))
        size = self._card.image_size
        if self.options.image_size > size:
            what = f"{self.options.image_size} is more than the {size} pixels of {self.options.path}; "
            what += f"give {size} or less, or import again into a store of larger images"
            yield Problem(where="data.image_size", what=what)
        of: dict[str, list[str]] = {}
        for source in self._all.values():
            for name in source.card.tasks:
                of.setdefault(name, []).append(source.name)
        wanted = list(of) if isinstance(self.options.tasks, str) else self.options.tasks
        for i, name in enumerate(wanted):
            if name not in of:
                yield Problem(where=f"data.tasks.{i}", what=unknown("task", name, of))
            elif len(of[name]) > 1:
                what = f"task '{name}' is of sources {' and '.join(of[name])}; give it another name in one's import, "
                yield Problem(where="data.tasks", what=what + "or leave it out by `tasks: [...]`")

    def _found_tasks(self) -> tuple[dict[str, StoredTask], dict[str, str]]:
        """Those wanted, by name, and why others that were not named cannot be probed. Raises SpecError for one that was
        named."""
        everything = isinstance(self.options.tasks, str)
        found, lacking = dict[str, StoredTask](), dict[str, str]()
        for source in self._all.values():
            for name in source.card.tasks:
                if everything or name in self.options.tasks:
                    task = self._task_of(source, name)
                    if isinstance(task, StoredTask):
                        found[name] = task
                    else:
                        lacking[name] = task
        if lacking and not everything:
            raise SpecError(
                Problem(where="data.tasks", what=f"task '{name}' cannot be probed: {why}")
                for name, why in lacking.items()
            )
        return found, lacking

    def _task_of(self, source: StoredSource, name: str) -> StoredTask | str:
        """The task, or why it is none."""
        about = source.card.tasks[name]
        table = source.table(["split", "modality", "key", "group_hash"])
        splits, labelled = source.splits(table), source.labelled(name)
        rows = tuple(np.flatnonzero(labelled & (splits == code)) for code in range(len(SPLITS)))
        if empty := [split for split, found in zip(SPLITS, rows, strict=True) if not len(found)]:
            unplaced = int((labelled & (splits == NO_SPLIT)).sum())
            more = f", {unplaced:,} are of no split" if unplaced else ""
            return f"no labelled image is in its {' and '.join(empty)} split{'s' * (len(empty) > 1)}{more}"
        labels = tuple(source.labels(name, found) for found in rows)
        if why := _absent(about.kind == "multi-label", about.classes, labels):
            return why
        codes, names = source.modalities(table)
        used = np.unique(codes[np.concatenate(rows)])
        keys = table["key"].to_numpy()
        digest = hashlib.sha256()
        for found, values in zip(rows, labels, strict=True):
            digest.update(np.ascontiguousarray(keys[found], "<u8").tobytes())
            digest.update(np.ascontiguousarray(values, "<i8").tobytes())
        info = TaskInfo(
            name=name,
            modality=names[used[0]] if len(used) == 1 else MIXED,
            kind=about.kind,
            n_classes=len(about.classes),
            identity=f"{digest.hexdigest()[:16]}-{self.options.image_size}x{self.options.channels}",
            n_train=len(rows[0]),
            n_other=len(rows[1]) + len(rows[2]),
        )
        groups = table["group_hash"].to_numpy()
        _, n_splits = np.unique(np.concatenate([np.unique(groups[found]) for found in rows]), return_counts=True)
        return StoredTask(source=source.name, info=info, rows=rows, labels=labels, n_torn=int((n_splits > 1).sum()))

    @functools.cached_property
    def _labelled(self) -> Labels:
        """Of all members of the pool, in its order."""
        keys = {name: source.numbers("key") for name, source in self._all.items()}
        tasks = list(self._tasks.values())
        train = [(keys[task.source][task.rows[TRAIN]], task.labels[TRAIN]) for task in tasks]
        held = [keys[task.source][rows] for task in tasks for rows in task.rows[TRAIN + 1 :]]
        return pooled_labels(self.pool().keys, self.tasks(), train, held)


Columns = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int8], NDArray[np.int64], list[str]]


def _pool_columns(source: StoredSource) -> Columns:
    """Keys, groups, splits, modalities and their names."""
    table = source.table(["key", "group_hash", "split", "modality"])
    groups = group_keys(source.name, table["group_hash"].to_numpy())
    return table["key"].to_numpy(), groups, source.splits(table), *source.modalities(table)


def _beside(groups: NDArray[np.uint64], held: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) which others are of a group of which some image is held."""
    return ~held & _among(groups, groups[held])


def _among(values: NDArray[np.uint64], some: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(n,) which of many values are among fewer; `np.isin` would sort the many."""
    known = np.unique(some)
    if not len(known):
        return np.zeros(len(values), bool)
    return known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values


def _firsts(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Positions of the first of each key, in order. Sorting values is several times as fast as sorting positions, of
    which only those of keys that come again need it."""
    ordered = np.sort(keys)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(again):
        return np.arange(len(keys))
    at = np.flatnonzero(_among(keys, again))
    order = at[np.argsort(keys[at], kind="stable")]
    kept = np.ones(len(keys), bool)
    kept[order[1:][keys[order[1:]] == keys[order[:-1]]]] = False
    return np.flatnonzero(kept)


def _absent(multi_label: bool, classes: list[str], labels: tuple[NDArray[np.int64], ...]) -> str:
    """Which classes a split lacks, so that nothing can be said of them; empty where none does."""
    lacking = []
    for split, values in zip(SPLITS, labels, strict=True):
        if multi_label:
            gone = [name for name, column in zip(classes, values.T, strict=True) if column.min() == column.max()]
        else:
            gone = [name for code, name in enumerate(classes) if not (values == code).any()]
        if gone:
            lacking.append(
                f"its {split} split has no image {'with and without' if multi_label else 'of'} " + _some(gone)
            )
    return "; ".join(lacking)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
