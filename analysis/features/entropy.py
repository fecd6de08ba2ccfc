"""How many grey levels a task's images use, and how evenly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.features.feature import Feature, NoFeature, TaskData, choice
from analysis.features.pixels import grey

IMAGES = 1000
"""Images looked at, at most."""
LEVELS = 256


def compute(task: TaskData) -> float:
    if not task.images.size:
        raise NoFeature("no training images")
    return float(np.mean([_bits(grey(image[None])) for image in task.images[choice(task.images, IMAGES)]]))


def _bits(image: NDArray[np.uint8]) -> float:
    share = np.bincount(image.ravel(), minlength=LEVELS) / image.size
    return float(-(share[share > 0] * np.log2(share[share > 0])).sum()) + 0.0  # no minus zero of one level


ENTROPY = Feature(
    name="entropy",
    meaning="Shannon entropy of an image's grey levels, mean over images; 0 is one level, 8 all 256 alike; "
    "small images cannot reach 8",
    unit="bits",
    low=0,
    high=8,
    source="Shannon 1948, of the histogram of grey levels (ITU-R BT.601 luminance of colour)",
    compute=compute,
)
