"""Training images on their way to the device: resident where they fit, else read ahead by one thread.

No loader processes: a batch is a gather of rows, which one thread does many times faster than any device trains.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scaling.calibration import RESIDENT
from scaling.data.rows import Rows, Stored
from scaling.parallel import Part


class Feed(Protocol):
    """The same batches whichever it is."""

    def ahead(self, order: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same indices; each batch is being read while the one before it is trained on."""
        ...

    def take(self, indices: Tensor) -> Iterator[tuple[Part, Tensor]]:
        """This process's parts of the batch at `indices`, with their images on the device; as often as asked."""
        ...


LOADED = 8192
"""Rows of a source's files that are on their way to a GPU at a time."""


def feed_of(images: Stored, parts: Sequence[Part], device: torch.device, *, share: float = RESIDENT) -> Feed:
    """`parts`: this process's of every batch. Images beyond `share` of the free memory stay where they are, which may
    be a memory-mapped file. On a CPU those of a direct source always do: all runs of a machine share its page cache,
    and none has to read them all before it begins."""
    fits = images.nbytes <= share * _free_bytes(device) and not (isinstance(images, Rows) and device.type == "cpu")
    return Resident(images, parts, device) if fits else Streamed(images, parts, device)


def _free_bytes(device: torch.device) -> int:
    """Of this process's share of a GPU; all of the machine's memory, whose files may be dropped from it any time."""
    if device.type != "cuda":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free, total = torch.cuda.mem_get_info(device)
    return min(free, int(total * torch.cuda.get_per_process_memory_fraction(device)))


class Resident:
    """All images on the device as uint8; on a CPU the array itself."""

    def __init__(self, images: Stored, parts: Sequence[Part], device: torch.device) -> None:
        self.images, self.parts = _loaded(images, device), parts

    def ahead(self, order: Iterator[Tensor]) -> Iterator[Tensor]:
        return order

    def take(self, indices: Tensor) -> Iterator[tuple[Part, Tensor]]:
        for part in self.parts:
            rows = part.rows(indices).to(self.images.device)
            yield part, self.images.index_select(0, rows)


def _loaded(images: Stored, device: torch.device) -> Tensor:
    if not isinstance(images, Rows):
        return torch.from_numpy(images).to(device)
    held = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), LOADED):
        rows = np.arange(start, min(start + LOADED, len(images)))
        held[start : start + LOADED] = torch.from_numpy(images[rows]).to(device)
    return held


class Streamed:
    """One thread gathers the next batch; for a GPU into page-locked memory, from where a stream of its own copies."""

    def __init__(self, images: Stored, parts: Sequence[Part], device: torch.device) -> None:
        self.images, self.parts, self.device = images, parts, device
        self._array = None if isinstance(images, Rows) else torch.from_numpy(images)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._coming: tuple[Tensor, Future[Tensor]] | None = None
        self._here: tuple[Tensor, Tensor] | None = None
        """Indices of the batch being trained on, and this process's images of it."""
        self._pinned: list[Tensor] = []
        self._turn = 0
        self._copies: list[torch.cuda.Event] = []
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            held = sum(part.stop - part.start for part in parts)
            self._pinned = [torch.empty(held, *images.shape[1:], dtype=torch.uint8, pin_memory=True) for _ in range(2)]
            self._copies = [torch.cuda.Event() for _ in range(2)]

    def ahead(self, order: Iterator[Tensor]) -> Iterator[Tensor]:
        following = next(order)
        for indices in order:
            now, following = following, indices
            self._expect(now)
            self.take_in(now)
            self._expect(following)
            yield now

    def take(self, indices: Tensor) -> Iterator[tuple[Part, Tensor]]:
        held = self.take_in(indices)
        at = 0
        for part in self.parts:
            n = part.stop - part.start
            yield part, held[at : at + n]
            at += n

    def take_in(self, indices: Tensor) -> Tensor:
        """This process's images of the batch, one part after the other; read now unless they are here or coming."""
        if self._here is not None and torch.equal(self._here[0], indices):
            return self._here[1]
        self._expect(indices)
        assert self._coming is not None
        images = self._coming[1].result()
        self._coming = None
        if self.device.type == "cuda":
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self._stream)
            images.record_stream(here)
        self._here = (indices, images)
        return images

    def _expect(self, indices: Tensor) -> None:
        if self._here is not None and torch.equal(self._here[0], indices):
            return
        if self._coming is None or not torch.equal(self._coming[0], indices):
            self._coming = indices, self._reader.submit(self._read, indices)

    def _read(self, indices: Tensor) -> Tensor:
        rows = torch.cat([part.rows(indices) for part in self.parts])
        if self.device.type != "cuda":
            return self._gathered(rows)
        turn = self._turn = 1 - self._turn
        self._copies[turn].synchronize()  # what this buffer held before has left it
        if self._array is not None:
            torch.index_select(self._array, 0, rows, out=self._pinned[turn])
        else:
            self._pinned[turn].copy_(self._gathered(rows))
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            images = self._pinned[turn].to(self.device, non_blocking=True)
            self._copies[turn].record(self._stream)
        return images

    def _gathered(self, rows: Tensor) -> Tensor:
        if self._array is not None:
            return self._array.index_select(0, rows)
        assert isinstance(self.images, Rows)
        return torch.from_numpy(self.images[rows.numpy()])
