"""What a run leaves behind, and the columns of the observation table with their units.

Row 0: the only module of `scaling` that `analysis` may import. Standard library only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["done", "diverged", "collapsed", "failed"]
"""`diverged` (the loss is no number) and `collapsed` (the features say nothing, see `scaling.health`) are results: the
recipe does not train here. `failed` is the absence of one."""
UNSOUND = ("diverged", "collapsed")
"""Statuses of runs that trained to nothing worth probing: they have no read-outs and are in no fit."""

BASELINES = ("random", "pixels")
"""Algorithms that do not train: the encoder at initialisation, and the image itself. References, never fitted."""

COLUMNS: dict[str, str] = {
    "run": "fingerprint of the run's pretraining, 12 hex digits",
    "status": "done | diverged | collapsed | failed",
    "model": "encoder size, a name of the ladder",
    "algorithm": "SSL objective, or a baseline: random (encoder at initialisation), pixels",
    "mixture": "name of the modality weights of the pretraining images",
    "shares": "modalities of the pretraining images with their shares, repeats counted, as in ct=0.25;mr=0.75",
    "n_images": "unique pretraining images",
    "n_images_asked": "the grid's n_images: images of the set with repeats; n_images where its mixture repeats none",
    "epochs": "modalities with how often training saw each of their images on average, as in ct=1.5;ultrasound=30",
    "seed": "seed of initialisation, data order and augmentation",
    "holdout": "true | false: whether the run is left out of every fit, to hold predictions against it",
    "recipe": "name of the options that the run started from; empty for the algorithm's defaults",
    "settings": "name=value;... of the options in which the table's runs of the algorithm differ, by tuning or by size",
    "peak_lr": "highest learning rate of the run, after the rule for its batch size",
    "n_params": "trainable parameters of the encoder (frozen position table not counted)",
    "n_params_heads": "trainable parameters outside the encoder: decoder, predictor, heads, mask token",
    "n_params_total": "trainable parameters with decoder or heads, without what is frozen of the encoder",
    "n_params_non_embedding": "n_params without patch projection and class token: blocks and last norm",
    "paper_axis": "trainable parameters of MAE with the paper's decoder at this width and depth, 224/16, 3 channels",
    "images_seen": "images consumed by training (epochs x unique)",
    "flops_per_image": "floating-point operations of a training step over its batch, multiply-add = 2",
    "train_flops": "floating-point operations of the whole pretraining, multiply-add = 2",
    "train_seconds": "wall seconds of pretraining, all attempts",
    "gpu_seconds": "train_seconds times the GPUs, or the share of one, that the run held; 0 on a CPU",
    "train_loss": "mean pretraining loss over the last tenth of the run, nats or the objective's own unit",
    "task": "downstream data set",
    "modality": "imaging modality of the task",
    "probe": "read-out of frozen features: linear | knn | ridge | biovfm",
    "auc": "area under the ROC curve on the test split, 0-1, as MedMNIST's evaluator averages it",
    "auc_se": "bootstrap standard error of auc over test images",
    "accuracy": "accuracy on the test split, 0-1, as MedMNIST's evaluator defines it",
    "accuracy_se": "bootstrap standard error of accuracy over test images",
    "chance_auc": "auc of a read-out that knows nothing: 0.5",
    "chance_accuracy": "accuracy of always answering the most frequent training class",
    "n_test": "test images",
    "reason": "why a metric is missing or the run has none; empty when all is well",
}
"""Observation table: one row per run x task x probe; a run without probes has one row with an empty task."""

TASK_COLUMNS: dict[str, str] = {
    "task": "downstream data set",
    "modality": "imaging modality",
    "kind": "binary | multi-class | multi-label | ordinal",
    "n_classes": "classes (labels for multi-label)",
    "n_train": "training images",
    "n_val": "validation images",
    "n_test": "test images",
    "pretraining_mixture": "mixture that modality_share and pretraining_distance compare the task with",
    "pretraining_images": "size of that mixture's set of images; of a sweep's sets the one the benefits are of",
}
"""Task table: one row per task; the features that `analysis.features` computes are further columns, and `scale_need`
where a synthetic source planted how much of a task needs scale, 0-1."""

TUNING_COLUMNS: dict[str, str] = {
    "kind": "trial: a run at an anchor; choice: what a model of the grid trains with",
    "algorithm": "SSL objective",
    "model": "encoder size, a name of the ladder",
    "n_params": "trainable parameters of the encoder",
    "lr": "base of the learning rate",
    "weight_decay": "at the start; missing where it was not tuned",
    "status": "trial: done | stopped (early) | diverged | collapsed | failed; "
    "choice: tried | between anchors | beyond anchors",
    "run": "fingerprint of a trial's run",
    "step": "optimiser steps a trial did",
    "n_steps": "optimiser steps of a whole trial",
    "loss": "mean pretraining loss over the last tenth of the steps done",
    "score": "what finished trials are judged by, lower is better: the loss or the validation error of a read-out",
    "best": "whether a trial is the best of its anchor",
    "slope": "of a choice: exponent of lr in n_params by the rule; missing where the rule has no line",
    "slope_low": "of a choice: least slope if each anchor's optimum lies anywhere between the neighbours tried",
    "slope_high": "the greatest one; both missing where a best value has no neighbour on one side",
    "intercept": "of a choice: ln lr at one parameter by the rule",
}
"""Tuning table: one row per trial and one per algorithm and model of the grid."""

ONLINE = "probe_auc/"
"""Begins the name of a task's online read-out among a run's logged values."""

TRAJECTORY_COLUMNS: dict[str, str] = {
    "run": "fingerprint of the run's pretraining, 12 hex digits",
    "model": "encoder size, a name of the ladder",
    "algorithm": "SSL objective",
    "mixture": "name of the modality weights of the pretraining images",
    "n_images": "unique pretraining images",
    "seed": "seed of initialisation, data order and augmentation",
    "n_params": "trainable parameters of the encoder",
    "images_seen": "images consumed by training up to this point",
    "progress": "images_seen over those of the whole run, 0-1",
    "task": "downstream data set of the read-out; empty in rows of the loss",
    "auc": "area under the ROC curve of the online read-out, ridge regression judged on validation images, 0-1",
    "loss": "pretraining loss, mean of the steps logged since the row before, nats or the objective's own unit",
}
"""Table of trajectories: one row per run x point x task with its auc, and one per run x point with its loss."""


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """One read-out of one run's frozen features on one task."""

    task: str
    modality: str
    probe: str
    auc: float | None
    """0-1; None when it cannot be computed, then `reason` says why."""
    auc_se: float | None
    accuracy: float | None
    accuracy_se: float | None
    chance_auc: float
    chance_accuracy: float
    n_test: int
    settings: dict[str, Any] = field(default_factory=dict)
    """What the read-out chose, e.g. the inverse L2 strength C and its validation AUC."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What came out of one run's pretraining; its probes are kept beside it."""

    run: str
    status: Status
    n_params: int
    n_params_total: int
    images_seen: int
    train_flops: float
    train_seconds: float
    train_loss: float | None
    n_params_by_part: dict[str, int] = field(default_factory=dict)
    """Trainable parameters by part; the parts sum to `n_params_total`."""
    n_params_heads: int | None = None
    """Trainable outside the encoder. This and what follows is None in records from before it was written down."""
    n_params_non_embedding: int | None = None
    paper_axis: int | None = None
    flops_per_image: float | None = None
    gpu_seconds: float | None = None
    """0 on a CPU."""
    peak_lr: float | None = None
    """None for what does not train, too."""
    recipe: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    """Host, device, precision, versions, commit: provenance, not identity."""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
