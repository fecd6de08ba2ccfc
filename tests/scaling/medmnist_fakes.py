"""Files in the layout of MedMNIST's, and the table told that they are the published ones.

The published files are too large for tests. By construction the layout is theirs: names of members, uint8 images
without a channel axis where grey and with it last where not, cubes of voxels, uint8 labels (n, 1) or (n, n_labels).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from scaling import medmnist_sets
from scaling.medmnist_sets import SETS, SPLITS, file_name

N_IMAGES = {"train": 40, "val": 16, "test": 20}
N_VOLUMES = {"train": 12, "val": 3, "test": 4}


def arrays_of(name: str, size: int, *, seed: int = 0, n_images: dict[str, int] | None = None) -> dict[str, np.ndarray]:
    """Each class has a brightness of its own, so that there is something to learn."""
    about, rng = SETS[name], np.random.default_rng([seed, size, *name.encode()])
    shape = (size,) * 3 if about.volumes else (size, size, 3) if about.channels == 3 else (size, size)
    arrays = {}
    for split, n in (n_images or (N_VOLUMES if about.volumes else N_IMAGES)).items():
        classes = np.arange(n) % len(about.classes)
        images = rng.integers(0, 90, (n, *shape), dtype=np.uint8)
        images += (classes * 160 // len(about.classes)).astype(np.uint8).reshape(-1, *[1] * len(shape))
        many = about.kind == "multi-label"
        labels = (rng.random((n, len(about.classes))) < 0.3) | np.eye(len(about.classes), dtype=bool)[classes]
        arrays[f"{split}_images"] = images
        arrays[f"{split}_labels"] = labels.astype(np.uint8) if many else classes[:, None].astype(np.uint8)
    return arrays


def write_fakes(
    folder: Path,
    names: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    sizes: Sequence[int] = (28,),
    n_images: dict[str, int] | None = None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for size in sizes:
            np.savez(
                folder / file_name(name, size),
                **arrays_of(name, size, n_images=n_images),  # type: ignore[arg-type]
            )
    publish(folder, monkeypatch)


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a folder become those that the table means."""
    table = dict(medmnist_sets.SETS)
    for name, about in table.items():
        there = {size: folder / file_name(name, size) for size in about.md5}
        md5 = {size: md5_of(path) for size, path in there.items() if path.is_file()}
        table[name] = dataclasses.replace(about, md5={**about.md5, **md5})
    monkeypatch.setattr(medmnist_sets, "SETS", MappingProxyType(table))


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


assert tuple(N_IMAGES) == SPLITS
