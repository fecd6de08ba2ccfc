"""Grey or colour."""

from __future__ import annotations

from analysis.features.feature import Feature, NoFeature, TaskData


def compute(task: TaskData) -> float:
    if not task.images.size:
        raise NoFeature("no training images")
    return float(task.images.shape[1])


CHANNELS = Feature(
    name="channels",
    meaning="channels of an image; grey repeated over three counts as 1",
    unit="channels",
    low=1,
    high=float("inf"),
    source="definition; n_channels of MedMNIST v2 (doi:10.1038/s41597-022-01721-8)",
    compute=compute,
)
