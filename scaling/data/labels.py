"""Labels of pretraining images, for an algorithm that learns from them: what a spec says and what a run trains on."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from scaling.data.source import Labels
from scaling.options import LabelHead, LabelSet


def label_set(labels: Labels) -> LabelSet | None:
    """What decides a run of these labels: a head per task that has some, and their content; None where none has any."""
    used = np.unique(labels.task[labels.task >= 0])
    heads = [labels.tasks[i] for i in used]
    if not heads:
        return None
    digest = hashlib.sha256(label_rows(labels).astype("<i8").tobytes()).hexdigest()
    return LabelSet(
        identity=digest, heads=tuple(LabelHead(task=t.name, kind=t.kind, n_classes=t.n_classes) for t in heads)
    )


def label_rows(labels: Labels) -> NDArray[np.int64]:
    """(n, 1 + values): which head an image's label is for, -1 without one; then its label, as `Labels.values`."""
    used = np.unique(labels.task[labels.task >= 0])
    head = np.where(labels.task < 0, -1, np.searchsorted(used, labels.task))
    return np.column_stack([head, labels.values])
