"""One planned run: what a worker needs to know of it, and how it stands by its directory. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaling.config import DataOptions, Probe, Weights
from scaling.cost import Measured, RunCost
from scaling.data.source import TaskInfo
from scaling.grid import Point, RunSpec
from scaling.options import Options
from scaling.rundir import RunDir, read_json


class Job(Options):
    """All that a worker needs; written to the run's directory as job.json."""

    spec: RunSpec
    data: DataOptions
    weights: Weights | None
    """None for baselines."""
    tasks: dict[str, dict[str, Any]]
    """Fingerprint of the probe -> `TaskInfo` of the task to probe."""
    probe: Probe
    cache: str
    """Folder of arrays shared by runs."""
    checkpoint_minutes: float
    use_gpu: bool
    """Whether to use a GPU that is visible."""
    cpus: int
    gpu_share: float = 1.0
    """Share of the GPU's memory this run may take: 1/k where k runs share it."""
    n_micro: int = 1
    """Micro-batches a step is split into on each rank; the global batch, so the fingerprint, stays the same."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    point: Point
    spec: RunSpec
    cost: RunCost
    dir: RunDir
    tasks: Mapping[str, TaskInfo]
    """Fingerprint of the probe -> task."""
    n_by_modality: Mapping[str, int]

    @property
    def trained(self) -> bool:
        return self.dir.record() is not None

    def missing_probes(self) -> list[str]:
        record = self.dir.record()
        if record is not None and record.status == "diverged":
            return []
        return [f for f in self.tasks if not (self.dir.path / "probes" / f"{f}.json").exists()]

    def measured(self, seconds: float, *, probes_only: bool = False) -> Measured:
        point, flops = self.point, 0.0 if probes_only else self.cost.train_flops
        return Measured(model=point.model, algorithm=point.algorithm, train_flops=flops, seconds=seconds)

    def mirrored(self, uri: str) -> bool:
        """Whether the MLflow store has all that the finished run has."""
        state = (read_json(self.dir.path / "mlflow.json") or {}).get(uri)
        probed = {f for f in self.tasks if (self.dir.path / "probes" / f"{f}.json").exists()}  # none of a diverged run
        return state is not None and state["status"] == "FINISHED" and probed <= set(state["probes"])

    @property
    def done(self) -> bool:
        return self.trained and not self.missing_probes()
