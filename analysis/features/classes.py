"""Number of answers a task knows."""

from analysis.features.feature import Feature, NoFeature, TaskData


def compute(task: TaskData) -> float:
    if task.n_classes < 1:
        raise NoFeature("no classes")
    return float(task.n_classes)


CLASSES = Feature(
    name="classes",
    meaning="classes, or labels of a multi-label task",
    unit="classes",
    low=1,
    high=float("inf"),
    source="BioVFM-21M (arXiv 2505.09329), num_classes",
    compute=compute,
)
