"""Importing folders of images against Pillow decoding the same files and nothing else.

`python -m tests.benchmarks importing`. Ours lists, decodes, converts to 64 pixels, hashes, writes and syncs to disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from scaling.importing.importer import Survey, import_source, surveyed
from scaling.importing.request import of_one
from tests.benchmarks.rows import Benchmark, Row, wall_and_cpu


def _written(folder: Path, n: int, size: int, suffix: str) -> None:
    """Smooth colour with noise, which compresses about as pictures of tissue do."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:05}{suffix}", quality=90)


def _decode(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            image.load()


def _survey(folder: Path, store: Path) -> Survey:
    values = {"path": str(folder), "reader": "folder", "modality": "histology"}
    request = of_one(str(store), 64, "tiles", values)
    return surveyed("tiles", request.sources["tiles"], request.image_size)


def folders() -> Iterator[Row]:
    for n, size, suffix in ((6000, 64, ".png"), (1500, 512, ".jpg")):
        with tempfile.TemporaryDirectory(prefix="scaling-import-") as name:
            root = Path(name)
            _written(root / "tiles", n, size, suffix)
            alone_wall, alone_cpu = wall_and_cpu(lambda root=root: _decode(root / "tiles"))
            for workers in (1, 2):

                def ours(root: Path = root, workers: int = workers) -> None:
                    store = root / "store"
                    import_source(store, _survey(root / "tiles", store), workers=workers, replace=True)

                wall, cpu = wall_and_cpu(ours)
                yield Row(
                    what=f"import of {n:,} {suffix[1:].upper()} of {size} px, {workers} worker{'s' * (workers > 1)}",
                    ours=f"{n / wall:,.0f} images/s, {n / cpu:,.0f} per CPU second",
                    peer=f"Pillow decoding alone, one process: {n / alone_wall:,.0f}, {n / alone_cpu:,.0f}",
                    ratio=alone_wall / wall,
                    note="starting processes, conversion, hashes, writing and syncing included",
                )


BENCHMARKS: tuple[Benchmark, ...] = (folders,)
