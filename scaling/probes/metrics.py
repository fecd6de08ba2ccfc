"""AUC and accuracy as MedMNIST's evaluator (medmnist/evaluator.py 3.0.2) has them, with bootstrap errors. NumPy only.

Scores are probabilities (n, n_classes), or (n, n_labels) for multi-label. Ordinal tasks count as multi-class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.data.source import TaskKind

Scores = NDArray[np.floating]
Labels = NDArray[np.int64]
CHANCE_AUC = 0.5
CHUNK = 2_000_000
"""Weights held at once while resampling, to bound memory."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    value: float | None
    """0-1; None when it is not defined, then `reason` says why."""
    se: float | None
    """Bootstrap standard error; None without resamples."""
    reason: str = ""


def columns(scores: Scores, labels: Labels, kind: TaskKind) -> tuple[Scores, NDArray[np.bool_]]:
    """The binary problems behind a task, (n, k) scores and truths: one for binary, else one per class or label."""
    if kind == "multi-label":
        return scores, labels.astype(bool)
    if kind == "binary":
        return scores[:, -1:], labels[:, None] == 1
    return scores, labels[:, None] == np.arange(scores.shape[1])


def weighted_auc(score: NDArray, truth: NDArray[np.bool_], weights_RN: NDArray) -> NDArray[np.float64]:
    """(R,) areas under the ROC curve for R sets of sample weights; ties count half, NaN without both classes."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    weights = weights_RN[:, order]
    positive = np.add.reduceat(np.where(truth[order], weights, 0.0), starts, axis=1)
    negative = np.add.reduceat(np.where(truth[order], 0.0, weights), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    total = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return (positive * below).sum(axis=1) / np.where(total > 0, total, np.nan)


def _aucs(scores: Scores, labels: Labels, kind: TaskKind, weights: NDArray) -> NDArray[np.float64]:
    """(R,) mean over the task's binary problems; NaN where a resample lacks a class of one."""
    score, truth = columns(scores, labels, kind)
    return np.mean([weighted_auc(score[:, i], truth[:, i], weights) for i in range(score.shape[1])], axis=0)


def _hits(scores: Scores, labels: Labels, kind: TaskKind) -> NDArray[np.float64]:
    """(n,) share of each image's answers that are right."""
    if kind == "multi-label":
        return np.mean((scores > 0.5) == labels.astype(bool), axis=1)
    answer = (scores[:, -1] > 0.5) if kind == "binary" else scores.argmax(axis=1)
    return (answer == labels).astype(np.float64)


def resamples(n: int, n_boot: int, seed: int) -> NDArray[np.float64]:
    """(n_boot, n) how often each image is drawn."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64)


def auc(scores: Scores, labels: Labels, kind: TaskKind, *, n_boot: int = 0, seed: int = 0) -> Metric:
    """A class or label without both sides in the split makes it undefined, and the reason names it."""
    n, (_, truth) = len(labels), columns(scores, labels, kind)
    one_sided = [i for i in range(truth.shape[1]) if truth[:, i].all() or not truth[:, i].any()]
    if one_sided:
        named = ", ".join(map(str, one_sided))
        return Metric(
            value=None, se=None, reason=f"AUC is undefined: class {named} has no or only positive test images"
        )
    value = float(_aucs(scores, labels, kind, np.ones((1, n)))[0])
    drawn = []
    for start in range(0, n_boot, max(1, CHUNK // n)):
        size = min(max(1, CHUNK // n), n_boot - start)
        drawn.append(_aucs(scores, labels, kind, resamples(n, size, seed + start)))
    kept = np.concatenate(drawn) if drawn else np.empty(0)
    kept = kept[np.isfinite(kept)]  # a resample that lost a rare class says nothing
    return Metric(value=value, se=float(kept.std(ddof=1)) if len(kept) > 1 else None)


def unlearnable(train_labels: Labels, kind: TaskKind, n_classes: int) -> str:
    """Why no read-out can be learnt from these labels: classes without a training image; empty when all is well."""
    shown = train_labels if kind == "multi-label" else train_labels[:, None] == np.arange(n_classes)
    share = shown.mean(axis=0) if len(shown) else np.zeros(n_classes)
    missing = np.flatnonzero((share == 0) | (share == 1))
    if len(missing) == 0:
        return ""
    return f"class {', '.join(map(str, missing))} has no or only positive training images"


def accuracy(scores: Scores, labels: Labels, kind: TaskKind, *, n_boot: int = 0, seed: int = 0) -> Metric:
    hits = _hits(scores, labels, kind)
    if n_boot < 2:
        return Metric(value=float(hits.mean()), se=None)
    # The bootstrap of a mean has this limit for many resamples; no need to draw them.
    return Metric(value=float(hits.mean()), se=float(hits.std() / np.sqrt(len(hits))))


def chance_accuracy(train_labels: Labels, test_labels: Labels, kind: TaskKind) -> float:
    """Accuracy of always answering the most frequent training class; per label for multi-label."""
    if kind == "multi-label":
        return float(np.mean(test_labels == (train_labels.mean(axis=0) > 0.5)))
    return float(np.mean(test_labels == np.bincount(train_labels).argmax()))
