"""Size of a task."""

from analysis.features.feature import Feature, NoFeature, TaskData


def compute(task: TaskData) -> float:
    if task.n_samples < 1:
        raise NoFeature("no images")
    return float(task.n_samples)


SAMPLES = Feature(
    name="samples",
    meaning="images of all splits together",
    unit="images",
    low=1,
    high=float("inf"),
    source="BioVFM-21M (arXiv 2505.09329), num_samples",
    compute=compute,
)
