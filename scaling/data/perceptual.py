"""64 bits that say what an image looks like: near copies differ in few of them. NumPy only.

The sign pattern of the low frequencies about their median, as pHash (Zauner 2010): grey, 32 x 32 by area, cosine
transform, the 64 lowest frequencies but the mean. Brightness and contrast, size and compression hardly change it;
mirroring, turning and cropping do. Little detail makes different images alike, so that few differing bits are a
suspicion (`contamination.py` looks at the pixels then), never a proof.

Every number on the way is an integer that its float holds exactly (below 2^24 or 2^53): sums are the same in any order,
so that every machine and every BLAS gives the same bits.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from scaling.data.source import Images

SIDE, BITS = 32, 64
CHUNK_BYTES = 2**24
LUMINANCE = np.array([77, 150, 29], np.uint16)
"""Of 256: ITU-R 601. All together just fit into 16 bits, which is twice as fast as 32."""
GREYS = 16
"""Steps of a grey value that the reduced image keeps."""
COSINES = 4096
"""A cosine of 1."""


def perceptual_hash(images: Images) -> NDArray[np.uint64]:
    """(n,) of (n, channels, height, width) uint8, any size. Images of one grey have 0."""
    hashes = np.empty(len(images), np.uint64)
    step = max(1, CHUNK_BYTES // max(1, int(np.prod(images.shape[1:])) * 8))
    for start in range(0, len(images), step):
        hashes[start : start + step] = _hashes(_reduced(grey(images[start : start + step])))
    return hashes


def grey(images: Images) -> NDArray[np.uint8]:
    """(n, height, width) of (n, 1 or 3, height, width): luminance in integers."""
    if images.shape[1] == 1:
        return images[:, 0]
    weighed = sum(images[:, i] * LUMINANCE[i] for i in range(3))
    return ((weighed + np.uint16(128)) >> np.uint16(8)).astype(np.uint8)


def _reduced(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, SIDE, SIDE) means over areas in whole steps of 1 / GREYS."""
    n, height, width = images.shape
    exact = np.float32 if 255 * height * width < 2**24 else np.float64
    rows = images.reshape(-1, width).astype(exact) @ overlaps(width, SIDE).T.astype(exact)
    sums = overlaps(height, SIDE).astype(exact) @ rows.reshape(n, height, SIDE)
    return np.floor(sums.astype(np.float64) * GREYS / (height * width))


@functools.cache
def overlaps(length: int, side: int) -> NDArray[np.float64]:
    """(side, length): how much of each pixel lies in each of `side` equal spans, in `side`-ths of a pixel."""
    lower = np.maximum(np.arange(side)[:, None] * length, np.arange(length) * side)
    upper = np.minimum(np.arange(1, side + 1)[:, None] * length, np.arange(1, length + 1) * side)
    return np.maximum(upper - lower, 0).astype(np.float64)


def _hashes(reduced: NDArray[np.float64]) -> NDArray[np.uint64]:
    (up, along), cosines = _frequencies(), _cosines()
    low = (cosines @ reduced @ cosines.T)[:, up, along]
    middle = np.partition(low, (BITS // 2 - 1, BITS // 2), axis=1)[:, BITS // 2 - 1 : BITS // 2 + 1]
    above = 2 * low > middle.sum(1, keepdims=True)
    return np.frombuffer(np.packbits(above, axis=1, bitorder="little").tobytes(), "<u8").astype(np.uint64)


@functools.cache
def _frequencies() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The BITS lowest, by the length of their vector, without the mean."""
    pairs = sorted(((u, v) for u in range(SIDE) for v in range(SIDE)), key=lambda p: (p[0] ** 2 + p[1] ** 2, p))
    up, along = np.array(pairs[1 : BITS + 1]).T
    return up, along


@functools.cache
def _cosines() -> NDArray[np.float64]:
    """(frequencies, SIDE): the DCT-II's, rounded to whole numbers."""
    highest = int(max(each.max() for each in _frequencies()))
    angles = np.arange(highest + 1)[:, None] * (2 * np.arange(SIDE) + 1) * np.pi / (2 * SIDE)
    return np.round(COSINES * np.cos(angles))
