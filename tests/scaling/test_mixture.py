"""Pretraining sets: nested, mixed as asked to the last image, and known by their images alone."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from scaling.data.mixture import Nested, Selection, Shares, TooFewImages, mixed_hash, select
from scaling.data.source import Pool
from scaling.mixtures import Mixed, Mixture

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


# --- the same sets as ever ----------------------------------------------------------------------------------------


def by_turns(pool: Pool, share: dict[int, float], n: int) -> Selection:
    """As sets were first defined: all turns are computed, all images sorted by them."""
    turns = np.full(len(pool.keys), np.inf)
    order = np.lexsort((mixed_hash(pool.keys, 0), mixed_hash(pool.groups, 0)))
    for code, weight in share.items():
        members = order[pool.modality[order] == code]
        turns[members] = (np.arange(len(members)) + 0.5) / weight
    chosen = np.lexsort((pool.keys, pool.modality, turns))[:n]
    chosen = chosen[np.argsort(pool.keys[chosen], kind="stable")]
    return Selection(
        indices=chosen,
        copies=np.ones(n, np.uint32),
        identity=hashlib.sha256(pool.keys[chosen].astype("<u8").tobytes()).hexdigest(),
        n_by_modality={},
        n_unique_by_modality={},
    )


@pytest.mark.parametrize("per_group", [1, 7])
@pytest.mark.parametrize("n", [1, 2, 33, 100, 181, 200])
@pytest.mark.parametrize("mixed", MIXTURES)
def test_old_spellings_choose_the_images_they_always_did(mixed: Mixed, n: int, per_group: int) -> None:
    pool = pool_of(per_group=per_group, seed=n)
    if mixed == "natural":
        share = {code: size / sum(SIZES) for code, size in enumerate(SIZES)}
    else:
        assert isinstance(mixed, dict)
        share = {NAMES.index(name): weight / sum(mixed.values()) for name, weight in mixed.items()}
    expected, found = by_turns(pool, share, n), select(pool, mixed, n)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.copies, expected.copies)
    assert found.identity == expected.identity == Nested(pool, mixed).composition(n).identity


@pytest.mark.parametrize("sizes", [(600, *[7] * 40), (1, *[3] * 30), (5000, 4999, *range(1, 30))])
@pytest.mark.parametrize("n", [1, 13, 89])
def test_many_small_modalities_are_apportioned_by_sainte_lague_too(sizes: tuple[int, ...], n: int) -> None:
    """Where most shares lie just above a half, a large modality gets fewer than its share rounded down."""
    names = tuple(f"m{i:02d}" for i in range(len(sizes)))
    expected = sainte_lague(dict(zip(names, map(float, sizes), strict=True)), n)
    assert Shares(names, sizes, "natural").named(Shares(names, sizes, "natural").wanted(n)) == expected


# --- temperature and caps -------------------------------------------------------------------------------------------


def shares(mixture: Mixture, sizes: tuple[int, ...] = SIZES) -> list[float]:
    found = Shares(NAMES, sizes, mixture).share
    return [found.get(code, 0.0) for code in range(len(NAMES))]


def test_a_temperature_flattens_sizes_by_its_root() -> None:
    """p_i ~ n_i^(1/T), Raffel et al. 2020, section 3.5.2."""
    roots = np.sqrt(SIZES)
    np.testing.assert_allclose(shares(Mixture(temperature=2)), roots / roots.sum(), rtol=1e-11)
    np.testing.assert_allclose(shares(Mixture(temperature=1e9)), [1 / 3] * 3, rtol=1e-8)


def test_at_temperature_one_sizes_are_natural() -> None:
    pool = pool_of()
    assert select(pool, Mixture(temperature=1.0), 300).identity == select(pool, "natural", 300).identity


def test_a_cap_bounds_what_a_modality_counts_for() -> None:
    assert shares(Mixture(caps=200)) == [0.4, 0.4, 0.2]
    assert shares(Mixture(caps={"ct": 100})) == [0.2, 0.6, 0.2]
    np.testing.assert_allclose(
        shares(Mixture(temperature=2, caps={"ct": 100})), np.sqrt([100, 300, 100]) / (20 + 300**0.5)
    )


def test_weights_multiply_sizes_at_a_temperature_and_are_the_shares_without() -> None:
    assert shares(Mixture(weights={"ct": 1, "xray": 6}, temperature=1)) == [0.5, 0, 0.5]
    pool = pool_of()
    plain: Mixed = {"ct": 1.0, "mr": 1.3}
    assert select(pool, Mixture(weights={"ct": 1.0, "mr": 1.3}), 99).identity == select(pool, plain, 99).identity


# --- repeats ----------------------------------------------------------------------------------------------------------

REPEATED: list[Mixture] = [
    Mixture(weights={"ct": 1, "xray": 1}, repeat=True),
    Mixture(weights={"ct": 1, "mr": 2, "xray": 9}, repeat=20),
    Mixture(temperature=3, repeat=True),
]


@pytest.mark.parametrize("mixture", REPEATED)
@pytest.mark.parametrize("n", [50, 333, 1500, 2500])
def test_a_set_with_repeats_has_as_many_entries_as_asked(mixture: Mixture, n: int) -> None:
    pool = pool_of()
    found = select(pool, mixture, n)
    assert found.copies.sum() == n == sum(found.n_by_modality.values())
    assert len(set(found.indices.tolist())) == len(found.indices) == sum(found.n_unique_by_modality.values())
    for code, name in enumerate(NAMES):
        here = pool.modality[found.indices] == code
        assert found.copies[here].sum() == found.n_by_modality.get(name, 0)
        assert np.ptp(found.copies[here]) <= 1 if here.any() else True


def test_shares_are_kept_where_a_modality_repeats() -> None:
    found = select(pool_of(), Mixture(weights={"ct": 1, "xray": 1}, repeat=True), 1001)
    assert found.n_by_modality == {"ct": 501, "xray": 500}
    assert found.n_unique_by_modality == {"ct": 501, "xray": 100}


@pytest.mark.parametrize("mixture", REPEATED)
def test_a_smaller_set_is_contained_in_a_larger_one_with_its_repeats(mixture: Mixture) -> None:
    pool, before = pool_of(per_group=3), np.zeros(1000, int)
    for n in (1, 40, 199, 200, 201, 777, 1000, 2001):
        found, now = select(pool, mixture, n), np.zeros(1000, int)
        now[found.indices] = found.copies
        assert (now >= before).all()
        before = now


def test_an_image_is_repeated_only_when_all_of_its_modality_are_there() -> None:
    found = select(pool_of(), Mixture(weights={"xray": 1}, repeat=True), 250)
    assert sorted(found.copies.tolist()) == [2] * 50 + [3] * 50
    first = set(select(pool_of(), {"xray": 1}, 50).indices.tolist())
    assert first == set(found.indices[found.copies == 3].tolist())


def test_what_need_not_be_repeated_is_the_same_set_as_without() -> None:
    pool = pool_of()
    mixed: Mixed = {"ct": 1, "xray": 1}
    one, other = select(pool, mixed, 150), select(pool, REPEATED[0], 150)
    assert one.identity == other.identity
    assert one.copies.tolist() == other.copies.tolist() == [1] * 150


def test_the_identity_tells_repeats_apart() -> None:
    mixture, pool = Mixture(weights={"xray": 1}, repeat=True), pool_of()
    assert len({select(pool, mixture, n).identity for n in (100, 101, 200, 300)}) == 4


def test_repeats_beyond_those_allowed_are_refused_with_the_count() -> None:
    mixture = Mixture(weights={"ct": 1, "xray": 1}, repeat=3)
    assert select(pool_of(), mixture, 600).n_by_modality == {"ct": 300, "xray": 300}
    with pytest.raises(
        TooFewImages, match=r"^xray has 100 images, 3 times each 300, of the 400 images wanted; .* up to 601 images$"
    ):
        select(pool_of(), mixture, 800)


# --- groups and growth ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixed", [{"ct": 1.0, "mr": 1.0}, Mixture(temperature=2)])
def test_no_more_than_one_patient_of_a_modality_is_split(mixed: Mixed) -> None:
    pool = pool_of((600, 300, 120), per_group=6)
    for n in (5, 44, 101):
        chosen = select(pool, mixed, n).indices
        for code in np.unique(pool.modality[chosen]):
            here = chosen[pool.modality[chosen] == code]
            _, taken = np.unique(pool.groups[here], return_counts=True)
            assert np.count_nonzero(taken % 6) <= 1


@pytest.mark.parametrize("per_group", [1, 5])
def test_new_images_move_no_old_one_past_another(per_group: int) -> None:
    """An old image is in a set of the larger pool before another exactly when it was in the smaller one's."""
    old, new = pool_of((500,), per_group=per_group), pool_of((700,), per_group=per_group, seed=1)
    both = Pool(
        keys=np.concatenate([new.keys, old.keys]),
        groups=np.concatenate([new.groups, old.groups]),
        modality=np.zeros(1200, np.int16),
        modalities=NAMES[:1],
    )
    for n in (30, 400, 1100):
        kept = select(both, "natural", n).indices
        kept = kept[kept >= 700] - 700
        assert set(kept.tolist()) == set(select(old, "natural", len(kept)).indices.tolist())
