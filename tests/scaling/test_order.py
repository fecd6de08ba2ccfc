"""The order in which a run sees its images, above all where some of them stand in the set more than once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scaling.data.order import batches

Copies = NDArray[np.uint32]


def copies_of(*each: int) -> Copies:
    return np.array(each, np.uint32)


SETS: dict[str, tuple[Copies, int]] = {
    "ten times fifty among singles": (copies_of(*[10] * 50, *[1] * 500), 64),
    "as often as there are batches": (copies_of(*[16] * 64), 64),
    "uneven": (np.random.default_rng(0).integers(1, 30, 200).astype(np.uint32), 64),
    "small": (copies_of(3, 1, 1, 2, 2, 1), 2),
    "an epoch ends in a batch": (copies_of(*[4] * 129), 100),
}


@pytest.fixture(params=SETS)
def given(request: pytest.FixtureRequest) -> tuple[Copies, int]:
    return SETS[request.param]


def taken(copies: Copies, batch_size: int, n: int, *, seed: int = 0, start: int = 0) -> NDArray[np.int64]:
    """(n, batch_size)."""
    steps = itertools.islice(batches(len(copies), batch_size, seed, start, copies), n)
    return torch.stack(list(steps)).numpy()


def test_every_image_comes_as_often_an_epoch_as_it_stands_in_the_set(given: tuple[Copies, int]) -> None:
    copies, batch_size = given
    length = int(copies.sum())
    seen = taken(copies, batch_size, 3 * length // batch_size + 1).ravel()
    for epoch in range(3):
        mine = seen[epoch * length : (epoch + 1) * length]
        assert np.bincount(mine, minlength=len(copies)).tolist() == copies.tolist()


def test_no_image_is_twice_in_a_batch_where_that_can_be(given: tuple[Copies, int]) -> None:
    copies, batch_size = given
    whole, rest = divmod(int(copies.sum()), batch_size)
    assert copies.max() <= whole - (rest > 0)
    for batch in taken(copies, batch_size, 5 * int(copies.sum()) // batch_size):
        assert len(np.unique(batch)) == batch_size


def test_an_image_with_more_copies_than_batches_is_spread_as_far_as_it_goes() -> None:
    copies = copies_of(12, *[1] * 28)
    found = [np.count_nonzero(batch == 0) for batch in taken(copies, 10, 4)]
    assert sum(found) == 12
    assert max(found) <= 5


def test_copies_are_spread_over_the_epoch() -> None:
    """The k-th of c copies is in the k-th of c parts, or moved from there by a batch or two."""
    copies = copies_of(*[8] * 40, *[1] * 680)
    order = taken(copies, 20, 50).ravel()
    for image in range(40):
        places = np.flatnonzero(order == image)
        middles = (np.arange(8) + 0.5) / 8 * 1000
        # half a part, the length of the parts themselves being drawn (sd < 16), and two batches
        assert np.abs(places - middles).max() < 62.5 + 4 * 16 + 40


def test_modalities_are_mixed_in_every_batch() -> None:
    """Half of the entries are of 20 images x 25, and about half of each batch is: sd 4 of 64 if drawn one by one."""
    copies = copies_of(*[25] * 20, *[1] * 500)
    of_few = (taken(copies, 64, 15) < 20).sum(axis=1)
    assert np.abs(of_few - 32).max() <= 16


@pytest.mark.parametrize("start", [1, 7, 16, 40])
def test_a_resumed_run_sees_what_it_would_have_seen(given: tuple[Copies, int], start: int) -> None:
    copies, batch_size = given
    whole = taken(copies, batch_size, start + 20, seed=3)
    np.testing.assert_array_equal(taken(copies, batch_size, 20, seed=3, start=start), whole[start:])


def test_epochs_and_seeds_differ() -> None:
    copies = copies_of(*[2] * 64)
    first, second = np.split(taken(copies, 64, 4), 2)
    assert (first != second).mean() > 0.9
    assert (first != taken(copies, 64, 2, seed=1)).mean() > 0.9


def test_half_a_million_entries_are_ordered_in_moments() -> None:
    copies = np.ones(400_000, np.uint32)
    copies[:500] = 200
    seen = taken(copies, 1024, 3)
    assert all(len(np.unique(batch)) == 1024 for batch in seen)


def test_a_set_without_repeats_has_the_order_it_always_had() -> None:
    """A permutation by torch of each epoch's own generator, seeded by SplitMix64's finaliser."""
    (first,) = itertools.islice(batches(6, 6, 5, 0), 1)
    seed = (5 * 0x9E3779B97F4A7C15 - 1 + 1) * 0xBF58476D1CE4E5B9 % 2**64
    seed = (seed ^ (seed >> 27)) * 0x94D049BB133111EB % 2**64
    expected = torch.randperm(6, generator=torch.Generator().manual_seed((seed ^ (seed >> 31)) >> 1))
    assert torch.equal(first, expected)


@pytest.mark.parametrize("seed", range(40))
def test_no_image_is_twice_in_a_batch_of_any_set_that_allows_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch_size = int(rng.integers(2, 10))
    copies = rng.integers(1, 7, int(rng.integers(8 * batch_size, 60 + 8 * batch_size))).astype(np.uint32)
    steps = 4 * int(copies.sum()) // batch_size
    assert all(len(np.unique(batch)) == batch_size for batch in taken(copies, batch_size, steps, seed=seed))
