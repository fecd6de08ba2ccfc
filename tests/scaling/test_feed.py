"""Images on their way to the device: the same batches whether they are resident or read ahead from a file."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaling.data.cache import cached_images, cached_places
from scaling.data.feed import Feed, Resident, Streamed, feed_of
from scaling.data.rows import Rows
from scaling.data.source import Images
from scaling.parallel import Part

CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]
WHOLE = [Part.of(8, 0, 1)]
OF_A_RANK = [Part.of(8, 1, 4), Part.of(8, 3, 4)]
"""The second of two processes that each halve their share."""


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(0).integers(0, 256, (20, 3, 6, 6), dtype=np.uint8)


@pytest.fixture
def order() -> list[Tensor]:
    return [torch.randperm(20, generator=torch.Generator().manual_seed(i))[:8] for i in range(6)]


def batches(feed: Feed, order: list[Tensor], *, times: int = 1) -> list[tuple[Part, Tensor]]:
    """All parts of five batches, the last of `times` readings of each."""
    taken = []
    for indices in itertools.islice(feed.ahead(iter(order)), 5):
        for _ in range(times):
            parts = list(feed.take(indices))
        taken += [(part, of_it.cpu()) for part, of_it in parts]
    return taken


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("parts", [WHOLE, OF_A_RANK], ids=["alone", "in parts"])
def test_batches_read_ahead_are_those_of_resident_images(
    parts: list[Part], device: torch.device, times: int, images: Images, order: list[Tensor]
) -> None:
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    expected = batches(Resident(images, parts, device), order)
    streamed = batches(Streamed(images, parts, device), order, times=times)
    assert [part for part, _ in streamed] == [part for part, _ in expected]
    for (_, one), (_, other) in zip(expected, streamed, strict=True):
        assert torch.equal(one, other)


def test_the_images_of_a_batch_are_those_at_its_indices(images: Images, order: list[Tensor]) -> None:
    ((_, batch),) = Streamed(images, WHOLE, CPU).take(order[0])
    assert torch.equal(batch, torch.from_numpy(images)[order[0]])


def test_a_batch_that_nobody_announced_is_read_all_the_same(images: Images, order: list[Tensor]) -> None:
    feed = Streamed(images, WHOLE, CPU)
    following = feed.ahead(iter(order))
    next(following)
    ((_, other),) = feed.take(order[4])
    assert torch.equal(other, torch.from_numpy(images)[order[4]])
    ((_, announced),) = feed.take(next(following))
    assert torch.equal(announced, torch.from_numpy(images)[order[1]])


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_asked_for(images: Images) -> None:
    with pytest.raises(IndexError):
        list(Streamed(images, WHOLE, CPU).take(torch.full((8,), 20)))


@pytest.mark.parametrize(("share", "kind"), [(1e-9, Streamed), (0.4, Resident)])
def test_images_are_resident_where_they_fit_their_share_of_memory(share: float, kind: type, images: Images) -> None:
    assert isinstance(feed_of(images, WHOLE, CPU, share=share), kind)


# --- the file they come from ------------------------------------------------------------------------------------


def test_images_are_written_in_chunks_and_read_without_taking_them_into_memory(tmp_path: Path, images: Images) -> None:
    path = tmp_path / "a.npy"
    read = cached_images(path, images.shape, lambda: np.array_split(images, 3))
    assert isinstance(read, np.memmap)
    np.testing.assert_array_equal(read, images)
    np.testing.assert_array_equal(cached_images(path, images.shape, lambda: pytest.fail("made twice")), images)


def test_a_process_cannot_change_the_file_for_the_others(tmp_path: Path, images: Images) -> None:
    path = tmp_path / "a.npy"
    cached_images(path, images.shape, lambda: [images])[:] = 0
    np.testing.assert_array_equal(cached_images(path, images.shape, list), images)


@pytest.mark.parametrize("harm", [b"junk", b"", "torn", "other shape"])
def test_a_damaged_file_is_made_again(
    harm: bytes | str, tmp_path: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.npy"
    cached_images(path, images.shape, lambda: [images])
    if harm == "torn":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "other shape":
        np.save(path, images[:5])
    else:
        path.write_bytes(harm)  # type: ignore[arg-type]
    np.testing.assert_array_equal(cached_images(path, images.shape, lambda: [images]), images)
    assert f"{path} is damaged" in capsys.readouterr().err


def test_too_few_images_are_no_file(tmp_path: Path, images: Images) -> None:
    with pytest.raises(ValueError):
        cached_images(tmp_path / "a.npy", images.shape, lambda: [images[:5]])
    assert not list(tmp_path.iterdir())


# --- a source whose files are read where they lie -------------------------------------------------------------------


class FakeSource:
    """Mapped rows, and what was asked of them."""

    direct, version = True, "1"

    def __init__(self, images: Images) -> None:
        self.images, self.asked = images, list[list[int]]()

    def places(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return indices

    def take(self, places: NDArray[np.int64]) -> Images:
        self.asked.append(places.tolist())
        return self.images[places]


@pytest.fixture
def stored() -> FakeSource:
    return FakeSource(np.random.default_rng(1).integers(0, 256, (50, 3, 6, 6), dtype=np.uint8))


@pytest.fixture
def rows(stored: FakeSource) -> Rows:
    """20 of the source's 50."""
    return Rows(stored, np.random.default_rng(2).permutation(50)[:20], (3, 6, 6))


def copied(rows: Rows) -> Images:
    return rows[np.arange(len(rows))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("parts", [WHOLE, OF_A_RANK], ids=["alone", "in parts"])
def test_batches_of_a_direct_source_are_those_of_its_copied_images(
    parts: list[Part], device: torch.device, rows: Rows, order: list[Tensor]
) -> None:
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    expected = batches(Resident(copied(rows), parts, device), order)
    for feed in (Streamed(rows, parts, device), Resident(rows, parts, device)):
        found = batches(feed, order)
        assert [part for part, _ in found] == [part for part, _ in expected]
        for (_, one), (_, other) in zip(expected, found, strict=True):
            assert torch.equal(one, other)


def test_a_rank_reads_its_own_part_alone(stored: FakeSource, order: list[Tensor]) -> None:
    rows = Rows(stored, np.arange(30, 50), (3, 6, 6))
    list(Streamed(rows, OF_A_RANK, CPU).take(order[0]))
    mine = torch.cat([part.rows(order[0]) for part in OF_A_RANK]) + 30
    assert sorted(at for asked in stored.asked for at in asked) == sorted(mine.tolist())


def test_rows_are_read_in_the_order_in_which_they_lie(rows: Rows, stored: FakeSource) -> None:
    images = rows[np.array([7, 3, 3, 19, 0])]
    np.testing.assert_array_equal(images, copied(rows)[[7, 3, 3, 19, 0]])
    assert all(asked == sorted(asked) for asked in stored.asked)


def test_several_readers_share_a_large_batch_and_give_the_same_bytes() -> None:
    stored = FakeSource(np.random.default_rng(3).integers(0, 256, (4000, 1, 2, 2), dtype=np.uint8))
    order = np.random.default_rng(4).permutation(4000)
    np.testing.assert_array_equal(Rows(stored, np.arange(4000), (1, 2, 2))[order], stored.images[order])
    assert len(stored.asked) > 1


def test_a_direct_source_is_not_read_into_the_memory_of_a_cpu(rows: Rows) -> None:
    assert isinstance(feed_of(rows, WHOLE, CPU), Streamed)


def test_rows_that_there_are_not_are_refused(rows: Rows) -> None:
    with pytest.raises(IndexError):
        rows[np.array([20])]


def test_places_are_kept_for_runs_to_share_and_made_again_when_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, positions = tmp_path / "a.npy", np.arange(5) ** 2
    assert isinstance(cached_places(path, 5, lambda: positions), np.memmap)
    assert cached_places(path, 5, lambda: pytest.fail("made twice")).tolist() == positions.tolist()
    path.write_bytes(path.read_bytes()[:-3])
    assert cached_places(path, 5, lambda: positions).tolist() == positions.tolist()
    assert f"{path} is damaged" in capsys.readouterr().err
