"""Grey or colour."""

from __future__ import annotations

import numpy as np

from analysis.features.feature import Feature, NoFeature, TaskData


def compute(task: TaskData) -> float:
    if not task.images.size:
        raise NoFeature("no training images")
    kept: list[int] = []
    for channel in range(task.images.shape[1]):
        if not any(np.array_equal(task.images[:, channel], task.images[:, other]) for other in kept):
            kept.append(channel)
    return float(len(kept))


CHANNELS = Feature(
    name="channels",
    meaning="channels that differ in any training image: grey repeated over three channels counts as 1",
    unit="channels",
    low=1,
    high=float("inf"),
    source="definition; n_channels of MedMNIST v2 (doi:10.1038/s41597-022-01721-8)",
    compute=compute,
)
