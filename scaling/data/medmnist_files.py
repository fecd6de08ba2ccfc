"""MedMNIST's files: known by their MD5, and taken apart once into arrays that are mapped ever after.

A file is never loaded whole: PathMNIST at 224 pixels would take 16 GB. Row of data/, NumPy only.
"""

from __future__ import annotations

import fcntl
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaling import medmnist_sets
from scaling.data.cache import cached, cached_images
from scaling.data.npz_members import members, rows, whole
from scaling.data.source import Images
from scaling.medmnist_sets import SPLITS, MedmnistSet, file_name
from scaling.rundir import read_json, write_json
from scaling.store.layout import checksums, keys_of

CHUNK = 1024
"""Images whose keys are made at a time."""
SLOW_BYTES = 2**28
"""Of a file large enough to say what is being done with it."""


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """One split, mapped; of volumes, the slices wanted of it."""

    images: Images
    """(n, channels, size, size), channels as published."""
    labels: NDArray[np.int64]
    """(n,), or (n, n_labels) of 0/1 for multi-label."""
    keys: NDArray[np.uint64]
    """(n,) of each image."""
    groups: NDArray[np.uint64]
    """(n,) of the volume a slice is of; else the keys."""


@dataclass(frozen=True, kw_only=True)
class MedmnistFile:
    """A set at one size, and the folder its arrays go to."""

    name: str
    size: int
    root: Path
    cache: Path
    stride: int = 1
    """Of a set of volumes, every so many slices."""

    @property
    def about(self) -> MedmnistSet:
        return medmnist_sets.SETS[self.name]

    @property
    def file(self) -> str:
        return file_name(self.name, self.size)

    @property
    def path(self) -> Path:
        return self.root / self.file

    @property
    def md5(self) -> str:
        """That it should have."""
        return self.about.md5[self.size]

    @property
    def folder(self) -> Path:
        return self.cache / f"{self.path.stem}-{self.md5[:8]}"

    @property
    def here(self) -> bool:
        """Whether the file is there, or all that was in it."""
        parts = [self._part(split, what) for split in SPLITS for what in ("images.npy", "keys.npz")]
        return self.path.is_file() or all(path.exists() for path in [*parts, self.folder / "labels.npz"])

    def found_md5(self) -> str:
        """Of the file that is there, computed when it is new or has changed; the published one once it was taken apart
        and has gone. Raises OSError where it cannot be read."""
        if not self.path.is_file():
            return self.md5
        stat, memory = self.path.stat(), self.cache / f"{self.path.stem}.md5.json"
        stamp = {"path": str(self.path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        known = read_json(memory)
        if known is not None and known.items() >= stamp.items():
            return str(known["md5"])
        self._say("checking its MD5")
        with open(self.path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        write_json(memory, {**stamp, "md5": digest}, durable=False)
        return digest

    def labels(self, split: str) -> NDArray[np.int64]:
        """Of the split's images or volumes."""

        def read() -> dict[str, NDArray]:
            return {each: whole(self.path, f"{each}_labels").astype(np.int64) for each in SPLITS}

        labels = cached(self.folder / "labels.npz", read)[split]
        return labels if self.about.kind == "multi-label" else labels.reshape(-1)

    def split(self, split: str) -> Unpacked:
        """Takes the split apart first, if nobody did. Raises BadNpz."""
        images, labels, keys = self._images(split), self.labels(split), self._keys(split)
        if not self.about.volumes:
            return Unpacked(images=images, labels=labels, keys=keys["keys"], groups=keys["keys"])
        seen = keys["seen"].copy()
        seen[:, np.arange(seen.shape[1]) % self.stride != self.stride // 2] = False
        volume, depth = np.nonzero(seen)
        return Unpacked(
            images=images[volume, depth][:, None],
            labels=labels[volume],
            keys=keys["keys"][volume, depth],
            groups=keys["volumes"][volume],
        )

    def grey(self, split: str) -> Images:
        """Of a coloured set: luminance (ITU-R 601), (n, 1, size, size), made once."""
        images = self._images(split)
        weights = np.array([0.299, 0.587, 0.114], np.float32)

        def make() -> Iterator[Images]:
            for start in range(0, len(images), CHUNK):
                luminance = np.tensordot(images[start : start + CHUNK], weights, axes=(1, 0))
                yield luminance.round().astype(np.uint8)[:, None]

        with _alone(self.folder):
            return cached_images(self._part(split, "grey.npy"), (len(images), 1, *images.shape[2:]), make)

    def _part(self, split: str, what: str) -> Path:
        return self.folder / f"{split}_{what}"

    def _images(self, split: str) -> Images:
        """(n, channels, h, w); of volumes (n, depth, h, w)."""
        path, name = self._part(split, "images.npy"), f"{split}_images"
        if path.exists():
            mapped: Images = np.load(path, mmap_mode="c", allow_pickle=False)
            return mapped
        shape = members(self.path)[name].shape
        coloured = len(shape) == 4 and not self.about.volumes
        wanted = (
            (shape[0], shape[3], *shape[1:3]) if coloured else shape if len(shape) == 4 else (shape[0], 1, *shape[1:])
        )

        def make() -> Iterator[Images]:
            for part in rows(self.path, name):
                yield part.transpose(0, 3, 1, 2) if coloured else part.reshape(-1, *wanted[1:])

        with _alone(self.folder):
            if not path.exists():
                self._say(f"unpacking {name}")
            return cached_images(path, wanted, make)

    def _keys(self, split: str) -> dict[str, NDArray]:
        """`keys` of images; of volumes `keys` and `seen` of slices (n, depth), and `volumes`."""
        images = self._images(split)

        def make() -> dict[str, NDArray]:
            parts = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
            if not self.about.volumes:
                return {"keys": np.concatenate([keys_of(checksums(part)) for part in parts])}
            slices = [keys_of(checksums(part.reshape(-1, 1, *part.shape[2:]))) for part in parts]
            return {
                "keys": np.concatenate(slices).reshape(images.shape[:2]),
                "volumes": np.concatenate([keys_of(checksums(part)) for part in parts]),
                "seen": np.concatenate([part.min(axis=(2, 3)) < part.max(axis=(2, 3)) for part in parts]),
            }

        return cached(self._part(split, "keys.npz"), make)

    def _say(self, what: str) -> None:
        if self.path.stat().st_size >= SLOW_BYTES:
            print(f"{self.path}: {what}, once", file=sys.stderr)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process of the machine meanwhile: of so large an array, nobody wants a draft each."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
