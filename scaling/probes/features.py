"""Frozen features, computed once per split and shared by all probes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaling.data.source import Images, Task

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


def extract_task(encode: Encode, task: Task, *, batch_size: int, device: torch.device) -> dict[str, Labelled]:
    """Each split's features, standardised by the training split; a constant feature becomes 0."""
    splits = {name: getattr(task, name) for name in ("train", "val", "test")}
    raw = {name: extract(encode, s.images, batch_size=batch_size, device=device) for name, s in splits.items()}
    mean, deviation = raw["train"].mean(axis=0), raw["train"].std(axis=0)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0).astype(np.float32)
    return {name: Labelled(features=(raw[name] - mean) * scale, labels=s.labels) for name, s in splits.items()}
