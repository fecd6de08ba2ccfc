"""How much of what was pretrained on is of the task's kind."""

from analysis.features.feature import Feature, NoFeature, TaskData


def compute(task: TaskData) -> float:
    if task.modality_share is None:
        raise NoFeature("no mixture of pretraining images is known")
    return float(task.modality_share)


MODALITY_SHARE = Feature(
    name="modality_share",
    meaning="share of the pretraining images that are of the task's modality",
    unit="share",
    low=0,
    high=1,
    source="definition",
    compute=compute,
)
