"""Frozen features, computed once per split and shared by all probes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaling.data.source import Images, Split, Task

Features = NDArray[np.float32]
Encode = Callable[[Tensor], Tensor]
"""uint8 images (b, c, h, w) -> features (b, d)."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    features: Features
    """(n, d), standardised by the training split."""
    labels: NDArray[np.int64]


@torch.inference_mode()
def extract(encode: Encode, images: Images, *, batch_size: int, device: torch.device) -> Features:
    """(n, d)"""
    batches = (torch.from_numpy(images[i : i + batch_size]).to(device) for i in range(0, len(images), batch_size))
    return np.concatenate([encode(batch).float().cpu().numpy() for batch in batches])


def subset(labels: NDArray[np.int64], largest: int, seed: int) -> NDArray[np.int64]:
    """At most `largest` positions, the classes in proportion and each at least once; all where they are fewer."""
    if len(labels) <= largest:
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    if labels.ndim == 2:
        return np.sort(generator.permutation(len(labels))[:largest])
    turns = np.empty(len(labels))  # the smallest win: Sainte-Lague's apportionment, after one image of each class
    for c in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == c))
        turns[members] = (np.arange(len(members)) + 0.5) / len(members)
        turns[members[0]] = -1
    return np.sort(np.argsort(turns, kind="stable")[:largest])


def extract_task(
    encode: Encode, task: Task, *, max_train: int, seed: int, batch_size: int, device: torch.device
) -> dict[str, Labelled]:
    """Each split's features, standardised by the training split; a constant feature becomes 0."""
    chosen = subset(task.train.labels, max_train, seed)
    train = Split(images=task.train.images[chosen], labels=task.train.labels[chosen])
    splits = {"train": train, "val": task.val, "test": task.test}
    raw = {name: extract(encode, s.images, batch_size=batch_size, device=device) for name, s in splits.items()}
    mean, deviation = raw["train"].mean(axis=0), raw["train"].std(axis=0)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0).astype(np.float32)
    return {name: Labelled(features=(raw[name] - mean) * scale, labels=s.labels) for name, s in splits.items()}
