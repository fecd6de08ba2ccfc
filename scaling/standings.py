"""How a sweep stands by its directories alone: counts, failures grouped by their cause, runs found by name.

For people who ask from another process than the driver's, or when none is at work. Reads, writes nothing.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scaling.config import AXES
from scaling.control import Control, Holder, driver_of
from scaling.errors import Problem, SpecError, unknown
from scaling.live import Running, Snapshot, published
from scaling.plan import Plan
from scaling.planned import PlannedRun, Standing
from scaling.runbody import Usage, usage_of

SHOWN = 8
"""Names listed in a message at most."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """One look at everything."""

    plan: Plan
    standings: Mapping[str, Standing]
    """By fingerprint."""
    control: Control
    driver: Holder | None
    """Who drives the root; None when nobody does."""
    snapshot: Snapshot
    """The driver's own when it is at work on this sweep, else counted from the directories."""

    @property
    def failed(self) -> list[PlannedRun]:
        runs = self.plan.unique()
        return [runs[run] for run, standing in self.standings.items() if standing.state == "failed"]

    def to_json(self) -> dict[str, Any]:
        runs = self.plan.unique()
        counts = Counter(standing.state for standing in self.standings.values())
        return {
            "sweep": self.plan.sweep.name,
            "root": str(self.plan.root),
            "driver": asdict(self.driver) if self.driver else None,
            "paused": self.control.paused,
            "counts": dict(counts),
            "snapshot": self.snapshot.to_json(),
            "runs": [self._run_json(runs[run], standing) for run, standing in self.standings.items()],
        }

    def _run_json(self, run: PlannedRun, standing: Standing) -> dict[str, Any]:
        record, last, failure = standing.record, standing.last or {}, standing.failure or {}
        return {
            "run": run.dir.run,
            **vars(run.point),
            "state": standing.state,
            "cancelled": run.dir.run in self.control.cancelled and not standing.over,
            "phase": standing.beat.phase if standing.beat else None,
            "host": standing.beat.host if standing.beat else None,
            "step": run.spec.n_steps if record else last.get("step"),
            "n_steps": run.spec.n_steps,
            "loss": record.train_loss if record else last.get("loss"),
            "train_seconds": record.train_seconds if record else last.get("seconds"),
            "n_to_probe": standing.n_to_probe,
            "failure": failure.get("kind"),
            "error": failure.get("error"),
            "folder": str(run.dir.path),
        }


def look(plan: Plan) -> Status:
    standings, control = plan.standings(), Control.read(plan.folder)
    driver = driver_of(plan.root)
    told = published(plan.folder) if driver else None
    return Status(
        plan=plan,
        standings=standings,
        control=control,
        driver=driver,
        snapshot=told or counted(plan, standings, control, driver),
    )


def counted(
    plan: Plan, standings: Mapping[str, Standing], control: Control, driver: Holder | None, used: Usage | None = None
) -> Snapshot:
    """From the directories, for when no driver says how things stand."""
    runs, budget = plan.unique(), plan.sweep.budget
    states = Counter(standing.state for standing in standings.values())
    cancelled = sum(run in control.cancelled and not s.over and s.state != "running" for run, s in standings.items())
    failed = Counter(
        str(s.failure["kind"])
        for run, s in standings.items()
        if s.state == "failed" and s.failure and run not in control.cancelled
    )
    done = states["done"] + states["diverged"] + states["collapsed"]
    waiting = len(runs) - done - states["running"] - sum(failed.values()) - cancelled
    spent = used or usage_of(plan)
    return Snapshot(
        total=len(runs),
        done=done,
        diverged=states["diverged"],
        collapsed=states["collapsed"],
        running=[_running(runs[run], s) for run, s in standings.items() if s.state == "running"],
        waiting={"": waiting},
        failed=failed,
        cancelled=cancelled,
        gpu_hours=spent.gpu_hours,
        cpu_hours=spent.cpu_hours,
        gpu_hours_allowed=budget.gpu_hours,
        cpu_hours_allowed=budget.cpu_hours,
        note=_note(plan, waiting + sum(failed.values()), control, driver),
    )


def _note(plan: Plan, n_left: int, control: Control, driver: Holder | None) -> str:
    if n_left == 0:
        return ""
    if control.paused:
        return f"paused; `scaling resume {plan.document.path}` goes on"
    if driver is None:
        return f"nobody works on it; `scaling run {plan.document.path}` goes on"
    return ""


def _running(run: PlannedRun, standing: Standing) -> Running:
    last, beat = standing.last or {}, standing.beat
    seconds = last.get("seconds", 0.0)
    left = run.spec.n_steps - last.get("step", 0)
    return Running(
        name=str(run.point),
        run=run.dir.run,
        node=beat.host if beat else "",
        phase=beat.phase if beat else "",
        step=last.get("step", 0),
        n_steps=run.spec.n_steps if standing.record is None else 0,
        loss=last.get("loss"),
        images_per_second=last["images_seen"] / seconds if seconds else None,
        memory=int((last.get("system/gpu_memory_gb") or last.get("system/rss_gb") or 0.0) * 1e9),
        eta_seconds=seconds / last["step"] * left if seconds and last.get("step") and standing.record is None else None,
    )


# --- failures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FailureGroup:
    """Runs that failed of the same thing."""

    kind: str
    error: str
    """The last line of the first one's traceback; numbers and paths in it may differ among the others."""
    runs: tuple[PlannedRun, ...]
    """The newest failure first."""

    @property
    def log(self) -> str:
        return str(self.runs[0].dir.path / "log.txt")

    def to_json(self) -> dict[str, Any]:
        return {
            "class": self.kind,
            "error": self.error,
            "count": len(self.runs),
            "log": self.log,
            "runs": [{"run": run.dir.run, "point": str(run.point)} for run in self.runs],
        }


def failure_groups(plan: Plan, standings: Mapping[str, Standing]) -> list[FailureGroup]:
    """The largest group first."""
    groups: dict[tuple[str, str], list[tuple[float, str, PlannedRun]]] = defaultdict(list)
    runs = plan.unique()
    for fingerprint, standing in standings.items():
        if standing.state == "failed" and standing.failure:
            kind, error = str(standing.failure["kind"]), str(standing.failure["error"])
            when = (runs[fingerprint].dir.path / "failed.json").stat().st_mtime
            groups[kind, _alike(error)].append((when, error, runs[fingerprint]))
    found = []
    for (kind, _), members in groups.items():
        members.sort(key=lambda member: member[0], reverse=True)
        found.append(FailureGroup(kind=kind, error=members[0][1], runs=tuple(run for _, _, run in members)))
    return sorted(found, key=lambda group: -len(group.runs))


def _alike(error: str) -> str:
    """Without what differs between runs that fail of the same thing: fingerprints, paths, numbers."""
    text = re.sub(r"\b[0-9a-f]{12,}\b", "#", error)
    text = re.sub(r"(/[\w.+-]+)+", "#", text)
    return re.sub(r"\d+(\.\d+)?", "#", text)


# --- runs by name ------------------------------------------------------------------------------------------------


def find(plan: Plan, text: str) -> PlannedRun:
    """The one run whose fingerprint begins with the text, or whose point is or contains it. Raises SpecError."""
    runs = list(plan.unique().values())
    by_point = [run for run in runs if str(run.point) == text]
    found = by_point or [run for run in runs if run.dir.run.startswith(text) or text in str(run.point)]
    if len(found) == 1:
        return found[0]
    if found:
        what = f"'{text}' may be any of {len(found)} runs: {_some(found)}; give more of the name or a fingerprint"
    else:
        what = f"{unknown('run', text, [str(run.point) for run in runs][:SHOWN])}; `scaling status` lists all"
    raise SpecError([Problem(where=plan.sweep.name, what=what)])


def _some(runs: Sequence[PlannedRun]) -> str:
    names = [f"{run.point} ({run.dir.run})" for run in runs[:SHOWN]]
    return ", ".join(names) + (f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else "")


def chosen(plan: Plan, selection: Sequence[str]) -> list[str]:
    """Fingerprints of the runs that begin as a word of the selection, or lie on all its `axis=value` pairs.

    Two values of one axis mean either. Raises SpecError for a word that names no run, with every such word.
    """
    pairs: dict[str, set[str]] = defaultdict(set)
    problems: list[Problem] = []
    runs, found = plan.unique(), set[str]()
    for word in selection:
        if "=" in word:
            axis, value = word.split("=", 1)
            problems += _unknown_pair(plan, word, axis, value)
            pairs[axis].add(value)
        elif begun := {run for run, planned in runs.items() if run.startswith(word) or str(planned.point) == word}:
            found |= begun
        else:
            what = f"'{word}' begins no fingerprint of this sweep; give one, or axis=value, axes: {', '.join(AXES)}"
            problems.append(Problem(where=plan.sweep.name, what=what))
    if problems:
        raise SpecError(problems)
    if pairs:
        on_all = set(_on_all(runs, pairs))
        if not on_all:
            words = " ".join(word for word in selection if "=" in word)
            raise SpecError([Problem(where=plan.sweep.name, what=f"no run has {words}; drop a pair")])
        found |= on_all
    return [fingerprint for fingerprint in runs if fingerprint in found]


def _on_all(runs: Mapping[str, PlannedRun], pairs: Mapping[str, set[str]]) -> Iterator[str]:
    for fingerprint, run in runs.items():
        if all(str(getattr(run.point, axis)) in values for axis, values in pairs.items()):
            yield fingerprint


def _unknown_pair(plan: Plan, word: str, axis: str, value: str) -> Iterator[Problem]:
    where = f"{plan.sweep.name}: {word}"
    if axis not in AXES:
        yield Problem(where=where, what=unknown("axis", axis, AXES))
        return
    there = {str(getattr(run.point, axis)) for run in plan.runs}
    if value not in there:
        yield Problem(where=where, what=unknown(axis, value, there))
