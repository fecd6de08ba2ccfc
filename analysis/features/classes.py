"""Number of answers a task knows."""

from analysis.features.feature import Feature

CLASSES = Feature(
    name="classes",
    meaning="classes, or labels of a multi-label task",
    unit="classes",
    low=1,
    high=float("inf"),
    source="BioVFM-21M (arXiv 2505.09329), num_classes",
    compute=lambda task: float(task.n_classes),
)
