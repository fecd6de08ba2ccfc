"""The contract of a task feature: one number from a task's own training data, or from what was pretrained on."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK = 256
"""Images compared at once."""


class NoFeature(ValueError):
    """The feature does not exist for this task; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """What features are computed from."""

    images: NDArray[np.uint8]
    """(n, channels, height, width) of the training split. Grey repeated over channels is kept once, so that what a
    task is given as makes no difference."""
    labels: NDArray[np.int64]
    """(n,), or (n, n_labels) of 0/1 for multi-label."""
    n_samples: int
    """Images of all splits together."""
    n_classes: int
    """Classes, or labels for multi-label."""
    modality_share: float | None = None
    """Share of the pretraining images that are of the task's modality, 0-1; None where nothing is known of them."""
    pretraining: NDArray[np.uint8] | None = None
    """(m, channels, height, width), the pretraining images or a random sample of them; None where they are not known.
    Any size: it need not be the task's."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", _once(self.images))


def _once(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    parts = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    return images[:, :1] if all((part == part[:, :1]).all() for part in parts) else images


def checksums(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(n,) CRC-32 of each image: the same wherever the image stands."""
    return np.array([zlib.crc32(image.tobytes()) for image in images], np.int64)


def choice(images: NDArray[np.uint8], n: int) -> NDArray[np.int64]:
    """Positions of at most n images: those with the smallest checksums, so that the order of images does not matter."""
    if len(images) <= n:
        return np.arange(len(images))
    return np.argsort(checksums(images), kind="stable")[:n]


@dataclass(frozen=True, kw_only=True)
class Feature:
    name: str
    meaning: str
    unit: str
    low: float
    high: float
    """Range of possible values."""
    source: str
    compute: Callable[[TaskData], float]
    """Does not depend on the order of the images. Raises NoFeature."""
