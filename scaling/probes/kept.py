"""A run's features on disk, one file per task beside its encoder, so that a new read-out or pool needs no forward pass.

A file counts only for the very encoder, task and choice of training images it was made from, and when it is whole.
Nothing in it is code: plain arrays in NumPy's format, checked by the archive's checksums.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scaling.data.source import TaskInfo
from scaling.probes.features import SPLITS, TaskFeatures
from scaling.rundir import FEATURES

VERSION = 1
"""Raised when the same encoder and task begin to give other features."""
Place = Callable[[Path], AbstractContextManager[Path]]
"""Opens a draft that takes the place of a path at the end of the block."""


def digest_of(module: nn.Module) -> str:
    """SHA-256 of an encoder's class and weights, by name."""
    found = hashlib.sha256(type(module).__qualname__.encode())
    for name, values in sorted(module.state_dict().items()):
        held = values.detach().cpu().contiguous()
        found.update(f"{name} {held.dtype} {tuple(held.shape)}".encode())
        found.update(held.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The feature files of a run."""

    folder: Path
    encoder: str
    """`digest_of` the encoder."""
    max_train: int | None
    seed: int
    limit: int
    """Bytes all files may have together; what would go beyond is not kept, and computed again when wanted."""
    place: Place

    def read(self, info: TaskInfo) -> TaskFeatures | None:
        """None where there is no file, or one of another encoder or task, or a damaged one."""
        path = self._path(info)
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                if str(arrays["key"]) != self._key(info):
                    return None
                names = [name for name in arrays.files if "/" in name]
                found = {name: arrays[name] for name in names}
                labels = {split: found.pop(f"{split}/labels") for split in SPLITS}
        except FileNotFoundError:
            return None
        except (ValueError, EOFError, KeyError, OSError, zipfile.BadZipFile, zlib.error) as error:
            print(f"{path} is damaged ({error}); the features are computed again", file=sys.stderr)
            return None
        parts: dict[str, dict] = {split: {} for split in SPLITS}
        for name, values in found.items():
            split, part = name.split("/")
            parts[split][part] = values
        return TaskFeatures(info=info, parts=parts, labels=labels)

    def write(self, features: TaskFeatures) -> None:
        """Keeps them if there is room; without, or where the disk refuses, says so and goes on."""
        arrays: dict[str, NDArray] = {f"{split}/labels": values for split, values in features.labels.items()}
        arrays |= {f"{split}/{part}": values for split, of in features.parts.items() for part, values in of.items()}
        path = self._path(features.info)
        others = sum(other.stat().st_size for other in self.folder.glob(FEATURES) if other != path)
        needed = sum(values.nbytes for values in arrays.values())
        if others + needed > self.limit:
            what = f"{needed / 2**20:.0f} MB would pass the {self.limit / 2**20:.0f} MB of probe.keep_mb"
            print(f"features of {features.info.name} are not kept: {what}", file=sys.stderr)
            return
        try:
            with self.place(path) as draft, open(draft, "wb") as file:
                np.savez(file, key=np.array(self._key(features.info)), **arrays)  # type: ignore[arg-type]
        except OSError as error:
            print(f"features of {features.info.name} are not kept: {error}", file=sys.stderr)

    def _path(self, info: TaskInfo) -> Path:
        return self.folder / FEATURES.replace("*", info.name)

    def _key(self, info: TaskInfo) -> str:
        told = [VERSION, self.encoder, info.name, info.identity, self.max_train, self.seed]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()
