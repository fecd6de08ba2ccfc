"""Which run goes next, where it goes, and what follows its end.

Row of the driver, which feeds it. Time, launcher and chance come from outside, so that weeks are tested in moments;
files, MLflow and people are the driver's business. One thread, no I/O but what `Body` does for a single run.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast
from uuid import uuid4

from scaling.failures import BREAKER, FailureClass
from scaling.launch.launcher import Ended, Launcher, Node, Order, Resources
from scaling.placement import Room
from scaling.records import UNSOUND
from scaling.task import Effort, Ending, Event, Outcome, Task, lighter

STOP_GRACE, HANG_GRACE = 120.0, 30.0
"""Seconds a run may take to save and go once it was asked to; then it is killed."""
START_GRACE = 1800.0
"""Seconds a slot may take to load on a busy machine before its runs count as hanging."""
ORPHAN_GRACE = 60.0
"""Seconds to wait for a fenced process of a dead driver to end before its run starts anew beside it."""
JITTER = 0.2
"""Backoff varies by +- this share, so that runs which failed together do not come back together."""


@dataclass
class Waiting:
    task: Task
    since: float
    sequence: int
    effort: Effort
    attempt: int = 0
    failures: Counter[FailureClass] = field(default_factory=Counter)
    not_before: float = 0.0
    fenced_at: float | None = None
    """When an orphan was found in the run; None once it is known that there is none."""
    checked: bool = False
    last_failure: FailureClass | None = None


@dataclass
class Running:
    waited: Waiting
    token: str
    node: str
    devices: tuple[int, ...]
    """GPUs of the node it is on."""
    started: float
    pulse: object
    pulse_at: float
    begun: bool = False
    """Whether its worker gave a first sign of life; before, it waits for its slot to load."""
    kill_at: float | None = None
    """Asked to stop; killed when this time comes."""
    verdict: Literal["", "hang", "stopped", "cancelled"] = ""
    """What the scheduler decided before the process ended."""

    @property
    def task(self) -> Task:
        return self.waited.task


class Scheduler:
    """Call `tick` until `idle`."""

    def __init__(
        self,
        launcher: Launcher,
        *,
        now: Callable[[], float],
        listen: Callable[[Event], None] = lambda event: None,
        chance: random.Random | None = None,
    ) -> None:
        self.launcher, self.now, self.listen = launcher, now, listen
        self.chance = chance or random.Random()
        self.waiting: dict[str, Waiting] = {}
        self.running: dict[Path, Running] = {}
        self.holds: dict[str, str] = {}
        """Sweep -> why nothing of it starts."""
        self.reserved: tuple[str, str] | None = None
        """Node kept free, and the run it is kept for."""
        self._sequence = 0
        self._same_error: tuple[str, int] = ("", 0)

    # --- what is wanted -----------------------------------------------------------------------------------------

    def add(self, task: Task) -> None:
        """Nothing for a run that already waits or runs."""
        if task.key in self.waiting or task.path in self.running:
            return
        self._sequence += 1
        self.waiting[task.key] = Waiting(task=task, since=self.now(), sequence=self._sequence, effort=task.effort)

    def drop(self, keys: Iterable[str]) -> None:
        """Forgets runs that only wait; they were removed from their sweep."""
        for key in keys:
            self.waiting.pop(key, None)

    def cancel(self, keys: Iterable[str]) -> None:
        """Ends runs at once, waiting or under way."""
        wanted = set(keys)
        for key in wanted & self.waiting.keys():
            waited = self.waiting.pop(key)
            self.listen(Event(kind="cancelled", task=waited.task, attempt=waited.attempt))
        for running in self.running.values():
            if running.task.key in wanted and running.verdict != "cancelled":
                running.verdict, running.kill_at = "cancelled", self.now() + HANG_GRACE
                self.launcher.kill(running.task.path)

    def stop(self, sweep: str | None = None) -> None:
        """What runs, of one sweep or all, saves its checkpoint and goes. Hold the sweep too, or it starts again."""
        for running in self.running.values():
            if (sweep is None or running.task.sweep == sweep) and running.verdict == "":
                running.verdict = "stopped"
                running.kill_at = self.now() + STOP_GRACE
                running.task.body.ask_to_stop()

    def hold(self, sweep: str, reason: str) -> None:
        """Nothing of the sweep starts until `release`."""
        self.holds[sweep] = reason

    def release(self, sweep: str) -> None:
        self.holds.pop(sweep, None)

    # --- how things stand ---------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing runs, and nothing waits but what is held."""
        return not self.running and all(w.task.sweep in self.holds for w in self.waiting.values())

    def room(self) -> Room:
        """What is free now on each node."""
        room = Room(self.launcher.nodes())
        for running in self.running.values():
            room.hold(running.node, running.waited.effort.resources, running.devices)
        return room

    def why_waiting(self) -> dict[str, str]:
        """Run -> what it waits for."""
        nodes, now = self.launcher.nodes(), self.now()
        fits = {r: Room(nodes).place(r) is not None for r in {w.effort.resources for w in self.waiting.values()}}
        return {key: self._why(waited, now, fits[waited.effort.resources]) for key, waited in self.waiting.items()}

    def _why(self, waited: Waiting, now: float, fits_some_node: bool) -> str:
        if waited.task.sweep in self.holds:
            return self.holds[waited.task.sweep]
        if waited.fenced_at is not None:
            return "its last process to end"
        if waited.not_before > now:
            return f"a retry after {waited.last_failure}"
        return "room" if fits_some_node else f"a node with {waited.effort.resources}"

    # --- the loop -----------------------------------------------------------------------------------------------

    def tick(self, timeout: float) -> list[Ended]:
        """Watches, starts what fits, then waits for what ends, for at most `timeout` seconds."""
        self._watch()
        self._start()
        ended = self.launcher.wait(timeout)
        for one in ended:
            self._settle(one)
        return ended

    def _watch(self) -> None:
        now = self.now()
        for running in self.running.values():
            pulse = running.task.body.pulse()
            if pulse != running.pulse:
                running.pulse, running.pulse_at, running.begun = pulse, now, True
            if running.kill_at is not None:
                if now >= running.kill_at:
                    running.kill_at = now + HANG_GRACE  # should the launcher fail to kill it, it will be asked again
                    self.launcher.kill(running.task.path)
            elif now - running.pulse_at > self._longest_silence(running):
                running.verdict, running.kill_at = "hang", now + HANG_GRACE
                running.task.body.ask_to_stop()
                self.listen(
                    Event(
                        kind="hang", task=running.task, attempt=running.waited.attempt, node=running.node, final=False
                    )
                )

    def _longest_silence(self, running: Running) -> float:
        """Seconds without a sign of life that are no hang."""
        if not running.begun:
            return max(START_GRACE, running.task.hang_after)
        return max(running.task.hang_after, running.task.body.slow_pulse())

    def _order(self, now: float) -> list[Waiting]:
        def place(waited: Waiting) -> tuple[int, bool, float, int]:
            overtaken = now - waited.since <= waited.task.patience
            return -waited.task.priority, overtaken, waited.task.rank, waited.sequence

        return sorted(self.waiting.values(), key=place)

    def _start(self) -> None:
        now, room, self.reserved = self.now(), self.room(), None
        full: set[Resources] = set()
        for waited in self._order(now):
            if room.full:
                break
            task, wanted = waited.task, waited.effort.resources
            if task.sweep in self.holds or waited.not_before > now:
                continue
            if wanted in full or not (node := room.place(wanted)):
                full.add(wanted)
                if self.reserved is None and now - waited.since > task.patience and (kept := room.reserve(wanted)):
                    self.reserved = (kept, task.key)
                continue
            if not self._vacant(waited, now):
                continue
            self._launch(waited, node, room.take(node.name, wanted), now)

    def _vacant(self, waited: Waiting, now: float) -> bool:
        """Whether no process of a dead driver is in the run any more; it was fenced when it was first seen."""
        if waited.checked:
            return True
        if not waited.task.body.occupied() or (waited.fenced_at and now - waited.fenced_at > ORPHAN_GRACE):
            waited.checked, waited.fenced_at = True, None
            return True
        waited.fenced_at = waited.fenced_at or now
        return False

    def _launch(self, waited: Waiting, node: Node, devices: tuple[int, ...], now: float) -> None:
        task, token = waited.task, uuid4().hex
        waited.attempt += 1
        del self.waiting[task.key]
        task.body.prepare(token, waited.effort, node)
        self.running[task.path] = Running(
            waited=waited,
            token=token,
            node=node.name,
            devices=devices,
            started=now,
            pulse=task.body.pulse(),
            pulse_at=now,
        )
        order = Order(
            path=task.path,
            token=token,
            resources=waited.effort.resources,
            node=node.name,
            n_ranks=task.n_ranks,
            code=task.code,
        )
        self.launcher.submit(order)
        self.listen(
            Event(kind="started", task=task, attempt=waited.attempt, node=node.name, effort=waited.effort, final=False)
        )

    # --- what follows an end ------------------------------------------------------------------------------------

    def _settle(self, ended: Ended) -> None:
        running = self.running.get(ended.path)
        if running is None or running.token != ended.token:
            return
        del self.running[ended.path]
        outcome, waited, task = running.task.body.outcome(ended), running.waited, running.task
        report = Event(
            kind="failed",
            task=task,
            attempt=waited.attempt,
            node=running.node,
            seconds=self.now() - running.started,
            effort=waited.effort,
            error=outcome.error,
        )
        if outcome.kind in ("done", *UNSOUND):  # also if it was told to go meanwhile
            self._same_error = ("", 0)
            self.listen(replace(report, kind=cast(Ending, outcome.kind)))
        elif running.verdict in ("cancelled", "stopped"):
            self.listen(replace(report, kind=running.verdict))
        elif running.verdict == "hang":
            error = f"no sign of life for {task.hang_after:.0f} s"
            self._fail(waited, replace(report, failure="hang", error=error), outcome)
        else:  # asked to go by somebody else: a batch system, an operator
            kind = "preempted" if outcome.kind == "stopped" else cast(FailureClass, outcome.kind)
            self._fail(waited, replace(report, failure=kind, error=outcome.error or "was asked to stop"), outcome)

    def _fail(self, waited: Waiting, report: Event, outcome: Outcome) -> None:
        kind = report.failure
        assert kind is not None
        if kind == "preempted" and outcome.progressed:
            waited.failures[kind] = 0
        waited.failures[kind] += 1
        effort = lighter(waited.effort, kind, waited.task, self.launcher.nodes())
        if waited.failures[kind] > waited.task.policies[kind].tries or effort is None:
            self.listen(report)
            self._break_circuit(report)
            return
        delay = waited.task.policies[kind].delay(waited.failures[kind]) * self.chance.uniform(1 - JITTER, 1 + JITTER)
        waited.effort, waited.not_before, waited.last_failure = effort, self.now() + delay, kind
        self.waiting[waited.task.key] = waited
        self.listen(replace(report, kind="retry", delay=delay, final=False))

    def _break_circuit(self, report: Event) -> None:
        """The same mistake again and again holds the sweep: whoever reads the log will want to mend it first."""
        if report.failure != "error":
            return
        last, n = self._same_error
        self._same_error = (report.error, n + 1 if report.error == last else 1)
        if self._same_error[1] >= BREAKER and report.task.sweep not in self.holds:
            self.hold(report.task.sweep, "the same error to be mended")
            self.listen(replace(report, kind="breaker", final=False))
