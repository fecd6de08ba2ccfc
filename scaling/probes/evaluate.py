"""All read-outs of one task, on features computed once. A task's results depend on no other task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from scaling.catalog import PROBES
from scaling.data.source import TaskInfo
from scaling.options import Options
from scaling.probes.features import Pool, Splits, TaskFeatures
from scaling.probes.metrics import CHANCE_AUC, Metric, Scores, accuracy, auc, chance_accuracy, unlearnable
from scaling.records import ProbeResult


class Probe(Protocol):
    """The contract of a read-out. Constructed as `Probe(options)`. Same features and seed, same bits."""

    @property
    def pool(self) -> Pool | None:
        """Whose features it reads by definition; None: those the sweep says."""
        ...

    def predict(self, splits: Splits, info: TaskInfo, *, seed: int) -> tuple[Scores, dict[str, Any]]:
        """Probabilities (n_test, n_classes), or per label for multi-label, and what the probe chose on the way.

        Every class has a training image; features are finite. Validation may lack a class.
        """
        ...


@torch.inference_mode()
def probe_task(
    features: TaskFeatures,
    probes: Mapping[str, Options],
    *,
    pool: Pool,
    seed: int,
    device: torch.device,
    n_boot: int,
    go_on: Callable[[], None] = lambda: None,
) -> list[ProbeResult]:
    """One result per probe; where there is nothing to learn from, results without metrics and the reason.

    `go_on` is called between pieces of work, seconds each, and may raise to end it.
    """
    pooled: dict[Pool, Splits] = {}
    results = []
    for name, options in probes.items():
        go_on()
        probe: Probe = PROBES[name].load()(options)
        wanted = probe.pool or pool
        if wanted not in pooled:
            pooled[wanted] = features.pooled(wanted, device)
        results.append(_read_out(name, probe, pooled[wanted], features.info, seed, n_boot))
    return results


def _read_out(name: str, probe: Probe, splits: Splits, info: TaskInfo, seed: int, n_boot: int) -> ProbeResult:
    labels = splits.test.labels
    settings: dict[str, Any] = {}
    reason = unlearnable(splits.train.labels, info.kind, info.n_classes)
    if not splits.finite:
        reason = "the features are not finite"
    if reason:
        measured = share = Metric(value=None, se=None, reason=reason)
    else:
        scores, settings = probe.predict(splits, info, seed=seed)
        measured = auc(scores, labels, info.kind, n_boot=n_boot, seed=seed)
        share = accuracy(scores, labels, info.kind, n_boot=n_boot, seed=seed)
    return ProbeResult(
        task=info.name,
        modality=info.modality,
        probe=name,
        auc=measured.value,
        auc_se=measured.se,
        accuracy=share.value,
        accuracy_se=share.se,
        chance_auc=CHANCE_AUC,
        chance_accuracy=chance_accuracy(splits.train.labels, labels, info.kind),
        n_test=len(labels),
        settings=settings,
        reason=measured.reason or share.reason,
    )
