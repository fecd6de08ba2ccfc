"""Carries a plan out: starts what is missing, shows it, mirrors it to MLflow, and says what failed and why.

Idempotent: a finished run is never started again, an interrupted one goes on from its checkpoint.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from scaling.cost import Measured
from scaling.errors import Problem, SpecError
from scaling.launch.launcher import Ended, Launcher
from scaling.live import Running, Snapshot, View
from scaling.plan import Plan, PlannedRun
from scaling.rundir import write_whole

SYNC_SECONDS = 10.0
"""Between two looks at the curves of running runs for MLflow."""
TICK_SECONDS = 0.5


class Tracking(Protocol):
    """Where progress is mirrored for people to browse."""

    def start(self, run: PlannedRun) -> None: ...

    def sync(self, run: PlannedRun) -> None: ...

    def finish(self, run: PlannedRun, status: str) -> None: ...

    def finish_sweep(self, report: Path | None, *, complete: bool) -> None: ...


class NoTracking:
    """The run directories alone."""

    def start(self, run: PlannedRun) -> None:
        """Nowhere to open a run."""

    def sync(self, run: PlannedRun) -> None:
        """Nowhere to send a curve."""

    def finish(self, run: PlannedRun, status: str) -> None:
        """Nowhere to close a run."""

    def finish_sweep(self, report: Path | None, *, complete: bool) -> None:
        """Nowhere to put a report."""


@contextmanager
def only_driver(root: Path) -> Iterator[None]:
    """One driver per root at a time; the lock ends with the process, however it ends."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "driver.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            what = (
                f"another `scaling run` works here (process {file.read().strip() or 'unknown'}); wait for it or end it"
            )
            raise SpecError([Problem(where=str(root), what=what)]) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@dataclass
class Tally:
    """How the runs of one call went."""

    done: list[PlannedRun] = field(default_factory=list)
    failed: list[PlannedRun] = field(default_factory=list)


@dataclass
class _Active:
    run: PlannedRun
    started: float
    probes_only: bool
    mirrored: bool = False


class Driver:
    """One call of `scaling run`. A run that fails is reported and does not stop the others."""

    def __init__(self, plan: Plan, open_tracker: Callable[[], Tracking], view: View) -> None:
        self.plan, self.view = plan, view
        self._open_tracker = open_tracker
        self.tracker: Tracking | None = None
        unique = {run.dir.run: run for run in plan.runs}
        # Cheapest first: mistakes show early, and so do first fits.
        self.waiting = sorted((r for r in unique.values() if not r.done), key=lambda run: run.cost.train_flops)
        self.finished_before = [run for run in unique.values() if run.done]
        self.running: dict[Path, _Active] = {}
        self.tally = Tally()
        self.measured: list[Measured] = plan.measured()
        self._synced = 0.0
        self._slots = 1

    def carry_out(self, launcher: Launcher) -> Tally:
        """Does what is missing, on a launcher that is closed at the end, however that comes."""
        self._slots = launcher.slots()
        try:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self._slots:
                    self._start(self.waiting.pop(0), launcher)
                self._mirror_running()
                self.refresh()
                for ended in launcher.wait(TICK_SECONDS):
                    self._settle(ended)
        finally:
            launcher.close()
        self.refresh()
        return self.tally

    def _start(self, run: PlannedRun, launcher: Launcher) -> None:
        token = uuid4().hex
        write_whole(run.dir.path / "job.json", self.plan.job(run).model_dump_json(indent=1))
        run.dir.lease(token)
        self.running[run.dir.path] = _Active(run=run, started=time.monotonic(), probes_only=run.trained)
        launcher.submit(run.dir.path, token)

    def _settle(self, ended: Ended) -> None:
        active = self.running.pop(ended.path)
        run, seconds = active.run, time.monotonic() - active.started
        if ended.crash and run.dir.failure() is None:
            run.dir.fail("crash", ended.crash)
        record = run.dir.record()
        if run.done and record is not None:
            self.tally.done.append(run)
            self._mirror(run, lambda tracker, run: tracker.finish(run, record.status))
            if record.status == "done":
                self.measured.append(run.measured(seconds, probes_only=active.probes_only))
            else:
                self.view.say(f"diverged {run.point} after {record.images_seen:,} images: {record.reason}")
        else:
            self.tally.failed.append(run)
            self._mirror(run, lambda tracker, run: tracker.finish(run, "failed"))
            self.view.say(describe_failure(run))

    def _mirror_running(self) -> None:
        """Opens what was started and, now and then, sends the curves on."""
        due = time.monotonic() - self._synced > SYNC_SECONDS
        for active in self.running.values():
            if not active.mirrored:
                active.mirrored = True
                self._mirror(active.run, lambda tracker, run: tracker.start(run))
            elif due:
                self._mirror(active.run, lambda tracker, run: tracker.sync(run))
        if due:
            self._synced = time.monotonic()

    def finish_sweep(self, report: Path | None) -> None:
        """Closes the sweep in the tracker, with its report; also where no run had to be started."""
        self._try(lambda tracker: tracker.finish_sweep(report, complete=not self.tally.failed))

    def _mirror(self, run: PlannedRun, do: Callable[[Tracking, PlannedRun], None]) -> None:
        self._try(lambda tracker: do(tracker, run))

    def _try(self, do: Callable[[Tracking], None]) -> None:
        """A tracker that is down costs no run: the next `scaling run` sends what it missed."""
        try:
            if self.tracker is None:  # opened while the first runs are under way: a new database takes seconds
                tracker = self._open_tracker()
                for before in self.finished_before:
                    record = before.dir.record()
                    tracker.finish(before, record.status if record else "failed")
                self.tracker = tracker
            do(self.tracker)
        except Exception as error:  # whatever store is behind MLflow, its errors are many
            self.view.say(f"tracking: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")

    def refresh(self, step: int | None = None) -> None:
        """Shows how things stand; `step` is of no use here but lets this be a training loop's callback."""
        diverged = sum(1 for run in self.tally.done if (r := run.dir.record()) is not None and r.status == "diverged")
        self.view.show(
            Snapshot(
                total=len(self.finished_before)
                + len(self.tally.done)
                + len(self.tally.failed)
                + len(self.waiting)
                + len(self.running),
                done=len(self.finished_before) + len(self.tally.done),
                diverged=diverged,
                failed=len(self.tally.failed),
                running=[_running(active.run) for active in self.running.values()],
                eta_seconds=self._eta(),
            )
        )

    def _eta(self) -> float | None:
        """Seconds of what is waiting and half-done, shared among the slots in use."""
        estimates: list[float | None] = [self.plan.estimate(run, self.measured) for run in self.waiting]
        for active in self.running.values():
            whole = self.plan.estimate(active.run, self.measured)
            spent = time.monotonic() - active.started
            estimates.append(None if whole is None else max(0.0, whole - spent))
        known = [estimate for estimate in estimates if estimate is not None]
        if len(known) < len(estimates):
            return None
        slots = max(1, min(self._slots, len(estimates)))
        return max([sum(known) / slots, *known], default=0.0)


def _running(run: PlannedRun) -> Running:
    last = run.dir.last_metrics() or {}
    seconds = last.get("seconds", 0.0)
    return Running(
        name=str(run.point),
        step=last.get("step", 0),
        n_steps=0 if last.get("step") == run.spec.n_steps else run.spec.n_steps,
        loss=last.get("loss"),
        images_per_second=last["images_seen"] / seconds if seconds else None,
    )


def describe_failure(run: PlannedRun) -> str:
    """Which run, why, where its log is, and the log's end."""
    failure = run.dir.failure() or {"error": "the attempt left neither a result nor a reason"}
    tail = "\n".join(f"    {line}" for line in run.dir.log_tail(8).splitlines())
    return f"failed {run.point} ({run.dir.run}): {failure['error']}\n  log: {run.dir.path / 'log.txt'}\n{tail}"
