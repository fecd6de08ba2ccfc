"""Carries sweeps out: feeds the scheduler, obeys what people ask for, and tells the mirror and the terminal.

Idempotent: a finished run is never started again, an interrupted one goes on from its checkpoint. One driver serves
all sweeps of a root; a second `scaling run` hands its sweep over and watches (`attach.py`).
"""

from __future__ import annotations

import errno
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from scaling.calibration import load_calibrations
from scaling.control import Control, Live, sweep_folder
from scaling.errors import RunFailed, SpecError
from scaling.launch.launcher import Launcher
from scaling.live import View
from scaling.mirror import Mirror
from scaling.plan import Plan, load_plan
from scaling.planned import PlannedRun
from scaling.preflight import preflight, slots
from scaling.provenance import freeze
from scaling.records import UNSOUND
from scaling.runbody import RunBody, end_attempt
from scaling.scheduler import Running as Attempt
from scaling.scheduler import Scheduler
from scaling.sizing import Allotment, Sizer
from scaling.sweeping import Sweeping
from scaling.task import Effort, Event, Task

TICK_SECONDS, LOOK_SECONDS, SYNC_SECONDS = 0.5, 1.0, 10.0
"""Longest wait for what ends; between looks at control files and drawings; between looks at the curves for MLflow."""
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""A root that takes no more keeps nothing of what runs, so the driver ends with a word on it."""


class Driver:
    """One call of `scaling run`. A run that fails is reported and does not stop the others."""

    def __init__(
        self,
        root: Path,
        launcher: Launcher,
        view: View,
        open_mirror: Callable[[Plan], Mirror | None],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root, self.launcher, self.view, self.now = root, launcher, view, now
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self.sweeps: dict[str, Sweeping] = {}
        self.scheduler = Scheduler(launcher, now=now, listen=self._hear, chance=random.Random(self.owner))
        self.interrupted = self._interrupting = False
        self._open_mirror = open_mirror
        self._main = ""
        self._most_at_once = 0
        self._code: Path | None = None
        self._seen: dict[Path, int] = {}
        self._looked = self._synced = 0.0

    # --- sweeps come in -----------------------------------------------------------------------------------------

    def adopt(self, plan: Plan, *, again: bool = True) -> Sweeping:
        """Takes a sweep up, or its new plan; `again` tries what failed before once more.

        Of a plan that no longer has some points, those that wait are dropped, and those that run may finish unless
        its control says otherwise.
        """
        control = Control.read(sweep_folder(self.root, plan.sweep.name))
        fresh = Sweeping.of(plan, None)
        fresh.answered = control.asked.id if control.asked else ""
        old = self.sweeps.get(plan.sweep.name)
        fresh.mirror = old.mirror if old else self._open_mirror(plan)
        self._main = self._main or fresh.name
        self.sweeps[fresh.name] = fresh
        fresh.runs = {run.dir.run: run for run in plan.runs}
        if old:
            self._part_with(old, fresh, control)
        for key, run in fresh.runs.items():
            self._take_stock(fresh, key, run, again=again)
        fresh.cancelled = set(control.cancelled) & fresh.runs.keys() - fresh.done
        if fresh.mirror:
            for key in fresh.done:
                if not fresh.runs[key].mirrored(plan.tracking_uri):
                    fresh.mirror.finish(fresh.runs[key], fresh.unsound.get(key, "done"))
        self._obey(fresh, control)
        self._reconcile()
        return fresh

    def _take_stock(self, sweeping: Sweeping, key: str, run: PlannedRun, *, again: bool) -> None:
        record = run.dir.record()
        if record is not None:
            sweeping.trained.add(key)
            if run.done:
                sweeping.done.add(key)
                if record.status in UNSOUND:
                    sweeping.unsound[key] = record.status
                return
        failure = None if again else run.dir.failure()
        if failure:
            sweeping.failed[key] = failure["kind"]

    def _part_with(self, old: Sweeping, fresh: Sweeping, control: Control) -> None:
        removed = old.runs.keys() - fresh.runs.keys()
        # What waits is planned anew; what another sweep still wants of it comes back on that one's account.
        self.scheduler.drop([key for key, w in self.scheduler.waiting.items() if w.task.sweep == fresh.name])
        going = {attempt.task.key for attempt in self._attempts(old.name)} & removed
        fresh.runs |= {key: old.runs[key] for key in going}
        if control.cancel_removed:
            self.scheduler.cancel(going)

    def _reconcile(self) -> None:
        """Every run that some sweep may start now waits or runs, whatever became of it on another sweep's account."""
        at_work = {attempt.task.key for attempt in self.scheduler.running.values()}
        waiting, holds = self.scheduler.waiting, self.scheduler.holds
        for sweeping in self.sweeps.values():
            if sweeping.ending or sweeping.name in holds:
                continue
            missing = [
                key
                for key in sweeping.outstanding()
                if key not in at_work and (key not in waiting or waiting[key].task.sweep in holds)
            ]
            if missing:
                self.scheduler.drop(missing)
                self._enqueue(sweeping, missing)

    def _enqueue(self, sweeping: Sweeping, keys: Sequence[str]) -> None:
        self._code = freeze(self.root)
        plan, sweep = sweeping.plan, sweeping.plan.sweep
        nodes = self.launcher.nodes()
        sizer = Sizer(plan, nodes, load_calibrations(self.root))
        sign = -1.0 if sweep.schedule.order == "longest" else 1.0
        for key in keys:
            run = sweeping.runs[key]
            given = sizer.size(run)
            sweeping.forecast.allot(run, given)
            cost = run.cost.train_flops * (key not in sweeping.trained)
            self.scheduler.add(
                Task(
                    key=key,
                    path=run.dir.path.resolve(),
                    sweep=sweeping.name,
                    body=RunBody(plan, run, self.owner),
                    rank=sign * cost,
                    effort=_effort(run, given),
                    n_ranks=given.n_ranks,
                    max_micro=max(1, run.spec.batch_size // given.n_ranks),
                    priority=sweep.schedule.priority,
                    code=self._code,
                    policies=sweep.retry.policies(),
                    hang_after=sweep.retry.hang_after,
                    patience=sweep.schedule.patience,
                )
            )
        foreseen = min(len(keys), slots(nodes, sizer.size(sweeping.runs[keys[0]]).resources))
        self._most_at_once = max(self._most_at_once, foreseen)

    # --- the loop -----------------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        """Until nothing more is to be done of any sweep; the launcher is closed at the end, however that comes.

        Raises RunFailed when the root cannot be written any more.
        """
        try:
            while not all(self._settled(sweeping) for sweeping in self.sweeps.values()):
                self.look()
                started = time.monotonic()
                if not self.scheduler.tick(TICK_SECONDS) and not self.scheduler.running:
                    time.sleep(max(0.0, TICK_SECONDS - (time.monotonic() - started)))
            self._looked = 0.0
            self.look()
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            what = f"{self.root} takes no more ({error.strerror}), so nothing could be kept of what runs"
            raise RunFailed(f"{what}; make room, then give the same command again: it goes on from here") from error
        finally:
            self.launcher.close()

    def _settled(self, sweeping: Sweeping) -> bool:
        """Nothing of it is left to do, or nothing more is to start in this call and nothing runs."""
        if sweeping.ending:
            return not self._attempts(sweeping.name)
        return not sweeping.outstanding()

    def look(self, step: int | None = None) -> None:
        """Reads what people ask for, guards budgets, feeds the mirror and draws, each when it is due.

        Called between ticks, and by runs of an inline launcher, for which `step` lets it be a callback.
        """
        now = self.now()
        if self.interrupted and not self._interrupting:
            self._interrupting = True
            for sweeping in self.sweeps.values():
                self._end(sweeping, "interrupted: saving checkpoints")
            self.scheduler.stop()
        elif self._looked and now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        self._read_controls()
        self._reconcile()
        for sweeping in list(self.sweeps.values()):
            self._guard_budget(sweeping, now)
        if now - self._synced > SYNC_SECONDS:
            self._synced = now
            for attempt in self.scheduler.running.values():
                sweeping = self.sweeps[attempt.task.sweep]
                if sweeping.mirror:
                    sweeping.mirror.sync(sweeping.runs[attempt.task.key])
        self._draw(now)

    def _draw(self, now: float) -> None:
        why = self.scheduler.why_waiting()
        at_work = {attempt.task.key for attempt in self.scheduler.running.values()}
        self._most_at_once = max(self._most_at_once, len(self.scheduler.running))
        at_once = max(self._most_at_once, 1)
        for sweeping in self.sweeps.values():
            held = self.scheduler.holds.get(sweeping.name, "room")
            mine = {key: why.get(key, held) for key in sweeping.outstanding() if key not in at_work}
            snapshot = sweeping.snapshot(self._attempts(sweeping.name), mine, now, at_once)
            sweeping.publish(snapshot, finished=self._settled(sweeping))
            if sweeping.name == self._main:
                self.view.show(snapshot)

    def _attempts(self, name: str) -> list[Attempt]:
        return [attempt for attempt in self.scheduler.running.values() if attempt.task.sweep == name]

    # --- what people ask for ------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """What runs is to save its checkpoint and go, and nothing new to start: at the next look, because this may be
        called by a signal in the middle of anything."""
        self.interrupted = True

    def _read_controls(self) -> None:
        for path in (self.root / "sweeps").glob("*/control.json"):
            try:
                changed = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
            if self._seen.get(path) == changed:
                continue
            self._seen[path] = changed
            try:
                self._heed(path.parent)
            except Exception as error:  # one sweep's unreadable wishes must not end the runs of all others
                self.view.say(f"{path.parent.name}: its request is left alone: {error}")
                self._refuse(path.parent, str(error))

    def _heed(self, folder: Path) -> None:
        """Takes up a sweep that somebody waits for, or what is wanted of one at work."""
        control, name = Control.read(folder), folder.name
        sweeping, asked = self.sweeps.get(name), control.asked
        if asked and asked.waits() and (sweeping is None or asked.id != sweeping.answered):
            if self.interrupted:
                return  # whoever asked takes over when this driver is gone
            plan = load_plan(self.root, name)
            if problems := preflight(plan, self.launcher.nodes()):
                raise SpecError(problems)
            self.adopt(plan)
        elif sweeping:
            self._obey(sweeping, control)

    def _refuse(self, folder: Path, why: str) -> None:
        """Tells whoever waits for the sweep that it will not be."""
        with suppress(Exception):
            asked = Control.read(folder).asked
            if asked:
                note = Live(time=time.time(), pid=os.getpid(), answered=asked.id, finished=True, exit_code=2, note=why)
                note.write(folder)

    def _obey(self, sweeping: Sweeping, control: Control) -> None:
        name = sweeping.name
        sweeping.cancelled = set(control.cancelled) & sweeping.runs.keys() - sweeping.done
        others = {key for other in self.sweeps.values() if other is not sweeping for key in other.wanted()}
        self.scheduler.cancel(sweeping.cancelled - others)
        if control.stop:
            self._end(sweeping, "stopping: " + ("what runs may finish" if control.stop == "drain" else "saving"))
            if control.stop == "save":
                self.scheduler.stop(name)
        elif control.paused:
            sweeping.note = f"paused; `scaling resume {sweeping.plan.document.path}` goes on"
            self.scheduler.hold(name, "resume (paused)")
        elif not sweeping.ending:
            sweeping.note = ""
            self.scheduler.release(name)

    def _end(self, sweeping: Sweeping, note: str) -> None:
        sweeping.ending, sweeping.note = True, note
        self.scheduler.hold(sweeping.name, note.split(":")[0])

    def _guard_budget(self, sweeping: Sweeping, now: float) -> None:
        if sweeping.ending or not sweeping.outstanding():
            return
        over = sweeping.exceeded(sweeping.spent(self._attempts(sweeping.name), now))
        if over:
            sweeping.over_budget = True
            self._end(sweeping, over)
            self.view.say(f"{sweeping.name}: {over}; nothing new starts")
            if sweeping.plan.sweep.budget.on_hit == "stop":
                self.scheduler.stop(sweeping.name)

    # --- what the scheduler tells -------------------------------------------------------------------------------

    def _hear(self, event: Event) -> None:
        sweeping = self.sweeps[event.task.sweep]
        run, key = sweeping.runs[event.task.key], event.task.key
        sweeping.record(event)
        if event.seconds and event.effort and event.kind != "breaker":
            end_attempt(run.dir, event)
            given = event.effort.resources
            sweeping.used = sweeping.used.plus(event.seconds, given.gpus, given.cpus)
        if event.kind == "started" and sweeping.mirror:
            sweeping.mirror.start(run)
        elif event.kind in ("done", *UNSOUND):
            self._finish(sweeping, run, event)
        elif event.kind == "failed" and event.failure:
            sweeping.failed[key] = event.failure
            if event.failure == "hang":  # which its process, killed for it, could not say
                run.dir.fail(event.failure, event.error)
            self.view.say(describe_failure(run))
        elif event.kind == "cancelled" and key not in sweeping.plan.unique():
            del sweeping.runs[key]  # it was removed from the sweep
        elif event.kind == "stopped" and sweeping.ending:
            sweeping.stopped.add(key)
        elif event.kind == "retry":
            again = f"; again in {event.delay:.0f} s" if event.delay >= 1 else "; again now"
            self.view.say(f"{event.failure} {run.point} ({key}), attempt {event.attempt}: {event.error}{again}")
        elif event.kind == "breaker":
            what = f"the same error in run after run ({event.error}); mend it and give the command again"
            self._end(sweeping, f"nothing new starts: {what}")
            self.view.say(f"{sweeping.name}: {sweeping.note}")
        if event.kind in ("failed", "cancelled", "stopped") and event.attempt and sweeping.mirror:
            sweeping.mirror.finish(run, event.kind)
        if event.final:
            self._share(sweeping, event)
            self._guard_budget(sweeping, self.now())  # before anything takes its place

    def _finish(self, sweeping: Sweeping, run: PlannedRun, event: Event) -> None:
        key = event.task.key
        sweeping.failed.pop(key, None)
        if not run.done:  # the sweep was edited while it ran and wants more of it
            sweeping.trained.add(key)
            return
        sweeping.done.add(key)
        if sweeping.mirror:
            sweeping.mirror.finish(run, event.kind)
        if event.kind in UNSOUND:
            sweeping.unsound[key] = event.kind
            record = run.dir.record()
            self.view.say(
                f"{event.kind} {run.point}"
                + (f" after {record.images_seen:,} images: {record.reason}" if record else "")
            )
        else:
            sweeping.forecast.learn(run, event.seconds, probes_only=key in sweeping.trained)

    def _share(self, sweeping: Sweeping, event: Event) -> None:
        """Another sweep that wants the same run gets its result, or its own try where there is none."""
        for other in self.sweeps.values():
            key = event.task.key
            if other is sweeping or key not in other.runs or key in other.done:
                continue
            if other.runs[key].done:
                other.done.add(key)
                if event.kind in UNSOUND:
                    other.unsound[key] = event.kind
                if other.mirror:
                    other.mirror.finish(other.runs[key], event.kind)
            elif event.kind == "failed" and event.failure:
                other.failed[key] = event.failure


def _effort(run: PlannedRun, given: Allotment) -> Effort:
    """In a step no larger than the run's last attempt was cut down to, lest a new driver run out of memory anew."""
    last: dict[str, Any] = next((line for line in reversed(run.dir.attempts()) if "n_micro" in line), {})
    return Effort(
        resources=given.resources,
        n_micro=max(given.n_micro, last.get("n_micro", 1)),
        recomputed=given.recomputed or last.get("recomputed", False),
    )


def describe_failure(run: PlannedRun) -> str:
    """Which run, why, where its log is, and the log's end."""
    failure = run.dir.failure() or {"kind": "error", "error": "the attempt left neither a result nor a reason"}
    tail = "\n".join(f"    {line}" for line in run.dir.log_tail(8).splitlines())
    log = run.dir.path / "log.txt"
    return f"failed {run.point} ({run.dir.run}), {failure['kind']}: {failure['error']}\n  log: {log}\n{tail}"
