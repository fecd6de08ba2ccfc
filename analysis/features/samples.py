"""Size of a task."""

from analysis.features.feature import Feature

SAMPLES = Feature(
    name="samples",
    meaning="images of all splits together",
    unit="images",
    low=1,
    high=float("inf"),
    source="BioVFM-21M (arXiv 2505.09329), num_samples",
    compute=lambda task: float(task.n_samples),
)
