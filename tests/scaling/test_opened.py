"""Rows of mapped parts: announced to the system before they are gathered, and known by groups of their source alone."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.data.source import Images
from scaling.store.layout import group_hashes, group_keys
from scaling.store.opened import HEADER, StoredImages, announce, open_sources
from scaling.store.writing import Row, write_source


class Mapping:
    """Remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def madvise(self, advice: int, start: int, length: int) -> None:
        assert advice == mmap.MADV_WILLNEED
        assert start % mmap.PAGESIZE == 0
        self.asked.append((start, start + length))


class Mapped:
    """An array of images of so many bytes, of which the mapping is a fake."""

    def __init__(self, n_bytes: int) -> None:
        self.base, self.image = Mapping(), np.zeros(n_bytes, np.uint8)

    def __getitem__(self, index: int) -> Any:
        return self.image


@pytest.mark.parametrize("n_bytes", [64, 4096, 12_288, 150_528])
def test_every_byte_of_the_rows_is_announced_and_little_else(n_bytes: int) -> None:
    mapped = Mapped(n_bytes)
    rows = np.unique(np.random.default_rng(0).integers(0, 5000, 40))
    announce(mapped, rows)  # type: ignore[arg-type]
    for row in rows.tolist():
        first, last = HEADER + row * n_bytes, HEADER + (row + 1) * n_bytes
        assert any(start <= first and last <= end for start, end in mapped.base.asked)
    assert sum(end - start for start, end in mapped.base.asked) <= len(rows) * (n_bytes + mmap.PAGESIZE)


def test_neighbours_are_announced_as_one() -> None:
    mapped = Mapped(12_288)
    announce(mapped, np.array([3, 4, 5, 6, 100, 101]))  # type: ignore[arg-type]
    assert len(mapped.base.asked) == 2


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(0).integers(0, 256, (300, 3, 9, 9), dtype=np.uint8)


@pytest.mark.parametrize("n", [0, 1, 7, 300, 900])
def test_rows_of_many_parts_come_in_the_order_asked_for(tmp_path: Path, images: Images, n: int) -> None:
    rows = [Row(image_id=f"{i}", modality="ct", height=9, width=9) for i in range(300)]
    for name, part in (("a", slice(0, 120)), ("b", slice(120, 300))):
        write_source(tmp_path, name, images[part], rows[part], part_size=50)
    _, sources = open_sources(tmp_path)
    stored = StoredImages(list(sources.values()), 9, 9, 3)
    asked = np.random.default_rng(n).integers(0, 300, n)
    np.testing.assert_array_equal(stored.take(asked), images[asked])


def test_groups_of_two_sources_are_never_one_by_their_names() -> None:
    hashes = group_hashes(["p1", "p2", "p1"])
    assert hashes[0] == hashes[2] != hashes[1]
    one, other = group_keys("chest", hashes), group_keys("head", hashes)
    assert one[0] == one[2] != one[1]
    assert not set(one.tolist()) & set(other.tolist())
