"""Pretraining images that are, exactly or nearly, what a task is judged by. NumPy only.

Few differing bits of two perceptual hashes make a pair suspect; their pixels decide. Compared are means over 16 x 16
areas, up to brightness and contrast: the share of the one's variance that the other leaves unexplained. Good at copies
that were resized, brightened or compressed. Bad at mirrored, turned and cropped ones, which are not found. What else is
found is mostly the next slice, or the same view of one patient again, which a task should not be judged by either;
pictures of one blob on black may be different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.data.near import near_pairs
from scaling.data.perceptual import grey, overlaps, perceptual_hash
from scaling.data.source import Images

BITS = 4
"""Differing bits of a suspect pair. Half of a hash's bits are set, so that their number is even."""
UNEXPLAINED = 0.02
"""Largest share of variance in which copies differ."""
SIDE = 16
FLAT = 0.25
"""Variance in squared grey values below which there is nothing to see: such images are all alike."""
CHUNK = 1024
"""Images read at a time."""
PIECE = 64
"""Images of which sums are in memory at a time."""
Read = Callable[[NDArray[np.int64]], Images]


@dataclass(frozen=True, kw_only=True)
class Looked:
    """Images to be compared: their hashes, and their pixels where they are needed."""

    hashes: NDArray[np.uint64]
    read: Read


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Pairs of images that show the same."""

    pool: NDArray[np.int64]
    """(n,) positions."""
    held: NDArray[np.int64]
    """(n,) positions."""
    bits: NDArray[np.uint8]
    """(n,) in which their hashes differ."""
    unexplained: NDArray[np.float32]
    """(n,) 0 for identical ones, up to `UNEXPLAINED`."""


def copies(pool: Looked, held: Looked) -> Copies:
    """All pairs of an image of the pool and one held out that are copies, in order."""
    at_pool, at_held, bits = near_pairs(pool.hashes, held.hashes, BITS)
    unexplained = np.empty(len(at_pool), np.float32)
    needed, of = np.unique(at_held, return_inverse=True)
    theirs = np.concatenate([_standardised(held.read(part)) for part in _chunks(needed)]) if len(needed) else None
    for start, end in _runs(at_pool):
        mine, which = np.unique(at_pool[start:end], return_inverse=True)
        assert theirs is not None
        products = _standardised(pool.read(mine))[which] * theirs[of[start:end]]
        correlation = products.sum(1, dtype=np.float64)
        unexplained[start:end] = np.where(correlation > 0, 1 - correlation**2, 1)
    same = unexplained <= UNEXPLAINED
    return Copies(pool=at_pool[same], held=at_held[same], bits=bits[same], unexplained=np.maximum(unexplained[same], 0))


def hashes_of(n: int, read: Read, go_on: Callable[[], None] = lambda: None) -> NDArray[np.uint64]:
    """(n,) perceptual hashes of the images at 0 to n - 1."""
    found = np.empty(n, np.uint64)
    for part in _chunks(np.arange(n)):
        go_on()
        found[part] = perceptual_hash(read(part))
    return found


def _standardised(images: Images) -> NDArray[np.float32]:
    """(n, SIDE^2 + 1): means over areas, without their own mean, of length 1. The last is 1 where there is nothing to
    see, so that only such images are like it."""
    weights, small = overlaps(images.shape[-1], SIDE), np.empty((len(images), SIDE**2))
    for start in range(0, len(images), PIECE):
        part = grey(images[start : start + PIECE]).astype(np.float64)
        small[start : start + PIECE] = (weights @ part @ weights.T).reshape(len(part), -1) / part.shape[-1] ** 2
    small -= small.mean(1, keepdims=True)
    variance = (small**2).mean(1, keepdims=True)
    flat = variance < FLAT
    small = np.where(flat, 0, small / np.sqrt(np.where(flat, 1, variance * SIDE**2)))
    return np.concatenate([small, flat], axis=1).astype(np.float32)


def _chunks(positions: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(positions), CHUNK):
        yield positions[start : start + CHUNK]


def _runs(ordered: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Spans of pairs, `CHUNK` images of the pool at most and 16 times as many pairs."""
    fresh = np.cumsum(np.diff(ordered, prepend=-1) > 0)
    start = 0
    while start < len(ordered):
        end = int(np.searchsorted(fresh, fresh[start] + CHUNK, side="left"))
        end = min(max(end, start + 1), start + 16 * CHUNK)
        yield start, end
        start = end
