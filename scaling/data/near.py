"""Pairs of 64-bit hashes that differ in few bits, without comparing all with all. NumPy only.

Of three bands of the bits, one has at most k // 3 of k differing ones. So every hash of the smaller side is filed in
three tables under its band and all bands that differ from it in so few bits; each hash of the larger side is looked up
in each once (Norouzi et al. 2012, multi-index hashing). Exact: no pair is missed. Good while the smaller side has up to
some hundred thousands and k is at most 5; from 6 on tables are ten times as large.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
BANDS = ((0, 22), (22, 21), (43, 21))
"""First bit and number of bits."""
CHUNK, CANDIDATES = 2**20, 2**22
"""Hashes looked up, and pairs compared, at a time."""


def near_pairs(many: Hashes, few: Hashes, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Positions in `many` and in `few` of all pairs that differ in at most k bits, and in how many; in order."""
    distinct, which = np.unique(few, return_inverse=True)
    found = [_in_band(many, distinct, k, *band) for band in BANDS] if len(many) and len(few) else []
    pairs = np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
    left, hashes = np.divmod(pairs, max(1, len(distinct)))
    members = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[members], np.arange(len(distinct) + 1))
    sizes = np.diff(starts)[hashes]
    at_left = np.repeat(left, sizes)
    at_right = members[_spans(starts[hashes], sizes)]
    order = np.lexsort((at_right, at_left))
    at_left, at_right = at_left[order], at_right[order]
    return at_left, at_right, np.bitwise_count(many[at_left] ^ few[at_right])


def _in_band(many: Hashes, few: Hashes, k: int, first: int, n_bits: int) -> NDArray[np.int64]:
    """Pairs that are near in one band and as a whole, as left * len(few) + right."""
    table, starts = _filed(few, k // len(BANDS), first, n_bits)
    found = [np.empty(0, np.int64)]
    for start in range(0, len(many), CHUNK):
        hashes = many[start : start + CHUNK]
        bands = _band(hashes, first, n_bits)
        begin, sizes = starts[bands], starts[bands + 1] - starts[bands]
        for part in _shares(sizes):
            left = np.repeat(np.arange(len(hashes))[part], sizes[part])
            right = table[_spans(begin[part], sizes[part])]
            near = np.bitwise_count(hashes[left] ^ few[right]) <= k
            found.append((start + left[near]) * len(few) + right[near])
    return np.concatenate(found)


def _filed(few: Hashes, n_flips: int, first: int, n_bits: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hashes in the order of all the bands they are filed under, and where each band begins (2^bits + 1)."""
    flips = [
        sum(1 << bit for bit in bits) for n in range(n_flips + 1) for bits in itertools.combinations(range(n_bits), n)
    ]
    bands = (_band(few, first, n_bits)[:, None] ^ np.array(flips, np.int64)).ravel()
    order = np.argsort(bands, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(bands, minlength=1 << n_bits))])
    return order // len(flips), starts


def _band(hashes: Hashes, first: int, n_bits: int) -> NDArray[np.int64]:
    return ((hashes >> np.uint64(first)) & np.uint64((1 << n_bits) - 1)).astype(np.int64)


def _spans(begin: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """begin[0], begin[0] + 1, ... of sizes[0], then those of the next."""
    if not len(sizes):
        return np.empty(0, np.int64)
    return np.arange(sizes.sum()) + np.repeat(begin - (np.cumsum(sizes) - sizes), sizes)


def _shares(sizes: NDArray[np.int64]) -> Iterator[slice]:
    """Spans of hashes with about `CANDIDATES` pairs each."""
    totals = np.cumsum(sizes)
    bounds = np.searchsorted(totals, np.arange(CANDIDATES, totals[-1] + CANDIDATES, CANDIDATES), side="left") + 1
    start = 0
    for end in np.unique(np.minimum(bounds, len(sizes))).tolist():
        yield slice(start, end)
        start = end
    if start < len(sizes):
        yield slice(start, len(sizes))
