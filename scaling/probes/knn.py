"""Weighted nearest neighbours, DINO's protocol (dino/eval_knn.py): cosine similarity, votes exp(similarity / T)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from scaling.data.source import TaskInfo
from scaling.probe_options import KnnOptions
from scaling.probes.basis import exact_products
from scaling.probes.features import Splits
from scaling.probes.linear import one_hot
from scaling.probes.metrics import Scores

CHUNK = 1024
"""Test images compared at once."""


class Knn:
    """Good at telling whether neighbours share a label; misjudges MAE, whose features want a linear map first."""

    pool = None

    def __init__(self, options: KnnOptions) -> None:
        self.options = options

    def predict(self, splits: Splits, info: TaskInfo, *, seed: int) -> tuple[Scores, dict[str, Any]]:
        """Shares of the vote for the test split, on standardised features."""
        train, k = splits.train, min(self.options.k, len(splits.train.labels))
        bank = F.normalize(train.features, dim=1, eps=1e-8)
        votes_NC = torch.from_numpy(one_hot(train.labels, info)).to(bank.device)
        scores = []
        with exact_products():
            for queries in F.normalize(splits.test.features, dim=1, eps=1e-8).split(CHUNK):
                near, nearest = (queries @ bank.T).topk(k, dim=1)
                weight = ((near - near[:, :1]) / self.options.temperature).double().exp()
                share = weight / weight.sum(dim=1, keepdim=True)
                scores.append(torch.einsum("nk,nkc->nc", share, votes_NC[nearest]))
        return torch.cat(scores).cpu().numpy(), {"k": k}
