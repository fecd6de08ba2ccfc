"""The driver is killed again and again, and given the same command again and again, until the sweep is over.

Kill times are seeded. What a kill costs is measured on the way and printed; SCALING_KILL_FIGURES names a folder that
also gets it as JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from scaling import checkpoint
from scaling.config import load
from scaling.plan import Plan, make_plan, open_source
from scaling.planned import PlannedRun
from scaling.rundir import read_lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

Stored = Callable[[Path], dict[str, Any]]
MARK = "SCALING_TEST_MARK"
"""Environment variable by which every process that a driver started, however far down, is known."""
LATE, GUARD = 60.0, 300.0
"""Seconds by which a killed driver's runs must be gone, and by which anything must have happened, however busy the
machine."""
CHANGED = {
    "seed: [0]\n": "seed: [0]\nexclude: [{algorithm: dinov2, n_images: 32}]\n",
    "images_seen: 64": "images_seen: 3184",
    "precision: fp32}": "precision: fp32, checkpoint_minutes: 0.02}",
    "bootstrap: 20": "bootstrap: 20, max_train: 32",
}
N_STEPS, N_TRAINED, N_RUNS = 199, 6, 8
"""Of a run, each logged; runs that are trained; with those that are only probed."""
SPREAD = 0.75
"""Share of the sweep that is over, on average, when it is killed for the last time at work."""
CHECKPOINT_SECONDS = 0.02 * 60
MEASURED = {"seconds", "time", "system/cpu_percent", "system/rss_gb"}
"""What a logged step says of the machine and not of the run."""


@dataclass(frozen=True)
class Kill:
    """Seconds after - starting: the command was given; working: its runs went so many steps further, all together;
    closing: the last run was over."""

    at: str
    seconds: float
    steps: int = 0


def kills(n: int, seed: int, *, starting: int, closing: int) -> list[Kill]:
    """Spread over a whole sweep: start-ups and working times mixed, the end last."""
    chance = random.Random(seed)
    found = [Kill("starting", chance.uniform(0, 8)) for _ in range(starting)]
    working = n - starting - closing
    most = round(2 * SPREAD * N_STEPS * N_TRAINED / (working + 1))
    found += [Kill("working", chance.uniform(0, 0.3), chance.randint(1, most)) for _ in range(working)]
    chance.shuffle(found)
    return [*found, *(Kill("closing", chance.uniform(0, 0.5)) for _ in range(closing))]


@dataclass
class Ordeal:
    """A sweep, and all that was seen of it while its drivers were killed."""

    plan: Plan
    launcher: str
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    n_calls: int = 0
    began: int = 0
    """When the driver at work now was started, ns."""
    finished: dict[str, dict[str, int]] = field(default_factory=dict)
    """Run -> file -> its time of change, ns, when the run was first seen finished."""
    lost: list[dict[str, Any]] = field(default_factory=list)
    """A line per kill and run under way."""
    outlived: float = 0.0
    """Longest time, seconds, that a run or what starts runs went on after its driver."""

    @property
    def events(self) -> Path:
        return self.plan.root / "sweeps" / self.plan.sweep.name / "events.jsonl"

    def begin(self) -> tuple[subprocess.Popen[bytes], str]:
        self.n_calls += 1
        self.began = time.time_ns()
        mark = f"{self.plan.root}#{self.n_calls}#"
        command = [sys.executable, "-m", "scaling.cli", "run", str(self.plan.document.path), "--no-report"]
        with open(self.plan.root.parent / f"call-{self.n_calls}.log", "w") as log:
            self.process = subprocess.Popen(
                [*command, "--launcher", self.launcher],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.environment, MARK: mark},
            )
        return self.process, mark

    def said(self) -> str:
        return (self.plan.root.parent / f"call-{self.n_calls}.log").read_text()

    def await_moment(self, kill: Kill, process: subprocess.Popen[bytes]) -> bool:
        """False when the driver ended by itself before."""
        before = self.n_steps()

        def come() -> bool:
            if kill.at == "starting":
                return True
            if kill.at == "closing":
                return all(run.done for run in self.plan.runs)
            return self.n_steps() >= before + kill.steps

        until(lambda: come() or process.poll() is not None)
        try:
            process.wait(kill.seconds)
        except subprocess.TimeoutExpired:
            return True
        assert process.returncode == 0, self.said()
        return False

    def n_steps(self) -> int:
        """Logged so far, of all runs."""
        return sum(int((run.dir.last_metrics() or {"step": 0})["step"]) for run in self.plan.runs)

    def note_finished(self) -> None:
        for run in self.plan.runs:
            if run.done and run.dir.run not in self.finished:
                self.finished[run.dir.run] = results(run)

    def note_lost(self, number: int, kill: Kill, began: int) -> None:
        """Of the runs that the driver started at `began`, ns, got to work."""
        for run in self.plan.runs:
            beat = run.dir.last_beat()
            if not run.trained and beat is not None and beat.mtime_ns > began:
                self.lost.append({"kill": number, "at": kill.at, "run": run.dir.run, **position(run)})

    def survive(self, planned: list[Kill]) -> int:
        """Kills at each moment, then lets the sweep end; how many kills there were before it ended by itself."""
        try:
            return self._survive(planned)
        finally:  # also of a test that failed or was interrupted, nothing goes on
            if self.process is not None:
                self.process.kill()
                self.process.wait()

    def _survive(self, planned: list[Kill]) -> int:
        process, mark = self.begin()
        for number, kill in enumerate(planned):
            if not self.await_moment(kill, process):
                if kill.at != "closing":
                    return number
                process, mark = self.begin()  # has nothing to do but to find that out
                time.sleep(kill.seconds)
            process.kill()
            process.wait()
            began = self.began
            if number % 2:
                self.await_end(mark)
                process, following = self.begin()
            else:  # the next driver meets what is left of this one
                process, following = self.begin()
                self.await_end(mark)
            mark = following
            self.note_lost(number, kill, began)  # long before the next driver has imported what it needs
            self.note_finished()
        assert process.wait(3 * GUARD) == 0, self.said()
        until(lambda: not living(str(self.plan.root)))
        return len(planned)

    def await_end(self, mark: str) -> None:
        """Until no run, nor what starts runs, of a killed driver is left. Services of Ray may take a minute more."""
        began = time.monotonic()

        def gone() -> bool:
            after = time.monotonic() - began
            left = [command for command in living(mark).values() if "scaling" in command or "SlotActor" in command]
            self.outlived = max(self.outlived, after if left else 0.0)
            return not left

        until(gone, LATE)


def until(condition: Callable[[], object], seconds: float = GUARD) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.02)


def living(mark: str) -> dict[int, str]:
    """Process -> command, of all that carry a mark that begins so."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes():  # empty for a zombie
                found[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
    return found


def results(run: PlannedRun) -> dict[str, int]:
    paths = [run.dir.path / "result.json", run.dir.path / "encoder.pt", *(run.dir.path / "probes").glob("*.json")]
    return {path.name: path.stat().st_mtime_ns for path in paths if path.exists()}


def position(run: PlannedRun) -> dict[str, Any]:
    """Where a run that was killed stands, what it will do again, and what it may have to by its settings.

    A checkpoint is written at the first step that ends an interval after the last was written, so the most that can
    be lost is the interval, the write before it and the step it ends with.
    """
    state = checkpoint.load(run.dir.path / "checkpoint.pt", torch.device("cpu"))
    saved, at = (state["n_done"], state["seconds"]) if state else (0, 0.0)
    clock = [at, *(line["seconds"] for line in run.dir.metrics() if line["step"] > saved)]
    gaps = [after - before for before, after in itertools.pairwise(clock)] or [0.0]
    return {
        "saved_at_step": saved,
        "steps_lost": len(clock) - 1,
        "seconds_lost": round(clock[-1] - clock[0], 3),
        "seconds_allowed": round(CHECKPOINT_SECONDS + gaps[0] + gaps[-1] + 0.01, 3),
    }


def curve(run: PlannedRun) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in run.dir.metrics()]


# --- the two sweeps ---------------------------------------------------------------------------------------------


def plan_in(folder: Path, text: str) -> Plan:
    folder.mkdir(parents=True)
    for old, new in CHANGED.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "sweep.yaml"
    path.write_text(text + f"root: {folder / 'state'}\n")
    sweep, document = load(path)
    sweep, source = open_source(sweep, document)
    return make_plan(sweep, document, source)


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory, sweep_text: str) -> Plan:
    """The same sweep, left alone."""
    plan = plan_in(tmp_path_factory.mktemp("unharmed") / "it", sweep_text)
    assert Ordeal(plan, "local").survive([]) == 0
    return plan


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Short, because sockets lie in it; Ray leaves its sessions behind."""
    folder = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_killed_twenty_times_a_sweep_ends_as_if_it_never_was(
    tmp_path: Path, sweep_text: str, unharmed: Plan, stored: Stored
) -> None:
    planned = kills(20, seed=0, starting=6, closing=2)
    undergo(tmp_path, sweep_text, unharmed, stored, planned, "local", {})


@pytest.mark.ray
def test_killed_on_ray_a_sweep_ends_as_if_it_never_was(
    tmp_path: Path, sweep_text: str, unharmed: Plan, stored: Stored, ray_folder: Path
) -> None:
    planned = kills(4, seed=1, starting=1, closing=0)
    undergo(tmp_path, sweep_text, unharmed, stored, planned, "ray", {"RAY_TMPDIR": str(ray_folder)})


def undergo(
    folder: Path,
    text: str,
    unharmed: Plan,
    stored: Stored,
    planned: list[Kill],
    launcher: str,
    environment: dict[str, str],
) -> None:
    """All the kills, over as many sweeps as that takes: on a fast machine one may end before the last of them."""
    began, ordeals, left = time.monotonic(), [], planned
    while left or not ordeals:
        ordeal = Ordeal(plan_in(folder / str(len(ordeals)), text), launcher, environment)
        ordeals.append(ordeal)
        left = left[ordeal.survive(left) :]
        hold(ordeal, unharmed, stored)
    figures = {
        "launcher": launcher,
        "kills": dict(Counter(kill.at for kill in planned)),
        "sweeps": len(ordeals),
        "runs": sum(len(ordeal.plan.runs) for ordeal in ordeals),
        "runs finished before a later kill": sum(len(ordeal.finished) for ordeal in ordeals),
        "runs redone": 0,  # as `hold` has seen
        "attempts": sum(len(begun(run)) for ordeal in ordeals for run in ordeal.plan.runs),
        "runs hit under way": sum(len(ordeal.lost) for ordeal in ordeals),
        "steps lost": sum(line["steps_lost"] for ordeal in ordeals for line in ordeal.lost),
        "steps lost at most by a run": max(line["steps_lost"] for ordeal in ordeals for line in ordeal.lost),
        "seconds lost at most by a run": max(line["seconds_lost"] for ordeal in ordeals for line in ordeal.lost),
        "checkpoint interval in seconds": CHECKPOINT_SECONDS,
        "seconds that runs outlived their driver": round(max(ordeal.outlived for ordeal in ordeals), 2),
        "MLflow points": sum(stored(ordeal.plan.root)["points"] for ordeal in ordeals),
        "MLflow duplicates": 0,
        "seconds": round(time.monotonic() - began, 1),
        "lost": [line for ordeal in ordeals for line in ordeal.lost],
    }
    print(json.dumps({key: value for key, value in figures.items() if key != "lost"}, indent=1))
    if wanted := os.environ.get("SCALING_KILL_FIGURES"):
        Path(wanted).mkdir(parents=True, exist_ok=True)
        (Path(wanted) / f"kill-{launcher}.json").write_text(json.dumps(figures, indent=1))


# --- what must hold after it ------------------------------------------------------------------------------------


def begun(run: PlannedRun) -> list[float]:
    return [line["began"] for line in run.dir.attempts() if "began" in line]


def hold(ordeal: Ordeal, unharmed: Plan, stored: Stored) -> None:
    plan = ordeal.plan
    assert len(plan.runs) == len(unharmed.runs) == N_RUNS
    for run, same in zip(plan.runs, unharmed.runs, strict=True):
        assert run.dir.run == same.dir.run
        assert run.done
        assert curve(run) == curve(same), f"{run.point} took another way"
        for fingerprint in run.tasks:
            assert run.dir.probes(fingerprint) == same.dir.probes(fingerprint)
        if (same.dir.path / "encoder.pt").exists():
            ours, theirs = (torch.load(r.dir.path / "encoder.pt", weights_only=True) for r in (run, same))
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert "ended" in run.dir.attempts()[-1], f"nobody accounts for the last attempt at {run.point}"
        over = max(results(run).values()) / 1e9
        assert max(begun(run)) < over, f"{run.point} began again after it was over"
    for run_name, files in ordeal.finished.items():
        run = next(run for run in plan.runs if run.dir.run == run_name)
        assert results(run) == files, f"{run.point} was written again"
    assert all(line["seconds_lost"] <= line["seconds_allowed"] for line in ordeal.lost), ordeal.lost
    ends = Counter(event["run"] for event in read_lines(ordeal.events) if event["kind"] == "done")
    assert max(ends.values()) == 1
    assert {run: stored(plan.root)[run] for run in ("runs", "running", "duplicates")} == {
        "runs": {run.dir.run: 1 for run in plan.runs},
        "running": [],
        "duplicates": [],
    }
    for run in plan.runs:
        sent = sorted(stored(plan.root)["losses"].get(run.dir.run, []))
        assert sent == [(line["step"], line["loss"]) for line in run.dir.metrics()]
