"""Copies of what tasks are judged by: how many planted ones are found, how many that are none, and how long it takes.

`python -m tests.benchmarks contamination`. Images are those of the packs of `SCALING_SHARED`; without them, only time.
"""

from __future__ import annotations

import functools
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from scaling.data.contamination import BITS, Looked, copies, hashes_of, seen
from scaling.data.near import near_pairs
from scaling.data.perceptual import perceptual_hash
from scaling.data.source import Images
from tests.benchmarks.rows import Benchmark, Row

DATA = Path(os.environ.get("SCALING_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
PACKS = ("breastmnist", "pneumoniamnist", "bccd_cells_28", "dsb2018_tiles_28", "mednist_28")
N_COPIED = 600
"""Images of each pack that copies are made of."""


@functools.cache
def pack(name: str, *splits: str) -> Images:
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as arrays:
        images = np.concatenate([arrays[f"{split}_images"] for split in splits])
    return images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _through(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    def one(image: Images) -> Images:
        picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
        changed = np.asarray(change(picture))
        return changed[None] if changed.ndim == 2 else changed.transpose(2, 0, 1)

    return np.stack([one(image) for image in images])


def _jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        with Image.open(file) as opened:
            opened.load()
            return opened.copy()

    return change


def _sized(side: int) -> Callable[[Image.Image], Image.Image]:
    how = Image.Resampling.BOX if side < 28 else Image.Resampling.BICUBIC
    return lambda picture: picture.resize((side, side), how)


CHANGES: dict[str, Callable[[Images], Images]] = {
    "resized to 64": lambda images: _through(images, _sized(64)),
    "resized to 224": lambda images: _through(images, _sized(224)),
    "resized to 20": lambda images: _through(images, _sized(20)),
    "JPEG 90": lambda images: _through(images, _jpeg(90)),
    "JPEG 75": lambda images: _through(images, _jpeg(75)),
    "25 brighter": lambda images: np.clip(images.astype(int) + 25, 0, 255).astype(np.uint8),
    "contrast x 0.8": lambda images: (images * 0.8 + 25).round().astype(np.uint8),
    "gamma 1.3": lambda images: (255 * (images / 255) ** 1.3).round().astype(np.uint8),
    "noise of 3": lambda images: np.clip(images + np.random.default_rng(0).normal(0, 3, images.shape), 0, 255).astype(
        np.uint8
    ),
    "shifted by 1": lambda images: np.roll(images, 1, 3),
}


def looked(images: Images) -> Looked:
    return Looked(hashes=hashes_of(len(images), images.__getitem__), read=images.__getitem__)


def recall() -> Iterator[Row]:
    """Share of changed copies that are found to be one of the image they were made of."""
    if not DATA.is_dir():
        return
    originals = {}
    for name in PACKS:
        images = pack(name, "test")
        chosen = np.random.default_rng(1).permutation(len(images))[:N_COPIED]
        originals[name] = images[chosen]
    for change, made in CHANGES.items():
        shares = {}
        for name, images in originals.items():
            found = copies(looked(made(images)), seen(images))
            shares[name] = len(np.unique(found.pool[found.pool == found.held])) / len(images)
        each = ", ".join(f"{name.split('_')[0]} {share:.3f}" for name, share in shares.items())
        yield Row(
            what=f"copies found: {change}", ours=f"{min(shares.values()):.3f}", peer="", ratio=float("nan"), note=each
        )


def false_alarms() -> Iterator[Row]:
    """Images of two packs are never copies: whatever is found among them is none."""
    if not DATA.is_dir():
        return
    pools = {name: looked(pack(name, "train")) for name in PACKS}
    held = {name: seen(pack(name, "val", "test")) for name in PACKS}
    suspects = wrong = pairs = 0
    for name, pool in pools.items():
        for other, images in held.items():
            if other != name:
                pairs += len(pool.hashes) * len(images.hashes)
                suspects += len(near_pairs(pool.hashes, images.hashes, BITS)[0])
                wrong += len(copies(pool, images).pool)
    note = f"{suspects:,} by their hashes alone, of {pairs:,} pairs"
    yield Row(what="pairs of two packs taken for copies", ours=str(wrong), peer="0", ratio=float("nan"), note=note)


def search() -> Iterator[Row]:
    """21 M hashes of a pool by 100,000 held out."""
    rng = np.random.default_rng(0)
    known = None
    if DATA.is_dir():
        known = np.concatenate([perceptual_hash(pack(name, "train", "val", "test")) for name in PACKS])
    for what in ("uniform", "like real images, 8 bits turned") if known is not None else ("uniform",):
        sides = []
        for n in (21_000_000, 100_000):
            if known is None or what == "uniform":
                sides.append(rng.integers(0, 2**64, n, dtype=np.uint64))
                continue
            hashes = known[rng.integers(0, len(known), n)]
            for _ in range(8):
                hashes ^= np.uint64(1) << rng.integers(0, 64, n).astype(np.uint64)
            sides.append(hashes)
        begun = time.perf_counter()
        found = near_pairs(sides[0], sides[1], BITS)
        seconds = time.perf_counter() - begun
        yield Row(
            what=f"21 M hashes searched for 100,000, {what}",
            ours=f"{seconds:.1f} s",
            peer="60 s",
            ratio=60 / seconds,
            note=f"{len(found[0]):,} pairs",
        )


BENCHMARKS: tuple[Benchmark, ...] = (recall, false_alarms, search)
