"""Linear read-out: L2-regularised logistic regression, its strength chosen on the validation split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from scaling.data.source import TaskInfo
from scaling.options import LinearOptions
from scaling.probes.features import Features, Labelled
from scaling.probes.metrics import Scores, auc

TOLERANCE = 1e-4
"""On the largest gradient component of the mean loss, scikit-learn's default."""
PLATEAU = 1e-4
"""Validation AUC a weaker regularisation must add to be preferred."""


class Linear:
    """Good at telling what is linearly readable from features; linear in images, features and classes."""

    def __init__(self, options: LinearOptions) -> None:
        self.options = options

    def predict(self, splits: Mapping[str, Labelled], info: TaskInfo, *, seed: int) -> tuple[Scores, dict[str, Any]]:
        """Probabilities for the test split, and the inverse strength C chosen, from the strongest on."""
        o, train, val, test = self.options, splits["train"], splits["val"], splits["test"]
        x, targets = train.features, columns_of(train.labels, info)
        best, scores = -1.0, np.empty(0)
        settings: dict[str, Any] = {}
        for c, weights in path(x, targets, np.geomspace(o.c_min, o.c_max, o.n_c), sigmoid=separate(info)):
            here = auc(probabilities(val.features, weights, info), val.labels, info.kind).value
            if len(scores) == 0 or (here is not None and here > best + PLATEAU):
                best = -1.0 if here is None else here
                scores = np.asarray(probabilities(test.features, weights, info), np.float64)
                settings = {"C": float(c), "val_auc": here}
        return scores, settings


def one_hot(labels: NDArray[np.int64], info: TaskInfo) -> NDArray[np.float64]:
    return labels.astype(np.float64) if labels.ndim == 2 else np.eye(info.n_classes)[labels]


def separate(info: TaskInfo) -> bool:
    """Whether every column of scores is a yes-or-no question of its own, else they share one probability."""
    return info.kind in ("binary", "multi-label")


def columns_of(labels: NDArray[np.int64], info: TaskInfo) -> NDArray[np.float64]:
    """Targets (n, k): one column for binary tasks, one per label or class for others."""
    return labels[:, None].astype(np.float64) if info.kind == "binary" else one_hot(labels, info)


def path(
    x: Features, targets: NDArray[np.float64], strengths: NDArray[np.float64], *, sigmoid: bool
) -> Iterator[tuple[float, NDArray[np.float64]]]:
    """(C, weights (d + 1, k)) from the strongest regularisation to the weakest, each started at the last solution.

    Minimises sum of log losses + |w|^2 / (2 C), intercept free: scikit-learn's LogisticRegression. With
    `sigmoid` every column of targets is a binary problem of its own, otherwise the columns share a softmax.
    """
    n, (d, k) = len(x), (x.shape[1], targets.shape[1])
    x1 = np.concatenate([x, np.ones((n, 1), x.dtype)], axis=1)
    targets = targets.astype(x.dtype)

    def loss(flat: NDArray[np.float64], c: float) -> tuple[float, NDArray[np.float64]]:
        w = flat.reshape(d + 1, k)
        z = x1 @ w.astype(x.dtype)
        if sigmoid:
            value = float(np.logaddexp(0, z).sum(dtype=np.float64) - (targets * z).sum(dtype=np.float64))
            p = expit(z)
        else:
            log_p = log_softmax(z, axis=1)
            value, p = -float((targets * log_p).sum(dtype=np.float64)), np.exp(log_p)
        gradient = (x1.T @ (p - targets)).astype(np.float64)
        gradient[:d] += w[:d] / c
        return (value + float((w[:d] ** 2).sum()) / (2 * c)) / n, gradient.ravel() / n

    w = np.zeros((d + 1) * k)
    for c in strengths:
        w = minimize(loss, w, args=(c,), jac=True, method="L-BFGS-B", options={"gtol": TOLERANCE, "maxiter": 200}).x
        yield float(c), w.reshape(d + 1, k)


def probabilities(x: Features, weights: NDArray[np.float64], info: TaskInfo) -> Scores:
    z = x @ weights[:-1] + weights[-1]
    if separate(info):
        return np.asarray(expit(z))
    return np.asarray(softmax(z, axis=1))
