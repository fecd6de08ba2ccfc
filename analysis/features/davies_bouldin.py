"""How much a task's classes overlap as clusters of raw pixels."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import davies_bouldin_score

from analysis.features.feature import Feature, NoFeature, TaskData, choice

IMAGES = 5000
"""Images clustered at most."""


def compute(task: TaskData) -> float:
    if task.labels.ndim == 2:
        raise NoFeature("a multi-label task has no clusters")
    if len(np.unique(task.labels)) < 2:
        raise NoFeature("fewer than two classes")
    chosen = choice(task.images, IMAGES)
    pixels = task.images[chosen].reshape(len(chosen), -1).astype(np.float64) / 255
    if len(np.unique(task.labels[chosen])) < 2:
        raise NoFeature(f"fewer than two classes among the {len(chosen)} images looked at")
    return float(davies_bouldin_score(pixels, task.labels[chosen]))


DAVIES_BOULDIN = Feature(
    name="davies_bouldin",
    meaning="Davies-Bouldin index of the classes in pixels scaled to 0-1; larger is harder",
    unit="index",
    low=0,
    high=float("inf"),
    source="Davies and Bouldin 1979; a feature of BioVFM-21M (arXiv 2505.09329)",
    compute=compute,
)
