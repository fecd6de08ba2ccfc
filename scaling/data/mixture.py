"""Which images a run pretrains on: nested subsets of a pool, mixed by modality. Pure functions of keys.

Every image gets a *turn*: (its rank among its modality, by keyed hash of its group, + 1/2) / share of its modality.
A set of n is the n smallest turns. That is Sainte-Lague's method of apportionment, which is monotone in n - so a
smaller set is contained in a larger one and modality shares are exact to rounding at every size, by construction.

Images of a group are neighbours in rank, so that a set splits at most one group of each modality: the last, where the
count would not be exact else. Ranks compare hashes of groups and of images alone, so that new images stand between
old ones and move none past another. Where a mixture repeats, the ranks of a modality that has run out go on from its
first image: every image once before one twice.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.data.source import Pool
from scaling.data.splitmix import GOLDEN, mix
from scaling.mixtures import Mixed, Mixture, settled

Positions = NDArray[np.int64]
DIGITS = 12
"""Of a share at a temperature, so that the last bit of a machine's power function moves no image."""


class TooFewImages(ValueError):
    """A modality has fewer images than the mixture asks for; the message says how many."""


@dataclass(frozen=True, kw_only=True)
class Composition:
    """What one run's pretraining set is, without its images."""

    identity: str
    """SHA-256 of the sorted keys, and of how often they stand in the set where any does twice: equal exactly when the
    set is equal."""
    n_by_modality: dict[str, int]
    """Of the set, repeats counted: they sum to the n_images asked for."""
    n_unique_by_modality: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Selection(Composition):
    """The images of one run's pretraining set."""

    indices: NDArray[np.int64]
    """(n_unique,) positions in the pool, in the order of keys, so that no file order shows through."""
    copies: NDArray[np.uint32]
    """(n_unique,) how often each stands in the set."""


def mixed_hash(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A fixed random order of any values, keyed by `seed`."""
    return mix(values + np.array([seed + 1], np.uint64) * GOLDEN)


class Shares:
    """How many images of each modality a set of a mixture has, by the numbers there are alone."""

    def __init__(self, modalities: Sequence[str], counts: Sequence[int], mixed: Mixed) -> None:
        mixture = settled(mixed)
        self.modalities = tuple(modalities)
        self.available = dict(enumerate(counts))
        self.share = _shares(self.modalities, list(counts), mixture)
        self.most = math.inf if mixture.repeat is True else max(1, int(mixture.repeat))
        """Times that an image may stand in a set."""

    def wanted(self, n_images: int) -> dict[int, int]:
        """By modality's number, repeats counted. Raises TooFewImages, naming each modality that runs out."""
        wanted = _apportion(self.share, n_images)
        self._enough(wanted, n_images)
        return wanted

    def named(self, wanted: Mapping[int, int]) -> dict[str, int]:
        return {self.modalities[code]: n for code, n in sorted(wanted.items()) if n}

    def unique(self, wanted: Mapping[int, int]) -> dict[str, int]:
        """By modality, repeats not counted."""
        return {self.modalities[code]: min(n, self.available[code]) for code, n in sorted(wanted.items()) if n}

    def _enough(self, wanted: Mapping[int, int], n_images: int) -> None:
        short = [
            f"{self.modalities[code]} has {_images(self.available[code], self.most)} of the {n:,} images wanted"
            for code, n in wanted.items()
            if n > self.available[code] * self.most
        ]
        if short:
            raise TooFewImages(f"{'; '.join(short)}; this mixture is possible up to {self._largest(n_images):,} images")

    def _largest(self, above: int) -> int:
        """The largest set there is, below one that is too large."""
        low = 0
        while above - low > 1:
            middle = (low + above) // 2
            wanted = _apportion(self.share, middle)
            if any(n > self.available[code] * self.most for code, n in wanted.items()):
                above = middle
            else:
                low = middle
        return low


class Nested:
    """Every set of one mixture of a pool. Takes no sorting of the pool, which may have many millions of images."""

    def __init__(self, pool: Pool, mixed: Mixed, *, seed: int = 0) -> None:
        self.pool, self.seed = pool, seed
        counts = np.bincount(pool.modality, minlength=len(pool.modalities)).tolist()
        self.shares = Shares(pool.modalities, counts, mixed)

    def first(self, n_images: int) -> Selection:
        """The n images whose turn comes first. Raises TooFewImages, naming each modality that runs out."""
        wanted = self.shares.wanted(n_images)
        by_copies = self._by_copies(wanted)
        chosen = np.concatenate(list(by_copies.values()))
        order = _sorted(self.pool.keys[chosen])
        copies = np.repeat(np.array(list(by_copies), np.uint32), [len(part) for part in by_copies.values()])
        return Selection(indices=chosen[order], copies=copies[order], **vars(self._composition(wanted, by_copies)))

    def composition(self, n_images: int) -> Composition:
        """What `first` would say of the set, several times as fast. Raises as it does."""
        wanted = self.shares.wanted(n_images)
        return self._composition(wanted, self._by_copies(wanted))

    def _composition(self, wanted: Mapping[int, int], by_copies: Mapping[int, Positions]) -> Composition:
        return Composition(
            identity=_identity({n: np.sort(self.pool.keys[positions]) for n, positions in by_copies.items()}),
            n_by_modality=self.shares.named(wanted),
            n_unique_by_modality=self.shares.unique(wanted),
        )

    def _by_copies(self, wanted: Mapping[int, int]) -> dict[int, Positions]:
        """Positions of a set's images by how often they stand in it, from once on."""
        found = defaultdict[int, list[Positions]](list)
        for code, n in wanted.items():
            if n:
                members = np.flatnonzero(self.pool.modality == code)
                whole, rest = divmod(n, len(members))
                more, others = _split(self.pool, members, rest, self.seed)
                found[whole + 1].append(more)
                found[whole].append(others)
        return {n: np.concatenate(found[n]) for n in sorted(found) if n and any(map(len, found[n]))}


def select(pool: Pool, mixed: Mixed, n_images: int, *, seed: int = 0) -> Selection:
    """One set of a mixture. Raises TooFewImages."""
    return Nested(pool, mixed, seed=seed).first(n_images)


def _images(available: int, most: float) -> str:
    return f"{available:,}" if most == 1 else f"{available:,} images, {most:,} times each {available * most:,},"


def _shares(names: tuple[str, ...], counts: list[int], mixture: Mixture) -> dict[int, float]:
    """Share of the set per modality code; sums to 1. Of modalities that have images, or a weight."""
    if mixture.by_size:
        at_temperature = mixture.temperature not in (None, 1.0)
        weight = mixture.weights if mixture.weights is not None else dict.fromkeys(names, 1)
        sizes = {i: min(counts[i], mixture.cap(name) or counts[i]) for i, name in enumerate(names)}
        powers = {i: n ** (1 / mixture.temperature) if at_temperature else n for i, n in sizes.items()}  # type: ignore[operator]
        raw = {i: weight[name] * powers[i] for i, name in enumerate(names) if name in weight and sizes[i]}
    else:
        assert mixture.weights is not None
        at_temperature, raw = False, {names.index(name): w for name, w in mixture.weights.items()}
    total = sum(raw.values())
    return {code: float(f"{x / total:.{DIGITS}g}") if at_temperature else x / total for code, x in raw.items()}


def _apportion(share: Mapping[int, float], n: int) -> dict[int, int]:
    """Images per modality when none runs out, by their turns: the first ones are certain, the rest go one by one.

    Seats are shares of some number rounded, and that number is at most half a seat per modality off n: so no modality
    has fewer than it starts with.
    """
    seats = {code: max(0, int(weight * (n - len(share) / 2) - 1)) for code, weight in share.items()}
    for _ in range(n - sum(seats.values())):
        code = min(share, key=lambda c: ((seats[c] + 0.5) / share[c], c))
        seats[code] += 1
    return seats


def _split(pool: Pool, members: Positions, n: int, seed: int) -> tuple[Positions, Positions]:
    """The n of `members` with the lowest rank - by their group's hash, then by their own - and the rest. Only the
    group at the edge is sorted, which makes it a matter of a second for tens of millions."""
    if not n:
        return members[:0], members
    hashes = mixed_hash(pool.groups[members], seed)
    edge = np.partition(hashes, n - 1)[n - 1]
    low, at_edge = hashes < edge, np.flatnonzero(hashes == edge)
    ranked = at_edge[np.argsort(mixed_hash(pool.keys[members[at_edge]], seed), kind="stable")]
    low[ranked[: n - np.count_nonzero(low)]] = True
    return members[low], members[~low]


def _sorted(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Order of keys, equal ones as they come. The quick sort is several times faster, and the same where none are."""
    order = np.argsort(keys)
    in_order = keys[order]
    return order if not (in_order[1:] == in_order[:-1]).any() else np.argsort(keys, kind="stable")


def _identity(by_copies: Mapping[int, NDArray[np.uint64]]) -> str:
    """Of sorted keys by how often they stand in the set; of a set without repeats the keys alone."""
    digest = hashlib.sha256()
    for n, keys in by_copies.items():
        if set(by_copies) != {1}:
            digest.update(f"{len(keys)} images x {n}\n".encode())
        digest.update(np.ascontiguousarray(keys, "<u8").data)
    return digest.hexdigest()
