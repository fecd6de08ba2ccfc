"""How much of a task's images is redundant to a general compressor."""

from __future__ import annotations

import gzip

import numpy as np

from analysis.features.feature import Feature, NoFeature, TaskData, choice

IMAGES = 1000
"""Images compressed at most."""
BYTES = 20_000_000
"""Compressed at most; of large images fewer are."""


def compute(task: TaskData) -> float:
    if not len(task.images):
        raise NoFeature("no training images")
    chosen = choice(task.images, max(1, min(IMAGES, BYTES // task.images[0].size)))
    ratios = [len(gzip.compress(image.tobytes(), 9)) / image.nbytes for image in task.images[chosen]]
    return float(np.mean(ratios))


COMPRESSIBILITY = Feature(
    name="compressibility",
    meaning="gzip size / raw size of an image, mean over images; constant images near 0, noise in small images above 1",
    unit="ratio",
    low=0,
    high=float("inf"),
    source="gzip compressibility of BioVFM-21M (arXiv 2505.09329), image by image",
    compute=compute,
)
