"""Linear read-out: L2-regularised logistic regression, its strength chosen on the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, log_expit, log_softmax, softmax
from torch import Tensor

from scaling.data.source import TaskInfo, TaskKind
from scaling.errors import RunFailed
from scaling.probe_options import LinearOptions
from scaling.probes.features import Splits
from scaling.probes.logistic import GRADIENT, logits, solve
from scaling.probes.metrics import Labels, Scores, auc

PLATEAU = 1e-4
"""Validation AUC a weaker regularisation must add to be preferred."""


class Linear:
    """Good at telling what is linearly readable from features; linear in images, features and classes."""

    pool = None

    def __init__(self, options: LinearOptions) -> None:
        self.options = options

    def predict(self, splits: Splits, info: TaskInfo, *, seed: int) -> tuple[Scores, dict[str, Any]]:
        """Probabilities for the test split, and the inverse strength C chosen, from the strongest on.

        A strength whose fit does not converge is left out and named; RunFailed where none converges.
        """
        o, axes, train = self.options, splits.axes, splits.train
        strengths = np.geomspace(o.c_min, o.c_max, o.n_c)
        x, targets = axes.of(train.features), targets_of(train.labels, info, train.features.device)
        solution = solve(x, axes.variance, targets, strengths, sigmoid=separate(info.kind))
        there = np.flatnonzero(solution.converged)
        if len(there) == 0:
            raise RunFailed(
                f"{info.name}: no logistic regression comes to a gradient of {GRADIENT}; narrow probe.linear"
            )
        weights = solution.weights[torch.from_numpy(there).to(x.device)]
        val = logits(axes.of(splits.val.features), weights).double().cpu().numpy()
        best, chosen = choose(val, splits.val.labels, info.kind)
        test = logits(axes.of(splits.test.features), weights[best : best + 1])[0].double().cpu().numpy()
        settings = {"C": float(strengths[there[best]]), **chosen}
        if len(there) < len(strengths):
            settings["not_converged"] = [float(c) for c in strengths[~solution.converged]]
        return probabilities(test, info.kind), settings


def choose(val_logits: NDArray[np.float64], labels: Labels, kind: TaskKind) -> tuple[int, dict[str, Any]]:
    """Which of (S, n, k) scores, from the strongest regularisation on, reads the validation split best.

    By AUC; where that is undefined because a class has no validation image, by the log loss, which the settings say.
    """
    metrics = [auc(probabilities(scores, kind), labels, kind) for scores in val_logits]
    values = [metric.value for metric in metrics if metric.value is not None]
    if len(values) == len(metrics):
        best = first_of_plateau(values)
        return best, {"val_auc": values[best]}
    losses = [log_loss(scores, labels, kind) for scores in val_logits]
    best = int(np.argmin(losses))
    why = metrics[0].reason.replace("test images", "validation images")
    return best, {"val_auc": None, "val_loss": losses[best], "chosen_by": f"validation loss, because {why}"}


def first_of_plateau(values: Sequence[float]) -> int:
    best = 0
    for i, value in enumerate(values):
        if value > values[best] + PLATEAU:
            best = i
    return best


def one_hot(labels: Labels, info: TaskInfo) -> NDArray[np.float64]:
    return labels.astype(np.float64) if labels.ndim == 2 else np.eye(info.n_classes)[labels]


def separate(kind: TaskKind) -> bool:
    """Whether every column of scores is a yes-or-no question of its own, else they share one probability."""
    return kind in ("binary", "multi-label")


def targets_of(labels: Labels, info: TaskInfo, device: torch.device) -> Tensor:
    """Targets (n, k): one column for binary tasks, one per label or class for others."""
    columns = labels[:, None].astype(np.float64) if info.kind == "binary" else one_hot(labels, info)
    return torch.from_numpy(columns).to(device)


def probabilities(logits: NDArray[np.float64], kind: TaskKind) -> Scores:
    return np.asarray(expit(logits) if separate(kind) else softmax(logits, axis=1))


def log_loss(logits: NDArray[np.float64], labels: Labels, kind: TaskKind) -> float:
    """Mean over images and, where there are several, labels; nats."""
    if separate(kind):
        sign = 2 * (labels if labels.ndim == 2 else labels[:, None]) - 1
        return float(-log_expit(sign * logits).mean())
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())
