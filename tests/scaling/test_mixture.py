"""Pretraining sets: nested, mixed as asked to the last image, and known by their images alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from scaling.data.mixture import TooFewImages, mixed_hash, select
from scaling.data.source import Pool
from scaling.mixtures import Mixed

NAMES = ("ct", "mr", "xray")
SIZES = (600, 300, 100)


def pool_of(sizes: tuple[int, ...] = SIZES, *, per_group: int = 1, seed: int = 0) -> Pool:
    """Images of random keys, the modalities one after the other, so many images to a patient."""
    n = sum(sizes)
    keys = np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)
    groups = np.repeat(keys[::per_group], per_group)[:n]
    return Pool(
        keys=keys, groups=groups, modality=np.repeat(np.arange(len(sizes)), sizes).astype(np.int16), modalities=NAMES
    )


def reordered(pool: Pool, order: NDArray[np.int64]) -> Pool:
    return Pool(
        keys=pool.keys[order], groups=pool.groups[order], modality=pool.modality[order], modalities=pool.modalities
    )


def sainte_lague(weights: dict[str, float], n: int) -> dict[str, int]:
    """One seat after the other to the largest weight / (2 seats + 1)."""
    seats = dict.fromkeys(weights, 0)
    for _ in range(n):
        seats[max(weights, key=lambda name: weights[name] / (2 * seats[name] + 1))] += 1
    return {name: count for name, count in seats.items() if count}


MIXTURES: list[Mixed] = ["natural", {"ct": 1}, {"ct": 1.0, "mr": 1.3}, {"xray": 0.5, "ct": 3.1, "mr": 1.7}]


@pytest.mark.parametrize("weights", MIXTURES)
def test_a_smaller_set_is_contained_in_a_larger_one(weights: Mixed) -> None:
    pool = pool_of()
    sets = [set(select(pool, weights, n).indices.tolist()) for n in (1, 2, 3, 7, 50, 51, 200, 400)]
    assert all(small < large for small, large in itertools.pairwise(sets))


@pytest.mark.parametrize("weights", MIXTURES)
@pytest.mark.parametrize("n", [1, 7, 64, 200])
def test_a_set_has_as_many_images_as_asked_and_none_twice(weights: Mixed, n: int) -> None:
    selection = select(pool_of(), weights, n)
    assert len(set(selection.indices.tolist())) == n == sum(selection.n_by_modality.values())


@pytest.mark.parametrize("weights", MIXTURES[1:])
@pytest.mark.parametrize("n", [1, 2, 5, 64, 199])
def test_modalities_have_their_shares_by_sainte_lagues_method(weights: Mixed, n: int) -> None:
    assert not isinstance(weights, str)
    assert select(pool_of(), weights, n).n_by_modality == sainte_lague(dict(weights), n)


def test_shares_that_divide_evenly_are_exact() -> None:
    selection = select(pool_of(), {"ct": 2, "mr": 1, "xray": 1}, 200)
    assert selection.n_by_modality == {"ct": 100, "mr": 50, "xray": 50}


def test_natural_shares_are_those_of_the_pool_and_reach_all_of_it() -> None:
    pool = pool_of()
    assert select(pool, "natural", 100).n_by_modality == {"ct": 60, "mr": 30, "xray": 10}
    assert select(pool, "natural", 1000).n_by_modality == dict(zip(NAMES, SIZES, strict=True))


def test_the_counts_stated_are_those_of_the_images_chosen() -> None:
    pool = pool_of()
    selection = select(pool, {"mr": 1, "xray": 2}, 90)
    counts = np.bincount(pool.modality[selection.indices], minlength=3)
    assert selection.n_by_modality == {"mr": counts[1], "xray": counts[2]} == {"mr": 30, "xray": 60}


def test_only_the_ratio_of_weights_counts() -> None:
    pool = pool_of()
    assert select(pool, {"ct": 1, "mr": 3}, 99).identity == select(pool, {"ct": 2, "mr": 6}, 99).identity


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weights", MIXTURES)
def test_the_order_of_the_pool_does_not_matter(weights: Mixed, seed: int) -> None:
    pool = pool_of()
    other = reordered(pool, np.random.default_rng(seed).permutation(len(pool.keys)))
    one, two = select(pool, weights, 150), select(other, weights, 150)
    assert one.identity == two.identity
    assert np.array_equal(pool.keys[one.indices], other.keys[two.indices])  # the same images in the same order


def test_the_identity_changes_when_and_only_when_the_images_change() -> None:
    pool = pool_of()
    chosen = select(pool, "natural", 100)
    left_out = np.setdiff1d(np.arange(1000), chosen.indices)[0]

    def with_another_image_at(place: int) -> str:
        keys = pool.keys.copy()
        keys[place] += np.uint64(1)
        changed = Pool(keys=keys, groups=pool.groups, modality=pool.modality, modalities=NAMES)
        return select(changed, "natural", 100).identity

    assert with_another_image_at(int(left_out)) == chosen.identity
    assert with_another_image_at(int(chosen.indices[0])) != chosen.identity
    assert select(pool, "natural", 101).identity != chosen.identity


def test_another_seed_chooses_other_images() -> None:
    pool = pool_of()
    one, two = (set(select(pool, "natural", 100, seed=seed).indices.tolist()) for seed in (0, 1))
    # Hypergeometric: 10 of 100 in common expected, standard deviation below 3.
    assert len(one & two) < 10 + 4 * 3


def test_patients_are_taken_whole_one_after_the_other() -> None:
    pool = pool_of((600,), per_group=6)
    for n in (1, 6, 20, 301):
        _, taken = np.unique(pool.groups[select(pool, "natural", n).indices], return_counts=True)
        assert sorted(taken.tolist())[1:] == [6] * (len(taken) - 1)
        assert len(taken) == -(-n // 6)


def test_a_modality_that_runs_out_is_named_with_its_count_and_what_is_possible() -> None:
    with pytest.raises(
        TooFewImages, match=r"^xray has 100 of the 200 images wanted; this mixture is possible up to 201 images$"
    ):
        select(pool_of(), {"ct": 1, "xray": 1}, 400)


def test_every_modality_that_runs_out_is_named() -> None:
    with pytest.raises(TooFewImages, match=r"mr has 300 of the 500 .*xray has 100 of the 500 ") as caught:
        select(pool_of(), {"mr": 1, "xray": 1}, 1000)
    assert "ct" not in str(caught.value)


@pytest.mark.parametrize("weights", [{"ct": 1, "xray": 1}, {"ct": 0.7, "mr": 0.2, "xray": 0.1}, {"mr": 3, "xray": 7}])
def test_the_number_said_to_be_possible_is_possible(weights: dict[str, float]) -> None:
    with pytest.raises(TooFewImages) as caught:
        select(pool_of(), weights, 5000)
    possible = int(str(caught.value).split("up to ")[1].split(" ")[0].replace(",", ""))
    assert len(select(pool_of(), weights, possible).indices) == possible
    with pytest.raises(TooFewImages):
        select(pool_of(), weights, possible + 10)


def test_more_than_the_pool_holds_is_refused() -> None:
    with pytest.raises(TooFewImages, match="possible up to 1,000 images"):
        select(pool_of(), "natural", 1001)


def test_the_hash_is_splitmix64s() -> None:
    """First outputs of SplitMix64 from state 0, as in Vigna's reference code: state + golden ratio, finalised."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([0, golden], dtype=np.uint64)
    assert mixed_hash(states, 0).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
