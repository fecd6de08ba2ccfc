"""The contract of a source: images to pretrain on, tasks to probe with. NumPy only, so a plan never imports torch.

A source knows its images by *key*: a 64-bit number that follows from the image itself, never from its position in
a file. Subsets, mixtures and the identity of a run's data are functions of keys alone (`mixture.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
"""(n, channels, height, width), 0-255."""
TaskKind = Literal["binary", "multi-class", "multi-label", "ordinal"]
MIXED = "mixed"
"""Modality of a task whose images are of several."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """All images a source offers for pretraining, without their pixels."""

    keys: NDArray[np.uint64]
    """(n,) identity of each image."""
    groups: NDArray[np.uint64]
    """(n,) identity of the patient, slide or study an image belongs to; the key itself where nothing is known."""
    modality: NDArray[np.int16]
    """(n,) index into `modalities`."""
    modalities: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Split:
    images: Images
    labels: NDArray[np.int64]
    """(n,), or (n, n_labels) of 0/1 for multi-label."""


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """What is known of a task without reading its images."""

    name: str
    modality: str
    """Of its images; `MIXED` where they are of several."""
    kind: TaskKind
    n_classes: int
    """Classes, or labels for multi-label."""
    identity: str
    """Changes whenever an image or a label of the task changes."""
    n_train: int | None = None
    """Images of the training split; None in a plan from before it was noted."""
    n_other: int | None = None
    """Images of the validation and test splits together, likewise."""
    scale_need: float | None = None
    """How much of the task needs scale, 0-1, where a synthetic source planted it so; None where nobody knows."""


@dataclass(frozen=True, kw_only=True)
class Task:
    info: TaskInfo
    train: Split
    val: Split
    test: Split


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What training splits say of images of the pool."""

    tasks: tuple[TaskInfo, ...]
    task: NDArray[np.int64]
    """(n,) which of `tasks` an image's label is of, -1 without one."""
    values: NDArray[np.int64]
    """(n, most labels of a task): the class, then zeros; for multi-label 0/1 each."""


class Source(Protocol):
    """Deterministic: the same options give the same images, tasks and identities on every machine."""

    synthetic: bool
    """True when no image comes from a patient; pictures and reports say so."""

    def pool(self) -> Pool: ...

    def read(self, indices: NDArray[np.int64]) -> Images:
        """Images of the pool at `indices`, in that order."""
        ...

    def labels(self, indices: NDArray[np.int64]) -> Labels:
        """Of images of the pool at `indices`; none for one that is also in a validation or test split of any task."""
        ...

    def tasks(self) -> tuple[TaskInfo, ...]: ...

    def task(self, name: str) -> Task: ...
