"""Ridge regression on 0/1 targets: every strength from one eigenproblem, no iterations; cheap enough to follow a run.

As big_vision's few-shot evaluator (big_vision@0127fb6:big_vision/evaluators/fewshot_lsr.py), which its scaling-law
paper used. Scores are linear estimates of probabilities, below 0 and above 1 too: good for ranks, not calibrated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaling.data.source import TaskInfo, TaskKind
from scaling.probe_options import RidgeOptions
from scaling.probes.basis import Axes, exact_products, principal_axes
from scaling.probes.features import Splits, moments, standardise
from scaling.probes.linear import first_of_plateau, targets_of
from scaling.probes.metrics import Labels, Metric, Scores, auc, unlearnable


class Ridge:
    """Good where time is short: close to the logistic regression in AUC, a fraction of its cost; blind to margins."""

    pool = None

    def __init__(self, options: RidgeOptions) -> None:
        self.options = options

    def predict(self, splits: Splits, info: TaskInfo, *, seed: int) -> tuple[Scores, dict[str, Any]]:
        """Scores of the test split, and the penalty chosen on the validation split, from the strongest on.

        By AUC; where that is undefined because a class has no validation image, by the squared error.
        """
        o, axes, train, val = self.options, splits.axes, splits.train, splits.val
        penalties = np.geomspace(o.l2_max, o.l2_min, o.n_l2)
        weights, prior = solve_ridge(
            axes, train.features, targets_of(train.labels, info, train.features.device), penalties
        )
        scores = predicted(axes, val.features, weights, prior)
        metrics = [auc(of_one, val.labels, info.kind) for of_one in scores]
        values = [metric.value for metric in metrics if metric.value is not None]
        settings: dict[str, Any]
        if len(values) == len(metrics):
            best = first_of_plateau(values)
            settings = {"val_auc": values[best]}
        else:
            truth = targets_of(val.labels, info, torch.device("cpu")).numpy()
            best = int(np.argmin([np.square(of_one - truth).mean() for of_one in scores]))
            why = metrics[0].reason.replace("test images", "validation images")
            settings = {"val_auc": None, "chosen_by": f"validation error, because {why}"}
        test = predicted(axes, splits.test.features, weights[best : best + 1], prior)[0]
        return test, {"l2": float(penalties[best]), **settings}


def ridge_auc(
    train_features: Tensor,
    train_labels: Labels,
    val_features: Tensor,
    val_labels: Labels,
    *,
    kind: TaskKind,
    n_classes: int,
    penalties: NDArray[np.float64] | None = None,
) -> Metric:
    """AUC of the best ridge read-out on the validation images: how far a run has come, within milliseconds.

    Raw features (n, d) on any device. The best of the penalties on the images it is then told of, so a little
    optimistic: for comparing moments of runs, not for reporting. A reason instead of a value where a class is missing
    from either split or a feature is not finite.
    """
    info = TaskInfo(name="online", modality="", kind=kind, n_classes=n_classes, identity="")
    if not (bool(train_features.isfinite().all()) and bool(val_features.isfinite().all())):
        return Metric(value=None, se=None, reason="the features are not finite")
    if reason := unlearnable(train_labels, kind, n_classes):
        return Metric(value=None, se=None, reason=reason)
    o = RidgeOptions()
    strengths = np.geomspace(o.l2_max, o.l2_min, o.n_l2) if penalties is None else penalties
    with torch.no_grad(), torch.autocast(train_features.device.type, enabled=False):
        mean, scale = moments(train_features)
        train, val = (standardise(x.float(), mean, scale) for x in (train_features, val_features))
        axes = principal_axes(train)
        weights, prior = solve_ridge(axes, train, targets_of(train_labels, info, train.device), strengths)
        metrics = [auc(scores, val_labels, kind) for scores in predicted(axes, val, weights, prior)]
    return max(metrics, key=lambda metric: -1.0 if metric.value is None else metric.value)


def solve_ridge(
    axes: Axes, features_ND: Tensor, targets_NK: Tensor, penalties: NDArray[np.float64]
) -> tuple[Tensor, Tensor]:
    """Weights (S, r, k) that minimise mean squared error + penalty |w|^2 along the axes, and the free intercept (k,).

    In uncorrelated coordinates the normal equations are one division for each coordinate and penalty.
    """
    x = axes.of(features_ND).double()
    prior = targets_NK.double().mean(dim=0)
    covariance_RK = x.T @ (targets_NK.double() - prior) / len(x)
    strengths = torch.as_tensor(penalties, dtype=torch.float64, device=x.device)
    return covariance_RK / (axes.variance[:, None] + strengths[:, None, None]), prior


def predicted(axes: Axes, features_ND: Tensor, weights_SRK: Tensor, prior_K: Tensor) -> NDArray[np.float64]:
    """(S, n, k)"""
    with exact_products():
        return (axes.of(features_ND).double() @ weights_SRK + prior_K).cpu().numpy()
