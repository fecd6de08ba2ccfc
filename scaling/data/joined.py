"""Images of one source and tasks of another, as one source: pretrain on a store, probe on MedMNIST."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.data.rows import is_direct, maps_tasks
from scaling.data.source import Images, Labels, Pool, Source, Task, TaskInfo

OF_THE_POOL = ("hashes", "tables", "left_out", "version", "places", "take")

OF_THE_TASKS = ("untasked", "doubts")


class Joined:
    """What is pretrained on, with its labels, is the first source's; what is probed is the second's."""

    def __init__(self, images: Source, tasks: Source) -> None:
        self._images, self._tasks = images, tasks
        self.synthetic = images.synthetic and tasks.synthetic
        self.direct, self.maps_tasks = is_direct(images), maps_tasks(tasks)

    def pool(self) -> Pool:
        return self._images.pool()

    def read(self, indices: NDArray[np.int64]) -> Images:
        return self._images.read(indices)

    def labels(self, indices: NDArray[np.int64]) -> Labels:
        return self._images.labels(indices)

    def tasks(self) -> tuple[TaskInfo, ...]:
        return self._tasks.tasks()

    def task(self, name: str) -> Task:
        return self._tasks.task(name)

    def __getattr__(self, name: str) -> Any:
        """What a source may say beyond the contract of its pool or of its tasks; looked up late, because a pool takes
        its time."""
        if name in OF_THE_POOL:
            return getattr(self._images, name)
        if name in OF_THE_TASKS:
            return getattr(self._tasks, name)
        raise AttributeError(name)
