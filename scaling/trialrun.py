"""One trial of a tuning stage where it is carried out: its run under the scheduler's rules, its reports by step.

Imports neither torch nor ray, so that the actor that holds it is light and tests need no cluster.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scaling.config import Sweep
from scaling.document import Document
from scaling.errors import SpecError
from scaling.launch.launcher import Ended, Launcher, Node, Order, Resources
from scaling.launch.warm import WarmSlot
from scaling.plan import Plan
from scaling.planned import PlannedRun
from scaling.records import UNSOUND
from scaling.runbody import RunBody, end_attempt
from scaling.scheduler import Scheduler
from scaling.task import Effort, Event, Task
from scaling.trials import Group, Status, Trial, Tried, look, smoothed
from scaling.tuning import Setting

POLL_SECONDS = 0.2
GRACE = 8
"""asha stops nothing before this part of the steps."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """All that an actor needs to carry a trial out."""

    plan: Plan
    """Without its runs."""
    run: PlannedRun
    group: Group
    key: str
    setting: Setting
    rungs: tuple[int, ...]
    """Steps at which the trial reports before its end."""
    stopped_at: int | None
    """The step at which an earlier call of this stage stopped it; then it reports what is there and no more."""
    by_probe: bool
    resources: Resources
    code: Path | None
    owner: str


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What a trial reports."""

    step: int
    score: float | None
    """What trials are compared by: the criterion once done, before it the loss so far; None is worse than all."""
    status: Status
    """waiting: it goes on."""
    reason: str = ""


def rungs_of(n_steps: int, reduction: int) -> tuple[int, ...]:
    """Where asha looks: from 1/8 of the steps on, each `reduction` times as far."""
    rung, found = max(1, n_steps // GRACE), []
    while rung < n_steps:
        found.append(rung)
        rung *= reduction
    return tuple(found)


class Share:
    """`launch.Launcher` over what an actor was given: one warm slot, one run at a time."""

    def __init__(self, resources: Resources, code: Path | None) -> None:
        gpus = -(-resources.gpus // 1)
        self._node = Node(
            name="here",
            host=socket.gethostname(),
            cpus=resources.cpus,
            gpus=int(gpus),
            accelerator=resources.accelerator,
        )
        self._devices = os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpus else ""
        self._code, self._slot = code, WarmSlot(code)

    def nodes(self) -> Sequence[Node]:
        return (self._node,)

    def submit(self, order: Order) -> None:
        if self._slot.dead:
            self._slot = WarmSlot(self._code)
        self._slot.start(order, devices=self._devices)

    def wait(self, timeout: float) -> list[Ended]:
        if self._slot.dead:
            time.sleep(timeout)
            return []
        with selectors.DefaultSelector() as selector:
            selector.register(self._slot, selectors.EVENT_READ)
            return self._slot.read() if selector.select(timeout) else []

    def kill(self, path: Path) -> None:
        self._slot.kill(path)

    def close(self) -> None:
        self._slot.close()


class TrialRun:
    """One trial under way: starts its run when a report needs it, and not before."""

    def __init__(self, assignment: Assignment, launcher: Launcher) -> None:
        self.a, self.run = assignment, assignment.run
        self.failed = ""
        self._scheduler = Scheduler(launcher, now=time.monotonic, listen=self._hear)

    def advance(self, step: int) -> Reached:
        """Waits until the trial has logged `step`, or is at its end."""
        while True:
            tried, lines = self._tried(), list(self.run.dir.metrics())
            last = tried.step if tried.status == "stopped" else self.run.spec.n_steps - 1
            found = next((line["step"] for line in lines if step <= line["step"] <= last), None)
            if found is not None:  # also of finished trials: asha compares others with what they had here
                return Reached(step=found, score=smoothed(lines, found), status="waiting")
            if tried.status in ("done", "stopped", *UNSOUND):
                self._finish()
                return self._reached(tried)
            if self.failed:
                return self._reached(replace(tried, status="failed", reason=self.failed))
            if not self._scheduler.waiting and not self._scheduler.running:
                self._scheduler.add(self._task())
            self._scheduler.tick(POLL_SECONDS)

    def _tried(self) -> Tried:
        known = {} if self.a.stopped_at is None else {self.run.dir.run: self.a.stopped_at}
        trial = Trial(group=self.a.group, setting=self.a.setting, run=self.run)
        return look(trial, known, by_probe=self.a.by_probe)

    def _reached(self, tried: Tried) -> Reached:
        score = {"done": tried.score, "stopped": tried.loss}.get(tried.status)
        return Reached(step=tried.step, score=score, status=tried.status, reason=tried.reason)

    def _task(self) -> Task:
        sweep, given = self.a.plan.sweep, self.a.resources
        n_ranks = sweep.resources.processes or max(1, round(given.gpus))
        return Task(
            key=self.run.dir.run,
            path=self.run.dir.path,
            sweep=sweep.name,
            body=RunBody(self.a.plan, self.run, self.a.owner),
            rank=0.0,
            effort=Effort(resources=given),
            n_ranks=n_ranks,
            max_micro=max(1, self.run.spec.batch_size // n_ranks),
            code=self.a.code,
            policies=sweep.retry.policies(),
            hang_after=sweep.retry.hang_after,
        )

    def _hear(self, event: Event) -> None:
        if event.seconds and event.effort and event.kind != "breaker":
            end_attempt(self.run.dir, event)
        if event.final and event.kind == "failed":
            self.failed = event.error

    def _finish(self) -> None:
        """Its process ends by itself: the result is its last act but for tidying up."""
        while self._scheduler.running:
            self._scheduler.tick(POLL_SECONDS)

    def leave(self) -> None:
        """The run saves its checkpoint and goes, or is killed if it does not; another day it may go on."""
        self._scheduler.drop(list(self._scheduler.waiting))
        self._scheduler.stop()
        self._finish()


def bundle(resources: Resources) -> dict[str, float]:
    """What Ray is asked for per trial."""
    wanted: dict[str, float] = {"CPU": resources.cpus}
    if resources.gpus:
        wanted["GPU"] = resources.gpus
    if resources.memory:
        wanted["memory"] = resources.memory
    if resources.accelerator and resources.gpus:
        wanted[f"accelerator_type:{resources.accelerator}"] = 0.001
    return wanted


def resources_of(sweep: Sweep, document: Document, nodes: Sequence[Mapping[str, float]]) -> Resources:
    """What a trial gets: as the YAML says; `auto` and `packed` are one GPU where there are any.

    `nodes` are Ray's resources of each. Raises SpecError when no node has it, which Tune would wait for without end.
    """
    asked = sweep.resources
    any_gpu = float(any(node.get("GPU", 0) >= 1 for node in nodes))
    resources = Resources(
        cpus=asked.cpus,
        gpus=any_gpu if isinstance(asked.gpus, str) else asked.gpus,
        memory=int((asked.memory_gb or 0) * 2**30),
        accelerator=asked.accelerator,
    )
    wanted = bundle(resources)
    if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
        table = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        what = f"a trial wants {resources}; no node has that ({table}); lower it, or join a cluster with --address"
        raise SpecError([document.problem(("resources",), what)])
    return resources
