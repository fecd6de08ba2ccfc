"""Small stores made up for tests: two grey and one coloured source, two tasks, groups of several images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaling.source_options import SplitName
from scaling.store.layout import TaskCard
from scaling.store.writing import Row, write_source

SIZE = 28
SLICES = {"side": TaskCard(kind="binary", classes=["left", "right"])}
CELLS = {"signs": TaskCard(kind="multi-label", classes=["round", "large", "dark"])}


def pictures(n: int, *, seed: int, channels: int = 1, size: int = SIZE) -> NDArray[np.uint8]:
    """(n, channels, size, size) of noise on blobs: none is like another."""
    rng = np.random.default_rng(seed)
    at = (np.arange(size) + 0.5) / size
    found = np.zeros((n, channels, size, size))
    for _ in range(8):
        y, x, width = rng.random((3, n, 1, 1))
        bump = np.exp(-((at[:, None] - y) ** 2 + (at - x) ** 2) / (0.02 + 0.04 * width))
        found += rng.uniform(20, 120, (n, channels, 1, 1)) * bump[:, None]
    return (found / found.max() * 200 + rng.uniform(0, 20, found.shape) + 10).astype(np.uint8)


def split_of(group: int) -> SplitName | None:
    """Of each eight groups: three only to pretrain on, three train, one val, one test."""
    return (None, "train", "val", None, "train", "test", None, "train")[group % 8]  # type: ignore[return-value]


def slice_rows(n: int, *, per_group: int = 3, modality: str = "ct") -> list[Row]:
    """Labelled by `side` where they have a split; groups of `per_group` images."""
    rows = []
    for i in range(n):
        group = i // per_group
        split = split_of(group)
        rows.append(
            Row(
                image_id=f"slices/{i:04d}.png",
                modality=modality,
                height=100,
                width=120,
                group=f"patient-{group}",
                split=split,
                labels={"side": i % 2} if split else {},
            )
        )
    return rows


def cell_rows(n: int) -> list[Row]:
    """Every image a group of its own, labelled by `signs` in every split."""
    return [
        Row(
            image_id=f"cells/{i:04d}.png",
            modality="microscopy",
            height=64,
            width=64,
            split=("train", "train", "val", "test")[i // 4 % 4],  # type: ignore[arg-type]
            labels={"signs": (i & 1, i >> 1 & 1, (i * 7 // 4) & 1)},
        )
        for i in range(n)
    ]


def plain_rows(n: int, *, modality: str = "xray", prefix: str = "films") -> list[Row]:
    """Of no split and without labels."""
    return [Row(image_id=f"{prefix}/{i:04d}.png", modality=modality, height=90, width=90) for i in range(n)]


def write_example(store: Path, sources: Sequence[str] = ("slices", "cells", "films")) -> Path:
    if "slices" in sources:
        write_source(store, "slices", pictures(120, seed=0), slice_rows(120), tasks=SLICES, part_size=32)
    if "cells" in sources:
        write_source(store, "cells", pictures(96, seed=1, channels=3), cell_rows(96), tasks=CELLS, part_size=40)
    if "films" in sources:
        write_source(store, "films", pictures(50, seed=2), plain_rows(50), part_size=50)
    return store
