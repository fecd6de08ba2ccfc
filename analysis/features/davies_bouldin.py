"""How much a task's classes overlap as clusters of raw pixels."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.metrics import davies_bouldin_score

from analysis.features.feature import Feature, NoFeature, TaskData, choice

IMAGES = 5000
"""Images clustered at most."""
VALUES = 50_000_000
"""Pixel values held at most, 400 MB; large images are clustered from fewer of them."""


def compute(task: TaskData) -> float:
    if not len(task.images):
        raise NoFeature("no training images")
    if task.labels.ndim == 2:
        raise NoFeature("a multi-label task has no clusters")
    if len(np.unique(task.labels)) < 2:
        raise NoFeature("fewer than two classes")
    chosen = choice(task.images, max(2, min(IMAGES, VALUES // task.images[0].size)))
    pixels = task.images[chosen].reshape(len(chosen), -1).astype(np.float64) / 255
    labels = task.labels[chosen]
    classes = np.unique(labels)
    if len(classes) < 2:
        raise NoFeature(f"fewer than two classes among the {len(chosen)} images looked at")
    if len(classes) == len(labels):
        raise NoFeature("no class has two images")
    centres = np.stack([pixels[labels == c].mean(axis=0) for c in classes])
    if np.isclose(pdist(centres), 0).any():  # the index is infinite here, and scikit-learn would answer 0: no overlap
        raise NoFeature("two classes have the same mean image")
    return float(davies_bouldin_score(pixels, labels))


DAVIES_BOULDIN = Feature(
    name="davies_bouldin",
    meaning="Davies-Bouldin index of the classes in pixels scaled to 0-1; larger is harder",
    unit="index",
    low=0,
    high=float("inf"),
    source="Davies and Bouldin 1979; a feature of BioVFM-21M (arXiv 2505.09329)",
    compute=compute,
)
