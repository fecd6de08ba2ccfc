"""Pretraining images that are, exactly or nearly, what a task is judged by. NumPy only.

Few differing bits of two perceptual hashes make a pair suspect; their pixels decide. Compared are means over 16 x 16
areas, up to brightness and contrast: the share of the one's variance that the other leaves unexplained. Good at copies
that were resized, brightened or compressed. Bad at mirrored, turned and cropped ones, which are not found. What else is
found is mostly the next slice, or the same view of one patient again, which a task should not be judged by either;
pictures of one blob on black may be different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.data.near import Hashes, near_pairs
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
BLOCK = 2**22
"""Images of the pool whose suspects are in memory at a time."""
PIECE = 64
"""Images of which sums are in memory at a time."""
Read = Callable[[NDArray[np.int64]], Images]


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A pool to be compared: its hashes, and its pixels where they are needed."""

    hashes: Hashes
    read: Read


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Images that are held out, as far as it takes to know them again; a kilobyte each."""

    hashes: Hashes
    small: NDArray[np.float32]
    """As `_standardised`."""


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


def copies(pool: Looked, held: Seen) -> Copies:
    """All pairs of an image of the pool and one held out that are copies, in order of the pool."""
    starts = range(0, max(1, len(pool.hashes)), BLOCK)
    found = [_copies(pool, held, start) for start in starts]
    at_pool, at_held, bits, unexplained = (np.concatenate([each[i] for each in found]) for i in range(4))
    return Copies(pool=at_pool, held=at_held, bits=bits, unexplained=unexplained)


def _copies(pool: Looked, held: Seen, first: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """In the block that begins at `first`."""
    at_pool, at_held, bits = near_pairs(pool.hashes[first : first + BLOCK], held.hashes, BITS)
    at_pool += first
    unexplained = np.empty(len(at_pool), np.float32)
    for start, end in _runs(at_pool):
        mine, which = np.unique(at_pool[start:end], return_inverse=True)
        products = _standardised(pool.read(mine))[which] * held.small[at_held[start:end]]
        correlation = products.sum(1, dtype=np.float64)
        unexplained[start:end] = np.where(correlation > 0, 1 - correlation**2, 1)
    same = unexplained <= UNEXPLAINED
    return at_pool[same], at_held[same], bits[same], np.maximum(unexplained[same], 0)


def seen(images: Images) -> Seen:
    """Of images held out, which may be mapped."""
    found = [Seen(hashes=np.empty(0, np.uint64), small=np.empty((0, SIDE**2 + 1), np.float32))]
    for part in _chunks(np.arange(len(images))):
        found.append(Seen(hashes=perceptual_hash(images[part]), small=_standardised(images[part])))
    return together(found)


def together(parts: Sequence[Seen]) -> Seen:
    return Seen(
        hashes=np.concatenate([each.hashes for each in parts]), small=np.concatenate([each.small for each in parts])
    )


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
