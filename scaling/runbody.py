"""A planned run as the scheduler handles it: lease, job, outcome and history of attempts, all in its directory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.failures import EXIT_FENCED, EXIT_STOPPED, classify_exit
from scaling.launch.launcher import Ended, Node, Resources
from scaling.plan import Plan
from scaling.planned import PlannedRun
from scaling.rundir import RunDir, write_whole
from scaling.task import Effort, Event, Outcome
from scaling.trials import trial_dirs

FENCE = "fenced"
"""Token of a lease that no worker holds."""
SLOW_STEPS = 20
"""A run whose steps are slow may be silent for so many of them."""


class RunBody:
    """`scheduler.Body` over a run directory; `owner` names the driver in leases."""

    def __init__(self, plan: Plan, run: PlannedRun, owner: str) -> None:
        self.plan, self.run, self.dir, self.owner = plan, run, run.dir, owner
        self._before: object = None
        self._fenced = False

    def prepare(self, token: str, effort: Effort, node: Node) -> None:
        close_open_attempt(self.dir)
        attempt = self.dir.lease(token, owner=self.owner)
        gpus = effort.resources.gpus
        step = {"n_micro": effort.n_micro, "recomputed": effort.recomputed}
        settings = {**step, "gpu_share": min(1.0, gpus) if gpus else 1.0, "use_gpu": gpus > 0}
        job = self.plan.job(self.run).model_copy(update={**settings, "cpus": effort.resources.cpus})
        write_whole(self.dir.path / "job.json", job.model_dump_json(indent=1), durable=False)  # written anew each time
        self._before = self._durable()
        self.dir.log_attempt(
            {
                "attempt": attempt,
                "began": time.time(),
                "sweep": self.plan.sweep.name,
                "owner": self.owner,
                "node": node.host,
                **step,
                **_given(effort.resources),
            }
        )

    def outcome(self, ended: Ended) -> Outcome:
        record = self.dir.record()
        if record is not None and self.run.done:
            assert record.status != "failed"
            return Outcome(kind=record.status)
        progressed = self._durable() != self._before
        if ended.code == EXIT_STOPPED:
            return Outcome(kind="stopped", progressed=progressed)
        if ended.code == EXIT_FENCED:
            return Outcome(kind="preempted", error="another attempt took the run", progressed=progressed)
        failure = self.dir.failure()
        if failure is None:
            kind, error = classify_exit(ended.code, self.dir.log_tail(), oom_killed=ended.oom_killed)
            error = f"{error} ({ended.detail})" if ended.detail else error
            self.dir.fail(kind, error)
            failure = {"kind": kind, "error": error}
        return Outcome(kind=failure["kind"], error=failure["error"], progressed=progressed)

    def pulse(self) -> object:
        return _mtime(self.dir.path / "heartbeat.json")

    def slow_pulse(self) -> float:
        last = self.dir.last_metrics()
        return SLOW_STEPS * last["seconds"] / last["step"] if last and last["step"] else 0.0

    def ask_to_stop(self) -> None:
        self.dir.ask_to_stop()

    def occupied(self) -> bool:
        beat = self.dir.last_beat()
        if beat is None or beat.pid == os.getpid() or not beat.process_lives():  # ourselves: a run of before, inline
            return False
        if not self._fenced:
            self._fenced = True
            self.dir.lease(FENCE, owner=self.owner)
            self.dir.ask_to_stop()  # it may be far from its next write
        return True

    def _durable(self) -> object:
        """Changes when work was done that no crash can take away."""
        path = self.dir.path
        probes = path / "probes"
        n_probes = len(list(probes.iterdir())) if probes.exists() else 0
        return _mtime(path / "checkpoint.pt"), _mtime(path / "result.json"), n_probes


def end_attempt(run_dir: RunDir, event: Event) -> None:
    """Writes how an attempt ended into the run's history."""
    assert event.effort is not None
    outcome = event.failure or event.kind
    line: dict[str, Any] = {"ended": time.time(), "outcome": outcome, "error": event.error}
    run_dir.log_attempt({**line, **_used(event.seconds, event.effort.resources.gpus, event.effort.resources.cpus)})


def close_open_attempt(run_dir: RunDir) -> None:
    """Accounts for an attempt whose driver died: it lasted until its last sign of life, as far as one can know."""
    last = next(reversed(run_dir.attempts()), None)
    if last is None or "began" not in last:
        return
    beat = _mtime(run_dir.path / "heartbeat.json")
    until = beat / 1e9 if isinstance(beat, int) else last["began"]
    used = _used(max(0.0, until - last["began"]), last["gpus"], last["cpus"])
    run_dir.log_attempt({"ended": until, "outcome": "lost", "error": "its driver was gone", **used})


def _given(resources: Resources) -> dict[str, Any]:
    return {"cpus": resources.cpus, "gpus": resources.gpus, "memory": resources.memory}


def _used(seconds: float, gpus: float, cpus: int) -> dict[str, float]:
    return {"seconds": seconds, "gpu_seconds": seconds * gpus, "cpu_seconds": seconds * cpus}


def _mtime(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What was used up, all attempts together."""

    gpu_hours: float = 0.0
    cpu_hours: float = 0.0

    def plus(self, seconds: float, gpus: float, cpus: int) -> Usage:
        return Usage(gpu_hours=self.gpu_hours + seconds * gpus / 3600, cpu_hours=self.cpu_hours + seconds * cpus / 3600)


def usage(sweep: str, runs: Iterable[RunDir]) -> Usage:
    """Of the attempts this sweep paid for; a run shared with another sweep counts for the one that ran it."""
    gpu = cpu = 0.0
    for run in runs:
        paying = ""
        for line in run.attempts():
            paying = line.get("sweep", paying)
            if paying == sweep and "ended" in line:
                gpu, cpu = gpu + line["gpu_seconds"], cpu + line["cpu_seconds"]
    return Usage(gpu_hours=gpu / 3600, cpu_hours=cpu / 3600)


def usage_of(plan: Plan) -> Usage:
    """Of a sweep: its runs and the trials of its tuning, each once."""
    folders = {run.dir.path: run.dir for run in plan.runs}
    folders |= {trial.path: trial for trial in trial_dirs(plan.root, plan.sweep.name)}
    return usage(plan.sweep.name, folders.values())
