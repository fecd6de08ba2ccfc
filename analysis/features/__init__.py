"""Task features, by name. To add one: a file with its `Feature`, a row here; the contract tests then check it."""

import numpy as np
from numpy.typing import NDArray

from analysis.features.classes import CLASSES
from analysis.features.compressibility import COMPRESSIBILITY
from analysis.features.davies_bouldin import DAVIES_BOULDIN
from analysis.features.feature import NoFeature, TaskData
from analysis.features.imbalance import IMBALANCE
from analysis.features.samples import SAMPLES

FEATURES = {feature.name: feature for feature in (SAMPLES, CLASSES, IMBALANCE, COMPRESSIBILITY, DAVIES_BOULDIN)}


def compute(
    images: NDArray[np.uint8], labels: NDArray[np.int64], *, n_samples: int, n_classes: int
) -> dict[str, float | str | None]:
    """Every feature of a task; one that does not exist is None, and `<name>_reason` says why."""
    task = TaskData(images=images, labels=labels, n_samples=n_samples, n_classes=n_classes)
    values: dict[str, float | str | None] = {}
    for name, feature in FEATURES.items():
        try:
            values[name] = feature.compute(task)
        except NoFeature as reason:
            values |= {name: None, f"{name}_reason": str(reason)}
    return values
