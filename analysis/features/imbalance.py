"""How unevenly a task's classes are filled."""

from __future__ import annotations

import numpy as np

from analysis.features.feature import Feature, NoFeature, TaskData


def compute(task: TaskData) -> float:
    counts = task.labels.sum(axis=0) if task.labels.ndim == 2 else np.bincount(task.labels, minlength=task.n_classes)
    if len(counts) < 2:
        raise NoFeature("fewer than two classes")
    if counts.sum() == 0:
        raise NoFeature("no labels")
    share = counts[counts > 0] / counts.sum()
    evenness = -(share * np.log(share)).sum() / np.log(len(counts))
    return float(np.clip(1 - evenness, 0, 1))  # rounding may leave the range by a digit


IMBALANCE = Feature(
    name="imbalance",
    meaning="1 - entropy of the class shares / its maximum: 0 is balanced, 1 is one class alone",
    unit="share",
    low=0,
    high=1,
    source="Pielou's evenness (1966), subtracted from 1",
    compute=compute,
)
