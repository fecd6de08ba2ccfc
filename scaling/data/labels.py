"""Labels of pretraining images, for an algorithm that learns from them: what a spec says and what a run trains on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from scaling.data.source import Labels, TaskInfo
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


def pooled_labels(
    pool: NDArray[np.uint64],
    tasks: tuple[TaskInfo, ...],
    train: Sequence[tuple[NDArray[np.uint64], NDArray[np.int64]]],
    held: Iterable[NDArray[np.uint64]],
) -> Labels:
    """Labels of a pool by its sorted keys (n,): for each task, keys and labels of its training split; of an image in
    several, the first task's. An image among `held`, the keys of all other splits, carries none: what is tested would
    be learned."""
    width = max((labels.shape[1] if labels.ndim == 2 else 1 for _, labels in train), default=1)
    task = np.full(len(pool), -1)
    values = np.zeros((len(pool), width), np.int64)
    for code in reversed(range(len(tasks))):  # the first task is written last
        found, first = np.unique(train[code][0], return_index=True)
        members = np.flatnonzero(np.isin(pool, found))
        rows = train[code][1].reshape(len(train[code][0]), -1)[first[np.searchsorted(found, pool[members])]]
        task[members], values[members] = code, 0
        values[members, : rows.shape[1]] = rows
    for keys in held:
        kept_out = np.isin(pool, keys)
        task[kept_out], values[kept_out] = -1, 0
    return Labels(tasks=tasks, task=task, values=values)
