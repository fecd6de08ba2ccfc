"""What a run reads: images, how often each is repeated, labels, tasks; from the shared cache where they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from scaling.data.cache import cached, cached_images, cached_places, cached_task
from scaling.data.labels import label_rows, label_set
from scaling.data.mixture import Selection, select
from scaling.data.rows import DirectSource, Rows, Stored, is_direct
from scaling.data.source import Images, Source, Task, TaskInfo
from scaling.errors import RunFailed
from scaling.options import LabelSet
from scaling.plan import source_of
from scaling.planned import Job

CHUNK = 8192
"""Images read from a source between two signs of life."""


class Data:
    """From the cache if another run was there before; else from the source, which is opened for it."""

    def __init__(self, job: Job, go_on: Callable[[], None]) -> None:
        self.job = job
        self.cache = Path(job.cache)
        self._go_on = go_on
        self._source: Source | None = None
        self._selection: Selection | None = None

    @property
    def source(self) -> Source:
        if self._source is None:
            self._source = source_of(self.job.data)
        return self._source

    def images(self) -> Stored:
        """Pretraining images, each once; those of a direct source where they are. Raises RunFailed when the source no
        longer holds what was planned."""
        spec = self.job.spec
        if not spec.data_identity:
            return np.empty((0, spec.channels, spec.image_size, spec.image_size), np.uint8)
        name = f"images-{spec.data_identity[:24]}-{spec.image_size}x{spec.channels}.npy"
        shape = (spec.channels, spec.image_size, spec.image_size)
        if (self.cache / name).exists() or not is_direct(self.source):
            return cached_images(self.cache / name, (spec.n_unique, *shape), self._draw)
        source = cast(DirectSource, self.source)
        path = self.cache / f"places-{spec.data_identity[:24]}-{source.version[:24]}.npy"
        places = cached_places(path, spec.n_unique, lambda: source.places(self._selected().indices))
        return Rows(source, places, shape)

    def copies(self) -> NDArray[np.uint32] | None:
        """(n_unique,) how often each image stands in the set; None where each does once."""
        spec = self.job.spec
        if not spec.repeated_from:
            return None
        name = f"copies-{spec.data_identity[:24]}.npz"
        return cached(self.cache / name, lambda: {"copies": self._selected().copies})["copies"]

    def labels(self) -> NDArray[np.int64] | None:
        """As `label_rows`; None for an algorithm that learns without. Raises RunFailed when they are not as planned."""
        wanted: LabelSet | None = getattr(self.job.spec.options, "labels", None)
        if wanted is None:
            return None

        def look_up() -> dict[str, NDArray]:
            labels = self.source.labels(self._selected().indices)
            if label_set(labels) != wanted:
                raise RunFailed("the images' labels changed since the plan was made; run the sweep again to plan anew")
            return {"labels": label_rows(labels)}

        return cached(self.cache / f"labels-{wanted.identity[:24]}.npz", look_up)["labels"]

    def _selected(self) -> Selection:
        if self._selection is None:
            assert self.job.mixture is not None
            selection = select(self.source.pool(), self.job.mixture, self.job.spec.n_images)
            if selection.identity != self.job.spec.data_identity:
                what = "the source's images changed since the plan was made"
                raise RunFailed(f"{what}; run the sweep again to plan anew")
            self._selection = selection
        return self._selection

    def _draw(self) -> Iterator[Images]:
        indices = self._selected().indices
        for start in range(0, len(indices), CHUNK):
            self._go_on()
            yield self.source.read(indices[start : start + CHUNK])

    def task(self, info: TaskInfo) -> Task:
        return cached_task(self.cache, info, lambda: self.source)
