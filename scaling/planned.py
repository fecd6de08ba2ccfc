"""One planned run: what a worker needs to know of it, and how it stands by its directory. Imports no torch."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from scaling.config import DataOptions
from scaling.cost import Measured, RunCost
from scaling.data.source import TaskInfo
from scaling.execution import Compile, OnlineProbe
from scaling.grid import Point, RunSpec
from scaling.mixtures import Mixed
from scaling.options import Options
from scaling.probing import Probe
from scaling.records import UNSOUND, RunRecord
from scaling.rundir import Beat, RunDir, read_json


class Job(Options):
    """All that a worker needs; written to the run's directory as job.json."""

    spec: RunSpec
    data: DataOptions
    mixture: Mixed | None
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
    online: OnlineProbe = OnlineProbe(tasks="none")
    synthetic: bool = False
    """Whether no image comes from a patient; pictures say so."""
    gpu_share: float = 1.0
    """Share of the GPU's memory this run may take: 1/k where k runs share it."""
    n_micro: int = 1
    """Micro-batches a step is split into on each rank; the global batch, so the fingerprint, stays the same."""
    recomputed: bool = False
    """Whether blocks compute their activations anew in the backward pass, for a step that else would not fit."""
    compile: Compile = "auto"


FAR_BEAT = 60.0
"""Seconds without a heartbeat after which a process of another machine, which cannot be looked up, counts as gone."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a run stands, from one look at its directory; a table of thousands reads no file twice."""

    state: Literal["done", "diverged", "collapsed", "failed", "running", "to probe", "begun", "waiting", "unknown"]
    """begun: it has logged steps and nobody is at it; waiting: nothing is there yet; unknown: without its images its
    directory cannot be told."""
    record: RunRecord | None = None
    n_to_probe: int = 0
    failure: Mapping[str, Any] | None = None
    """As `RunDir.failure`, of the last attempt of a run that is not done."""
    beat: Beat | None = None
    """Of the process that is at it."""
    last: Mapping[str, Any] | None = None
    """The newest logged step of a run that is not done."""

    @property
    def over(self) -> bool:
        return self.state in ("done", *UNSOUND)


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    point: Point
    spec: RunSpec
    cost: RunCost
    dir: RunDir
    tasks: Mapping[str, TaskInfo]
    """Fingerprint of the probe -> task."""
    n_by_modality: Mapping[str, int]
    """Of the pretraining set, repeats counted."""
    n_unique_by_modality: Mapping[str, int] = field(default_factory=dict)
    holdout: bool = False
    """Whether it is left out of every fit."""

    def repeated(self) -> Mapping[str, float]:
        """Modality -> how often each of its images stands in the set on average, where that is more than once."""
        times = {name: self.n_by_modality[name] / n for name, n in self.n_unique_by_modality.items() if n}
        return {name: each for name, each in times.items() if each > 1}

    @property
    def trained(self) -> bool:
        return self.dir.record() is not None

    def missing_probes(self) -> list[str]:
        record = self.dir.record()
        if record is not None and record.status in UNSOUND:
            return []
        return [f for f in self.tasks if not (self.dir.path / "probes" / f"{f}.json").exists()]

    def standing(self) -> Standing:
        """Lists the directory first, because most of what may be in it is not."""
        try:
            there = set(os.listdir(self.dir.path))
        except FileNotFoundError:
            return Standing(state="waiting")
        record = self.dir.record() if "result.json" in there else None
        if record is not None and (record.status == "diverged" or record.status == "collapsed"):
            return Standing(state=record.status, record=record)
        probed = set(os.listdir(self.dir.path / "probes")) if "probes" in there else set()
        n_to_probe = sum(f"{fingerprint}.json" not in probed for fingerprint in self.tasks)
        if record is not None and n_to_probe == 0:
            return Standing(state="done", record=record)
        failure = self.dir.failure() if "failed.json" in there else None
        beat = self.dir.last_beat() if "heartbeat.json" in there and failure is None else None
        if beat is not None and not self._at_work(beat):
            beat = None
        last = self.dir.last_metrics() if "metrics.jsonl" in there else None
        state: Literal["running", "failed", "to probe", "begun", "waiting"] = "begun" if last else "waiting"
        if failure is not None:  # an attempt that begins takes the last one's failure away
            state = "failed"
        elif beat is not None:
            state = "running"
        elif record is not None:
            state = "to probe"
        return Standing(state=state, record=record, n_to_probe=n_to_probe, failure=failure, beat=beat, last=last)

    def _at_work(self, beat: Beat) -> bool:
        """Whether the process that beat last still lives and still owns the run."""
        lease = read_json(self.dir.path / "lease.json")
        if lease is None or lease["token"] != beat.token:
            return False
        return beat.process_lives() or (
            beat.host != socket.gethostname() and time.time() - beat.mtime_ns / 1e9 < FAR_BEAT
        )

    def measured(self, seconds: float, *, probes_only: bool = False) -> Measured:
        point, flops = self.point, 0.0 if probes_only else self.cost.train_flops
        return Measured(model=point.model, algorithm=point.algorithm, train_flops=flops, seconds=seconds)

    def first_seconds(self) -> float | None:
        """Of the first attempt, probes and start included, if it did all that was to do; None is unknown."""
        ended = next((line for line in self.dir.attempts() if "ended" in line), None)
        return ended.get("seconds") if ended and ended["outcome"] == "done" else None

    def mirrored(self, uri: str) -> bool:
        """Whether the MLflow store has all that the finished run has."""
        state = (read_json(self.dir.path / "mlflow.json") or {}).get(uri)
        probed = {f for f in self.tasks if (self.dir.path / "probes" / f"{f}.json").exists()}  # none of an unsound run
        return state is not None and state["status"] == "FINISHED" and probed <= set(state["probes"])

    @property
    def done(self) -> bool:
        return self.trained and not self.missing_probes()
