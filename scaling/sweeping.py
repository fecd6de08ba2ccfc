"""One sweep while a driver carries it out: its runs, its tally, its budget, and how it is shown."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scaling.control import Live, sweep_folder
from scaling.failures import FailureClass
from scaling.forecast import Eta, Forecast
from scaling.live import Running, Snapshot, publish
from scaling.mirror import Mirror
from scaling.plan import Plan
from scaling.planned import PlannedRun
from scaling.runbody import Usage, usage_of
from scaling.rundir import append_line
from scaling.scheduler import Running as Attempt
from scaling.task import Event

PUBLISH_SECONDS = 2.0
ALL_DONE, SOME_FAILED, BUDGET, INTERRUPTED = 0, 3, 4, 130
"""Exit codes of a sweep."""


@dataclass
class Sweeping:
    plan: Plan
    mirror: Mirror | None
    began: float
    forecast: Forecast
    runs: dict[str, PlannedRun] = field(default_factory=dict)
    """Fingerprint -> run; removed ones that are let finish stay until then."""
    done: set[str] = field(default_factory=set)
    unsound: dict[str, str] = field(default_factory=dict)
    """Of the done ones those that diverged or collapsed -> which of both."""
    failed: dict[str, FailureClass] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    trained: set[str] = field(default_factory=set)
    """Already pretrained when the sweep was taken up, so only probed now."""
    stopped: set[str] = field(default_factory=set)
    used: Usage = field(default_factory=Usage)
    """Without what runs now."""
    note: str = ""
    over_budget: bool = False
    ending: bool = False
    """Nothing more will start in this call."""
    answered: str = ""
    _published: float = 0.0

    @classmethod
    def of(cls, plan: Plan, mirror: Mirror | None) -> Sweeping:
        forecast = Forecast(plan.measured())
        return cls(plan=plan, mirror=mirror, began=time.time(), forecast=forecast, used=usage_of(plan))

    @property
    def name(self) -> str:
        return self.plan.sweep.name

    @property
    def folder(self) -> Path:
        return sweep_folder(self.plan.root, self.name)

    def outstanding(self) -> list[str]:
        """Runs that have come to no end yet, in the order of the plan."""
        ended = self.done | self.failed.keys() | self.cancelled | self.stopped
        return [key for key in self.runs if key not in ended]

    def wanted(self) -> list[str]:
        """Outstanding runs that may still start or go on in this call."""
        return [] if self.ending else self.outstanding()

    def exit_code(self) -> int:
        if self.over_budget and (self.stopped or self.outstanding()):
            return BUDGET
        if self.failed:
            return SOME_FAILED
        return INTERRUPTED if len(self.done | self.cancelled) < len(self.runs) else ALL_DONE

    def record(self, event: Event) -> None:
        """Into the sweep's history."""
        line = {
            "time": round(time.time(), 3),
            "kind": event.kind,
            "run": event.task.key,
            "attempt": event.attempt,
            "node": event.node,
            "seconds": round(event.seconds, 3),
            "failure": event.failure,
            "error": event.error,
            "delay": round(event.delay, 3),
        }
        append_line(self.folder / "events.jsonl", {key: value for key, value in line.items() if value})

    # --- budget -------------------------------------------------------------------------------------------------

    def spent(self, attempts: Sequence[Attempt], now: float) -> Usage:
        """With what runs now."""
        total = self.used
        for attempt in attempts:
            given = attempt.waited.effort.resources
            total = total.plus(now - attempt.started, given.gpus, given.cpus)
        return total

    def exceeded(self, spent: Usage) -> str:
        """Which part of the budget is used up; empty when none is."""
        budget = self.plan.sweep.budget
        limits = (
            ("GPU-hours", spent.gpu_hours, budget.gpu_hours),
            ("CPU-hours", spent.cpu_hours, budget.cpu_hours),
            ("hours of this call", (time.time() - self.began) / 3600, budget.wall and budget.wall / 3600),
        )
        over = [f"{used:.3g} of {limit:.3g} {what}" for what, used, limit in limits if limit and used >= limit]
        return f"the budget is spent: {', '.join(over)}" if over else ""

    # --- how it stands ------------------------------------------------------------------------------------------

    def snapshot(self, attempts: Sequence[Attempt], why: Mapping[str, str], now: float, slots: int) -> Snapshot:
        spent, budget = self.spent(attempts, now), self.plan.sweep.budget
        eta = self._eta(attempts, why, now, slots)
        return Snapshot(
            total=len(self.runs),
            done=len(self.done),
            **Counter(self.unsound.values()),
            running=[self._running(attempt, now) for attempt in attempts],
            waiting=dict(Counter(reason for key, reason in why.items() if key in self.runs)),
            failed=dict(Counter(self.failed.values())),
            cancelled=len(self.cancelled),
            gpu_hours=spent.gpu_hours,
            cpu_hours=spent.cpu_hours,
            gpu_hours_allowed=budget.gpu_hours,
            cpu_hours_allowed=budget.cpu_hours,
            eta_seconds=eta.seconds if eta else None,
            eta_spread=eta.spread if eta else None,
            note=self.note,
        )

    def publish(self, snapshot: Snapshot, *, finished: bool = False) -> None:
        """For `scaling status --watch` and for a second `scaling run` that waits; every few seconds and at the end."""
        now = time.monotonic()
        if finished or now - self._published > PUBLISH_SECONDS:
            self._published = now
            publish(self.folder, snapshot)
            code = self.exit_code() if finished else 0
            live = Live(time=time.time(), pid=os.getpid(), answered=self.answered, finished=finished, exit_code=code)
            live.write(self.folder)

    def _running(self, attempt: Attempt, now: float) -> Running:
        run = self.runs[attempt.task.key]
        last, beat = run.dir.last_metrics() or {}, run.dir.last_beat()
        seconds = last.get("seconds", 0.0)
        gigabytes = last.get("system/gpu_memory_gb") or last.get("system/rss_gb") or 0.0
        return Running(
            name=str(run.point),
            run=attempt.task.key,
            node=attempt.node,
            phase=beat.phase if beat and beat.token == attempt.token else "",
            step=last.get("step", 0),
            n_steps=0 if last.get("step") == run.spec.n_steps else run.spec.n_steps,
            loss=last.get("loss"),
            images_per_second=last["images_seen"] / seconds if seconds else None,
            memory=int(gigabytes * 1e9),
            eta_seconds=self._left(attempt, now),
        )

    def _left(self, attempt: Attempt, now: float) -> float | None:
        """Seconds a running attempt still takes."""
        key = attempt.task.key
        run = self.runs[key]
        whole = self.forecast.seconds(run, probes_only=key in self.trained)
        last = run.dir.last_metrics() or {}
        step, seconds = last.get("step", 0), last.get("seconds", 0.0)
        training = seconds / step * max(0, run.spec.n_steps - step) if step else None  # at its own pace
        left = None if whole is None else max(0.0, whole - (now - attempt.started))
        return max((s for s in (training, left) if s is not None), default=None)

    def _eta(self, attempts: Sequence[Attempt], why: Mapping[str, str], now: float, slots: int) -> Eta | None:
        """Of what waits and is half done."""
        waiting = [key for key in why if key in self.runs]
        left = [self.forecast.seconds(self.runs[key], probes_only=key in self.trained) for key in waiting]
        return self.forecast.eta([*left, *(self._left(attempt, now) for attempt in attempts)], slots)
