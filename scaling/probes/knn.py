"""Weighted nearest neighbours, DINO's protocol (dino/eval_knn.py): cosine similarity, votes exp(similarity / T)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling.data.source import TaskInfo
from scaling.options import KnnOptions
from scaling.probes.features import Features, Labelled
from scaling.probes.linear import one_hot
from scaling.probes.metrics import Scores

CHUNK = 1024
"""Test images compared at once."""


class Knn:
    """Good at telling whether neighbours share a label; misjudges MAE, whose features want a linear map first."""

    def __init__(self, options: KnnOptions) -> None:
        self.options = options

    def predict(self, splits: Mapping[str, Labelled], info: TaskInfo, *, seed: int) -> tuple[Scores, dict[str, Any]]:
        """Shares of the vote for the test split, on standardised features."""
        train, test = splits["train"], splits["test"]
        k = min(self.options.k, len(train.labels))
        bank, votes = _unit(train.features), one_hot(train.labels, info)
        scores = []
        for start in range(0, len(test.labels), CHUNK):
            similarity = _unit(test.features[start : start + CHUNK]) @ bank.T
            nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
            near = np.take_along_axis(similarity, nearest, axis=1)
            weight = np.exp((near - near.max(axis=1, keepdims=True)) / self.options.temperature)
            scores.append(np.einsum("nk,nkc->nc", weight / weight.sum(axis=1, keepdims=True), votes[nearest]))
        return np.concatenate(scores), {"k": k}


def _unit(features: Features) -> Features:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-8)
