"""The `medmnist` source: MedMNIST's published files and no others; its sets are tasks, their training splits a pool."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaling.data.labels import pooled_labels
from scaling.data.medmnist_files import MedmnistFile, Unpacked
from scaling.data.source import Images, Labels, Pool, Split, Task, TaskInfo
from scaling.errors import DataMissing, Problem, SpecError, unknown
from scaling.medmnist_sets import SPLITS, address
from scaling.source_options import MedmnistOptions


class Medmnist:
    """Images stay in files, mapped; what is read of them is what is in memory."""

    synthetic = False
    direct = True
    tables: Path
    """Folder for what is found out about the pool."""

    def __init__(self, options: MedmnistOptions) -> None:
        """Raises DataMissing for files that are not there, SpecError for others that have their names."""
        self.options = options
        root = Path(options.root or ".")
        cache = self.tables = Path(options.cache) if options.cache else root / "unpacked"
        self.files = {
            name: MedmnistFile(name=name, size=options.image_size, root=root, cache=cache, stride=options.stride)
            for name in options.names
        }
        missing = [file for file in self.files.values() if not file.here]
        if problems := [*_others(self.files, cache), *_absent(missing, len(self.files), options)]:
            raise (DataMissing if len(problems) == bool(missing) else SpecError)(problems)

    @property
    def version(self) -> str:
        """As of `rows.DirectSource`: of what decides the pool."""
        options = self.options
        parts = [f"{self.files[name].md5} {' '.join(splits)}" for name, splits in options.pretrained.items()]
        return hashlib.sha256("\n".join([*parts, f"{options.channels} {options.stride}"]).encode()).hexdigest()

    def pool(self) -> Pool:
        return self._pooled[0]

    def read(self, indices: NDArray[np.int64]) -> Images:
        return self.take(self.places(indices))

    def places(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `rows.DirectSource` has it, as `take`."""
        return self._pooled[2][indices]

    def take(self, places: NDArray[np.int64]) -> Images:
        parts = self._pooled[1]
        size, channels = self.options.image_size, self.options.channels
        images = np.empty((len(places), channels, size, size), np.uint8)
        starts = np.cumsum([0, *(len(part) for part in parts)])
        which = np.searchsorted(starts, places, side="right") - 1
        for code in np.unique(which):
            mine = np.flatnonzero(which == code)
            mine = mine[np.argsort(places[mine])]  # forwards through the file
            images[mine] = parts[code][places[mine] - starts[code]]
        return images

    def labels(self, indices: NDArray[np.int64]) -> Labels:
        known = self._labelled
        return Labels(tasks=known.tasks, task=known.task[indices], values=known.values[indices])

    def tasks(self) -> tuple[TaskInfo, ...]:
        return tuple(map(self._info, self.files))

    def task(self, name: str) -> Task:
        if name not in self.files:
            raise KeyError(unknown("task", name, self.files))
        splits = {
            split: Split(images=self._images(name, split), labels=self._split(name, split).labels) for split in SPLITS
        }
        return Task(info=self._info(name), **splits)

    @functools.cache  # noqa: B019 - lives as long as the process's one source
    def _split(self, name: str, split: str) -> Unpacked:
        return self.files[name].split(split)

    def _images(self, name: str, split: str) -> Images:
        """In the channels wanted: grey repeated, which takes no memory; colour to luminance."""
        file, images = self.files[name], self._split(name, split).images
        if images.shape[1] == self.options.channels:
            return images
        if self.options.channels == 1:
            return file.grey(split)
        n, _, height, width = images.shape
        step, _, *within = images.strides
        return np.lib.stride_tricks.as_strided(images, (n, 3, height, width), (step, 0, *within))

    @functools.cache  # noqa: B019 - likewise
    def _info(self, name: str) -> TaskInfo:
        file, about = self.files[name], self.files[name].about
        if about.volumes:
            counts = [len(self._split(name, split).labels) for split in SPLITS]
        else:
            counts = [len(file.labels(split)) for split in SPLITS]
        slices = f"-every{file.stride}" if about.volumes else ""
        return TaskInfo(
            name=name,
            modality=about.modality,
            kind=about.kind,
            n_classes=len(about.classes),
            identity=f"{file.md5}-{file.size}x{self.options.channels}{slices}",
            n_train=counts[0],
            n_other=sum(counts[1:]),
        )

    @functools.cached_property
    def _pooled(self) -> tuple[Pool, list[Images], NDArray[np.int64]]:
        """The pool without exact duplicates, the arrays its images are in, and the place of each among all of them."""
        chosen = [(name, split) for name, splits in self.options.pretrained.items() for split in splits]
        if not chosen:
            raise SpecError([Problem(where="data.pretrain", what="names no split; write `train`, or give a set some")])
        splits = [self._split(*each) for each in chosen]
        modalities = sorted({self.files[name].about.modality for name, _ in chosen})
        codes = [modalities.index(self.files[name].about.modality) for name, _ in chosen]
        keys, at = np.unique(np.concatenate([split.keys for split in splits]), return_index=True)
        modality = np.repeat(np.array(codes, np.int16), [len(split.keys) for split in splits])
        pool = Pool(
            keys=keys,
            groups=np.concatenate([split.groups for split in splits])[at],
            modality=modality[at],
            modalities=tuple(modalities),
        )
        return pool, [self._images(*each) for each in chosen], at

    @functools.cached_property
    def _labelled(self) -> Labels:
        """Of all members of the pool, in its order."""
        train = [(split.keys, split.labels) for split in (self._split(name, "train") for name in self.files)]
        held = [self._split(name, split).keys for name in self.files for split in SPLITS[1:]]
        return pooled_labels(self.pool().keys, self.tasks(), train, held)


def _others(files: dict[str, MedmnistFile], cache: Path) -> Iterator[Problem]:
    """Files of MedMNIST's names that are not MedMNIST's, or a cache that cannot be."""
    there = {name: file for name, file in files.items() if file.path.is_file()}
    if not there:
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        found = {name: file.found_md5() for name, file in there.items()}
    except OSError as error:
        what = f"cannot be used: {error.strerror or error}; give a folder that can be written as data.cache"
        yield Problem(where="data.cache", what=f"{cache} {what}")
        return
    for name, md5 in found.items():
        file = files[name]
        if md5 != file.md5:
            yield Problem(
                where="data",
                what=f"{file.path} is not MedMNIST's {name} at {file.size} pixels: its MD5 is {md5}, the published "
                f"file's {file.md5} ({address(name, file.size)}); download that, or use this one under a name of your "
                f"own with `source: npz`, whose results are not the benchmark's",
            )


def _absent(missing: list[MedmnistFile], n: int, options: MedmnistOptions) -> Iterator[Problem]:
    """One problem for all of them."""
    if not missing:
        return
    size, root = options.image_size, missing[0].root
    sets = "" if options.sets == "all" else f" --sets {' '.join(file.name for file in missing)}"
    listed = "\n".join(f"    {file.file}  MD5 {file.md5}  {address(file.name, size)}" for file in missing)
    yield Problem(
        where="data",
        what=f"{len(missing)} of {n} files of MedMNIST are not in {root}; "
        f"`scaling data download medmnist --size {size}{sets} --to {root}` fetches and checks them, or put them there "
        f"by hand:\n{listed}",
    )
