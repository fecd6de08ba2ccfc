"""Task features, by name. To add one: a file with its `Feature`, a row here; the contract tests then check it."""

from analysis.features.baseline_auc import BASELINE_AUC
from analysis.features.channels import CHANNELS
from analysis.features.classes import CLASSES
from analysis.features.compressibility import COMPRESSIBILITY
from analysis.features.davies_bouldin import DAVIES_BOULDIN
from analysis.features.entropy import ENTROPY
from analysis.features.feature import NoFeature, TaskData
from analysis.features.imbalance import IMBALANCE
from analysis.features.intrinsic_dimension import INTRINSIC_DIMENSION
from analysis.features.modality_share import MODALITY_SHARE
from analysis.features.pretraining_distance import PRETRAINING_DISTANCE
from analysis.features.resolution import RESOLUTION
from analysis.features.samples import SAMPLES

FEATURES = {
    feature.name: feature
    for feature in (
        SAMPLES,
        CLASSES,
        IMBALANCE,
        RESOLUTION,
        CHANNELS,
        COMPRESSIBILITY,
        ENTROPY,
        INTRINSIC_DIMENSION,
        DAVIES_BOULDIN,
        BASELINE_AUC,
        MODALITY_SHARE,
        PRETRAINING_DISTANCE,
    )
}
PLANTED = "scale_need"
TRUTH = "how much of the task needs scale, as the source planted it (share)"
"""No feature of images but the truth: a column of tasks where their source knows it."""
VERSION = 2
"""Raised when a feature comes to mean something else, so that kept values are computed again."""


def compute(task: TaskData) -> dict[str, float | str | None]:
    """Every feature of a task; one that does not exist is None, and `<name>_reason` says why."""
    values: dict[str, float | str | None] = {}
    for name, feature in FEATURES.items():
        try:
            values[name] = feature.compute(task)
        except NoFeature as reason:
            values |= {name: None, f"{name}_reason": str(reason)}
    return values
