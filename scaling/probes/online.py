"""A cheap read-out along training, so that trajectories are known and not only end points.

Ridge regression on a few thousand images of one or two tasks, judged on validation images; no test image is ever seen.
For comparing moments of a run and runs with each other, not for reporting: the final probes see more, and test images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from scaling.data.source import Split, Task, TaskInfo
from scaling.data.views import normalise
from scaling.execution import OnlineProbe
from scaling.health import Context, at_rest, pooled
from scaling.probes.features import subset
from scaling.probes.ridge import ridge_auc
from scaling.records import ONLINE

SHARE = 0.01
"""Of the training's FLOPs that `auto` may take; a run too short for the least of it has no online probe."""
FEWEST, MOST = 240, 3000
"""Images of a task, two thirds of them training images."""
FEWEST_POINTS = 4


@dataclass(frozen=True, kw_only=True)
class Portion:
    """What a run is followed on."""

    tasks: Sequence[TaskInfo]
    points: int
    """Read-outs of each task, spread evenly over the run."""
    n_images: int
    """Of each task at most."""


def portion(options: OnlineProbe, tasks: Sequence[TaskInfo], affordable: int) -> Portion | None:
    """Tasks named in the YAML are always followed; `auto` takes what `affordable` forward passes buy, if any.

    That is two tasks of different modalities, else one, else one at fewer points; then as many images as are left.
    """
    if options.tasks == "none" or not tasks:
        return None
    if options.tasks == "auto":
        other = [info for info in tasks if info.modality != tasks[0].modality] or list(tasks[1:])
        chosen, points = [tasks[0], *other[:1]], options.points
        while len(chosen) > 1 and affordable < FEWEST * points * len(chosen):
            chosen.pop()
        points = min(points, affordable // FEWEST // len(chosen))
        if points < min(FEWEST_POINTS, options.points):
            return None
    else:
        chosen, points = [info for info in tasks if info.name in options.tasks], options.points
        if not chosen:
            return None
    n_images = max(FEWEST, min(MOST, affordable // (points * len(chosen))))
    return Portion(tasks=chosen, points=points, n_images=n_images)


@dataclass(frozen=True, kw_only=True)
class _Followed:
    info: TaskInfo
    train: Split
    val: Split


class Online:
    """`train.Follow` on a portion of the tasks; their images are held from the start on."""

    def __init__(self, chosen: Portion, read: Callable[[TaskInfo], Task], device: torch.device, chunk: int) -> None:
        self.points, self.device, self.chunk = chosen.points, device, chunk
        self.followed = []
        for info in chosen.tasks:
            task, n_val = read(info), chosen.n_images // 3
            train, val = _some(task.train, chosen.n_images - n_val), _some(task.val, n_val)
            self.followed.append(_Followed(info=info, train=train, val=val))

    def __call__(self, encoder: nn.Module, context: Context) -> dict[str, float]:
        """`probe_auc/TASK`; a task whose AUC is undefined is left out."""
        found = {}
        for task in self.followed:
            with at_rest(encoder, context):
                train, val = (self._features(encoder, split) for split in (task.train, task.val))
            metric = ridge_auc(
                train, task.train.labels, val, task.val.labels, kind=task.info.kind, n_classes=task.info.n_classes
            )
            if metric.value is not None:
                found[ONLINE + task.info.name] = metric.value
        return found

    def _features(self, encoder: nn.Module, split: Split) -> Tensor:
        parts = torch.from_numpy(split.images).split(self.chunk)
        return torch.cat([pooled(encoder(normalise(part.to(self.device)))) for part in parts])


def _some(split: Split, n: int) -> Split:
    """The same images in every run, so that trajectories of seeds and models can be compared."""
    chosen = subset(split.labels, n, seed=0)
    return Split(images=np.ascontiguousarray(split.images[chosen]), labels=split.labels[chosen])
