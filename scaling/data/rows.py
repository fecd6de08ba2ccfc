"""Pretraining images that stay in their source's files: rows gathered when they are asked for, nothing copied.

NumPy only. A source whose images are rows of mapped files says so by `direct = True`; `feed.py` reads ahead of it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scaling.data.source import Images, Source

READERS = 4
"""Threads that wait for a disk at the same time; what is in memory one of them copies as fast."""
PIECE = 128
"""Rows below which a batch is not shared among them."""


class DirectSource(Protocol):
    """A source whose images need no decoding. A run that knows the places of its images asks for no pool, which may
    take seconds and gigabytes."""

    direct: bool

    @property
    def version(self) -> str:
        """Changes whenever another image may stand at a place. Takes no pool."""
        ...

    def places(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the files have images of the pool: the order in which they lie is that of their places."""
        ...

    def take(self, places: NDArray[np.int64]) -> Images:
        """Images in the order asked for; safe to call from several threads."""
        ...


def is_direct(source: Source) -> bool:
    return bool(getattr(source, "direct", False))


def maps_tasks(source: Source) -> bool:
    """Whether images of tasks stay in files too, so that a copy of them would gain nothing."""
    return bool(getattr(source, "maps_tasks", is_direct(source)))


class Rows:
    """Images of a source at some places, to be indexed like the array they would be."""

    def __init__(self, source: DirectSource, places: NDArray[np.int64], shape: tuple[int, int, int]) -> None:
        self.shape = (len(places), *shape)
        self._source, self._places = source, places
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="rows")

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> Images:
        """(n, channels, height, width) in the order asked for; read in the order in which they lie, so that a page is
        fetched once and a disk moves on. Raises IndexError for a row that there is not."""
        places = self._places[rows]
        order = np.argsort(places, kind="stable")
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)

        def read(part: NDArray[np.int64]) -> None:
            images[part] = self._source.take(places[part])

        pieces = np.array_split(order, max(1, min(READERS, len(rows) // PIECE)))
        list(self._readers.map(read, pieces))
        return images


Stored = Images | Rows
"""Pretraining images as an array, which may be mapped, or where their source has them."""
