"""Which images a run pretrains on: nested subsets of a pool, mixed by modality weights. Pure functions of keys.

Every image gets a *turn*: (its rank among its modality, by keyed hash of its group, + 1/2) / weight of its modality.
A set of n is the n smallest turns. That is Sainte-Lague's method of apportionment, which is monotone in n - so a
smaller set is contained in a larger one and modality shares are exact to rounding at every size, by construction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scaling.data.source import Pool
from scaling.data.splitmix import GOLDEN, mix

Weights = Literal["natural"] | Mapping[str, float]
"""`natural`: the shares of the pool; else modality -> relative weight, others are left out."""


class TooFewImages(ValueError):
    """A modality has fewer images than the mixture asks for; the message says how many."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The images of one run's pretraining set."""

    indices: NDArray[np.int64]
    """(n_images,) positions in the pool, in the order of keys, so that no file order shows through."""
    identity: str
    """SHA-256 of the sorted keys: equal exactly when the set of images is equal."""
    n_by_modality: dict[str, int]


def mixed_hash(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A fixed random order of any values, keyed by `seed`."""
    return mix(values + np.array([seed + 1], np.uint64) * GOLDEN)


class Nested:
    """The images of one mixture in the order of their turns: every set of it is a beginning of that order.

    Sorting a pool takes seconds where it has millions of images, cutting a set off takes moments.
    """

    def __init__(self, pool: Pool, weights: Weights, *, seed: int = 0) -> None:
        self.pool, self.share = pool, _shares(pool, weights)
        turns = np.full(len(pool.keys), np.inf)
        order = np.lexsort((mixed_hash(pool.keys, seed), mixed_hash(pool.groups, seed)))
        for code, weight in self.share.items():
            members = order[pool.modality[order] == code]
            turns[members] = (np.arange(len(members)) + 0.5) / weight
        self.order = np.lexsort((pool.keys, pool.modality, turns))

    def first(self, n_images: int) -> Selection:
        """The n images whose turn comes first. Raises TooFewImages, naming each modality that runs out."""
        pool = self.pool
        _enough(pool, self.share, n_images)
        chosen = self.order[:n_images]
        chosen = chosen[np.argsort(pool.keys[chosen], kind="stable")]
        counts = np.bincount(pool.modality[chosen], minlength=len(pool.modalities))
        return Selection(
            indices=chosen.astype(np.int64),
            identity=hashlib.sha256(pool.keys[chosen].astype("<u8").tobytes()).hexdigest(),
            n_by_modality={name: int(counts[i]) for i, name in enumerate(pool.modalities) if counts[i]},
        )


def select(pool: Pool, weights: Weights, n_images: int, *, seed: int = 0) -> Selection:
    """One set of a mixture. Raises TooFewImages."""
    return Nested(pool, weights, seed=seed).first(n_images)


def _shares(pool: Pool, weights: Weights) -> dict[int, float]:
    """Share of the set per modality code; sums to 1."""
    if isinstance(weights, str):  # natural
        counts = np.bincount(pool.modality, minlength=len(pool.modalities))
        return {code: n / len(pool.keys) for code, n in enumerate(counts.tolist()) if n}
    total = sum(weights.values())
    return {pool.modalities.index(name): weight / total for name, weight in weights.items()}


def _enough(pool: Pool, share: Mapping[int, float], n_images: int) -> None:
    available = np.bincount(pool.modality, minlength=len(pool.modalities))
    wanted = _apportion(share, n_images)
    short = [
        f"{pool.modalities[code]} has {available[code]:,} of the {n:,} images wanted"
        for code, n in wanted.items()
        if n > available[code]
    ]
    if short:
        largest = min(int(available[code] / weight) for code, weight in share.items())
        raise TooFewImages(f"{'; '.join(short)}; this mixture is possible up to {largest:,} images")


def _apportion(share: Mapping[int, float], n: int) -> dict[int, int]:
    """Images per modality when none runs out, by the same turns: seats start at the floor, the rest go one by one."""
    seats = {code: max(0, int(weight * n) - 1) for code, weight in share.items()}
    while sum(seats.values()) < n:
        code = min(share, key=lambda c: ((seats[c] + 0.5) / share[c], c))
        seats[code] += 1
    return seats
