"""In which order a run sees its images: a function of (seed, epoch) alone, so that a resumed run goes on as it was.

An epoch is one pass over the set with its repeats. Images of all modalities stand mixed in every batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]


def step_seed(seed: int, step: int) -> int:
    """One 63-bit seed per (run seed, step): SplitMix64's finaliser, so that neighbours share nothing."""
    z = (seed * 0x9E3779B97F4A7C15 + step + 1) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) >> 1


def batches(
    n_images: int, batch_size: int, seed: int, start: int, copies: NDArray[np.uint32] | None = None
) -> Iterator[Tensor]:
    """Indices (batch_size,) per step from step `start` on: epoch after epoch, each in an order of its own.

    `copies` (n_images,): how often each image stands in the set; None is once each.
    """
    epochs = _Once(n_images, seed) if copies is None else _Repeated(copies, seed, batch_size)
    length = epochs.length
    epoch, order = -1, torch.empty(0, dtype=torch.int64)
    for step in range(start, 2**62):
        wanted = torch.arange(step * batch_size, (step + 1) * batch_size)
        parts = []
        for needed in range(int(wanted[0]) // length, int(wanted[-1]) // length + 1):
            if needed != epoch:
                epoch, order = needed, epochs.order(needed)
            parts.append(order[wanted[wanted // length == needed] % length])
        yield torch.cat(parts)


class _Once:
    def __init__(self, n_images: int, seed: int) -> None:
        self.length, self.seed = n_images, seed

    def order(self, epoch: int) -> Tensor:
        return torch.randperm(self.length, generator=_generator(self.seed, epoch))


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(step_seed(seed, -1 - epoch))


class _Repeated:
    """The k-th of an image's c copies stands somewhere in the k-th of c equal parts of the epoch. No image is twice in
    a batch if it has fewer copies than an epoch has whole batches, or as many where epochs end with a batch."""

    def __init__(self, copies: NDArray[np.uint32], seed: int, batch_size: int) -> None:
        self.copies, self.seed, self.batch_size = copies, seed, batch_size
        self.length = int(copies.sum(dtype=np.int64))
        self.images = np.repeat(np.arange(len(copies)), copies)
        self.which = np.arange(self.length) - np.repeat(np.cumsum(copies, dtype=np.int64) - copies, copies)
        """Of each entry: which of its image's copies it is."""
        self._last = -1, np.empty(0, np.int64)

    def order(self, epoch: int) -> Tensor:
        filled = epoch * self.length % self.batch_size
        before = self._alone(epoch - 1)[-filled:] if filled and filled <= self.length else None
        order = self._alone(epoch)
        if before is not None:  # the end of the epoch before has not moved for that epoch's own beginning
            joined = np.concatenate([before, order])
            bounds = np.arange(0, len(joined) + 1, self.batch_size)  # whole batches only: its own end stays, too
            if len(bounds) > 2:
                self._part(joined, bounds, epoch, range(len(before), self.batch_size))
            order = joined[len(before) :]
        return torch.from_numpy(order)

    def _alone(self, epoch: int) -> Rows:
        """An epoch's order as if its first batch were not begun by the one before."""
        if self._last[0] != epoch:
            drawn = torch.rand(self.length, generator=_generator(self.seed, epoch), dtype=torch.float64).numpy()
            order = self.images[np.argsort((self.which + drawn) / self.copies[self.images], kind="stable")]
            head = -epoch * self.length % self.batch_size
            bounds = np.arange(head - self.batch_size, self.length + self.batch_size, self.batch_size)
            self._part(order, np.unique(bounds.clip(0, self.length)), epoch, range(self.length))
            self._last = epoch, order
        return self._last[1].copy()

    def _part(self, order: Rows, bounds: Rows, epoch: int, movable: range) -> None:
        """Moves copies at `movable` places that share a batch with an earlier one of their image, to a batch that has
        none, in place.

        Each exchange leaves one such copy less: a batch that lacks the image, and is no shorter, holds one that is not
        in the batch it goes to, or one that is twice where it is. A batch is `order` between two of `bounds`.
        """
        rng, moved = np.random.default_rng(step_seed(self.seed, -1 - epoch)), True
        few = self.copies < len(bounds)  # others cannot but be twice in a batch
        if len(movable) == self.length:
            few &= self.copies > 1
        while moved:
            moved = False
            for place in _second_copies(order[: movable.stop], bounds, few).tolist():
                moved |= place in movable and _exchange(order, bounds, place, rng)


def _exchange(order: Rows, bounds: Rows, place: int, rng: np.random.Generator) -> bool:
    """Whether an image that is twice in its batch found a place in another."""
    batch = int(np.searchsorted(bounds, place, side="right")) - 1
    image, here = order[place], order[bounds[batch] : bounds[batch + 1]]
    if np.count_nonzero(here == image) < 2:  # an exchange before took the other away
        return False
    for other in _near(batch, len(bounds) - 1):
        there = order[bounds[other] : bounds[other + 1]]
        if image in there:
            continue
        free = np.flatnonzero(~np.isin(there, here))
        if not len(free):
            _, which, times = np.unique(there, return_inverse=True, return_counts=True)
            free = np.flatnonzero(times[which] > 1)
        if len(free):
            swap = bounds[other] + free[rng.integers(len(free))]
            order[place], order[swap] = order[swap], order[place]
            return True
    return False


def _second_copies(order: Rows, bounds: Rows, of: NDArray[np.bool_]) -> Rows:
    """Places, in order, of images that stand before in their batch; of those images that `of` marks."""
    places = np.flatnonzero(of[order])
    images, batch_of = order[places], np.searchsorted(bounds, places, side="right")
    sort = np.lexsort((places, images, batch_of))
    images, batch_of = images[sort], batch_of[sort]
    same = (images[1:] == images[:-1]) & (batch_of[1:] == batch_of[:-1])
    return np.sort(places[sort[1:][same]])


def _near(batch: int, n: int) -> Iterator[int]:
    """All other batches, the nearest first."""
    for away in range(1, n):
        yield from (other for other in (batch + away, batch - away) if 0 <= other < n)
