"""Size of a task's images."""

from __future__ import annotations

import math

from analysis.features.feature import Feature, NoFeature, TaskData


def compute(task: TaskData) -> float:
    if not task.images.size:
        raise NoFeature("no training images")
    return math.sqrt(task.images.shape[2] * task.images.shape[3])


RESOLUTION = Feature(
    name="resolution",
    meaning="side of an image as the encoder is given it, in a sweep the same for all tasks; of an oblong image, that "
    "of the square of equal area",
    unit="pixels",
    low=1,
    high=float("inf"),
    source="definition",
    compute=compute,
)
