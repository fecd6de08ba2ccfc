"""All read-outs of one task, on features computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scaling.catalog import PROBES
from scaling.data.source import Task, TaskInfo
from scaling.options import Options
from scaling.probes.features import Encode, Labelled, extract_task
from scaling.probes.metrics import CHANCE_AUC, Metric, Scores, accuracy, auc, chance_accuracy
from scaling.records import ProbeResult


class Probe(Protocol):
    """The contract of a read-out. Constructed as `Probe(options)`."""

    def predict(self, splits: Mapping[str, Labelled], info: TaskInfo, *, seed: int) -> tuple[Scores, dict[str, Any]]:
        """Probabilities (n_test, n_classes), or per label for multi-label, and what the probe chose on the way."""
        ...


def probe_task(
    encode: Encode,
    task: Task,
    probes: Mapping[str, Options],
    *,
    seed: int,
    device: torch.device,
    batch_size: int,
    n_boot: int,
    max_train: int,
    go_on: Callable[[], None] = lambda: None,
) -> list[ProbeResult]:
    """One result per probe; features that are not finite give results without metrics and the reason.

    `go_on` is called between pieces of work, seconds each, and may raise to end it.
    """

    def encode_on(images_u8: Tensor) -> Tensor:
        go_on()
        return encode(images_u8)

    splits = extract_task(encode_on, task, max_train=max_train, seed=seed, batch_size=batch_size, device=device)
    results = []
    for name, options in probes.items():
        go_on()
        results.append(_probe(name, options, splits, task.info, seed, n_boot))
    return results


def _probe(
    name: str, options: Options, splits: Mapping[str, Labelled], info: TaskInfo, seed: int, n_boot: int
) -> ProbeResult:
    test = splits["test"]
    settings: dict[str, Any] = {}
    if all(np.isfinite(split.features).all() for split in splits.values()):
        scores, settings = PROBES[name].load()(options).predict(splits, info, seed=seed)
        measured = auc(scores, test.labels, info.kind, n_boot=n_boot, seed=seed)
        share = accuracy(scores, test.labels, info.kind, n_boot=n_boot, seed=seed)
    else:
        measured = share = Metric(value=None, se=None, reason="the features are not finite")
    return ProbeResult(
        task=info.name,
        modality=info.modality,
        probe=name,
        auc=measured.value,
        auc_se=measured.se,
        accuracy=share.value,
        accuracy_se=share.se,
        chance_auc=CHANCE_AUC,
        chance_accuracy=chance_accuracy(splits["train"].labels, test.labels, info.kind),
        n_test=len(test.labels),
        settings=settings,
        reason=measured.reason or share.reason,
    )
