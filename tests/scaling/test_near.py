"""Pairs of hashes that differ in few bits: all of them and no others."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from scaling.data import near
from scaling.data.near import near_pairs

Hashes = NDArray[np.uint64]


@pytest.fixture(scope="module")
def hashes() -> tuple[Hashes, Hashes]:
    """Most of the fewer are those of the many with up to eight bits turned; some stand twice."""
    rng = np.random.default_rng(0)
    many = rng.integers(0, 2**64, 2000, dtype=np.uint64)
    few = many[rng.integers(0, len(many), 300)]
    for i in range(len(few)):
        for bit in rng.choice(64, i % 9, replace=False):
            few[i] ^= np.uint64(1) << np.uint64(bit)
    many[:5] = few[10:15]
    few[-20:] = few[:20]
    return many, few


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 5, 6])
def test_every_pair_is_found_and_none_that_is_further_apart(hashes: tuple[Hashes, Hashes], k: int) -> None:
    many, few = hashes
    apart = np.bitwise_count(many[:, None] ^ few[None])
    left, right = np.nonzero(apart <= k)
    found = near_pairs(many, few, k)
    np.testing.assert_array_equal(found[0], left)
    np.testing.assert_array_equal(found[1], right)
    np.testing.assert_array_equal(found[2], apart[left, right])


def test_pieces_give_what_the_whole_gives(hashes: tuple[Hashes, Hashes], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = near_pairs(*hashes, 4)
    monkeypatch.setattr(near, "CHUNK", 301)
    monkeypatch.setattr(near, "CANDIDATES", 7)
    for one, other in zip(near_pairs(*hashes, 4), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_hash_that_all_have_is_paired_with_all() -> None:
    left, right, bits = near_pairs(np.zeros(30, np.uint64), np.zeros(20, np.uint64), 4)
    assert len(left) == 600
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == {(i, j) for i in range(30) for j in range(20)}
    assert not bits.any()


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)])
def test_of_nothing_there_are_no_pairs(sizes: tuple[int, int]) -> None:
    found = near_pairs(np.zeros(sizes[0], np.uint64), np.zeros(sizes[1], np.uint64), 4)
    assert [len(each) for each in found] == [0, 0, 0]
