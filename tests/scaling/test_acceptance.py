"""The orchestrator's acceptance tests, on real processes and directories where that is what counts.

 1 killed drivers             test_kill
 2 failures                   here: what ends a run; test_scheduler: counts, backoff, breaker; test_worker: classes
 3 same sweep, no work        here: a sweep written in another way; test_end_to_end, test_grid (golden fingerprints)
 4 two drivers                here: two commands at once; test_driver
 5 changes while it runs      here: paused, edited, cancelled, budget; test_driver, test_scheduler
 6 what can never run         here: a GPU that is not there
 7 MLflow down or deleted     here: a store that is down, a database deleted; test_tracking: at every call
 8 fencing                    here: a worker whose lease is taken; test_worker: every write
 9 two thousand runs          here: each once, counted, exported; the benchmarks time it
10 ranks                      here: processes of a YAML; test_parallel, test_launch
11 no home, no network        here: local and Ray
12 order and starvation       test_scheduler: the cheapest first, a big run is not starved
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scaling.cli import main
from scaling.config import load
from scaling.control import sweep_folder
from scaling.driver import Driver
from scaling.errors import RunFailed
from scaling.failures import EXIT_FENCED, POLICIES
from scaling.launch.launcher import Ended, LaunchOptions, Node, Order, Resources
from scaling.launch.local import LocalLauncher
from scaling.live import View
from scaling.plan import Plan, make_plan, open_source
from scaling.planned import Job, PlannedRun
from scaling.records import ProbeResult, RunRecord
from scaling.rundir import RunDir, read_lines
from scaling.scheduler import JITTER

GUARD = 200.0
"""Seconds within which anything must have happened, however busy the machine."""
ONE = """\
name: one
grid: {model: [vit_atto], algorithm: [mae], n_images: [16]}
data: {source: phantoms, image_size: 32, n_train: 64, n_val: 64, n_test: 64}
encoder: {patch_size: 8}
pretrain: {images_seen: 1600, batch_size: 16, precision: fp32}
probe: {tasks: [ct_lesion], bootstrap: 5, max_train: 16, linear: null}
baselines: []
retry: {preempted: 2, hang_after: 1h}
"""
"""A run of a hundred steps, each logged."""

Write = Callable[..., Path]


def until(condition: Callable[[], object], seconds: float = GUARD) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.02)


def call(*arguments: str | Path) -> tuple[int, str]:
    """`scaling ARGUMENTS` in this process: exit code, and what it said."""
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main([str(argument) for argument in arguments])
    return code, said.getvalue()


def command(sweep: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "scaling.cli", "run", str(sweep), "--launcher", "local", "--no-report", *more]


def started(sweep: Path, log: Path, *more: str) -> subprocess.Popen[bytes]:
    with open(log, "w") as file:
        return subprocess.Popen(command(sweep, *more), stdout=file, stderr=file)


def plan_of(path: Path) -> Plan:
    sweep, document = load(path)
    sweep, source = open_source(sweep, document)
    return make_plan(sweep, document, source)


def begun(run: PlannedRun) -> int:
    return sum("began" in line for line in run.dir.attempts())


def events(plan: Plan) -> list[dict[str, Any]]:
    return list(read_lines(sweep_folder(plan.root, plan.sweep.name) / "events.jsonl"))


# --- 2: what ends a run, and what follows -----------------------------------------------------------------------

FASTER = 30.0
"""The driver's clock runs so much faster than ours, so that its real waits are short."""


class Kept:
    """A launcher that outlives its driver, so that one slot, once warm, serves many tests."""

    def __init__(self, launcher: LocalLauncher) -> None:
        self.launcher = launcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self.launcher, name)

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalLauncher]:
    made = LocalLauncher(LaunchOptions(root=tmp_path_factory.mktemp("root")))
    yield made
    made.close()


@dataclass
class Endured:
    plan: Plan
    code: int
    said: str
    waits: list[float]
    """Seconds of the driver before each further attempt."""
    efforts: list[dict[str, Any]]
    """What each attempt was given, as its history says."""

    @property
    def run(self) -> PlannedRun:
        return self.plan.runs[0]

    @property
    def outcomes(self) -> list[str]:
        return [line["outcome"] for line in self.run.dir.attempts() if "ended" in line]


Endure = Callable[..., Endured]


@pytest.fixture
def endure(launcher: LocalLauncher, sweep_file: Write, monkeypatch: pytest.MonkeyPatch) -> Endure:
    """Drives a sweep of one run while `harm(pid, run directory)` is done to its first `times` attempts in mid-training;
    `times=0` does none."""
    monkeypatch.setattr("scaling.driver.freeze", lambda root: None)  # a slot belongs to a folder of code

    def carry_out(harm: Callable[[int, RunDir], object], times: int, *replacements: tuple[str, str]) -> Endured:
        plan, words = plan_of(sweep_file(*replacements, text=ONE)), StringIO()
        driver = Driver(
            plan.root,
            Kept(launcher),
            View(Console(file=words, width=200)),
            lambda _: None,
            now=lambda: FASTER * time.monotonic(),
        )
        sweeping = driver.adopt(plan)
        over = threading.Event()

        def do_harm() -> None:
            run, hit = plan.runs[0].dir, set[str]()
            while len(hit) < times and not over.wait(0.02):
                beat, last, history = run.last_beat(), run.last_metrics(), run.attempts()
                if beat is None or beat.phase != "pretrain" or beat.token in hit or "began" not in history[-1]:
                    continue
                if last and last["time"] > history[-1]["began"] and last["step"] >= 5:
                    hit.add(beat.token)
                    harm(beat.pid, run)

        thread = threading.Thread(target=do_harm)
        thread.start()
        try:
            driver.carry_out()
        finally:
            over.set()
            thread.join()
        retries = [event.get("delay", 0.0) for event in events(plan) if event["kind"] == "retry"]
        efforts = [line for line in plan.runs[0].dir.attempts() if "began" in line]
        return Endured(plan, sweeping.exit_code(), words.getvalue(), retries, efforts)

    return carry_out


def send(number: int) -> Callable[[int, RunDir], None]:
    return lambda pid, run: os.kill(pid, number)


def print_and_die(text: str) -> Callable[[int, RunDir], None]:
    def harm(pid: int, run: RunDir) -> None:
        os.kill(pid, signal.SIGSTOP)
        with open(run.path / "log.txt", "a") as log:
            log.write(text + "\n")
        os.kill(pid, signal.SIGKILL)

    return harm


def fill_disk(pid: int, run: RunDir) -> None:
    """To the run it is as if the disk were full: no file of it may get longer than it is."""
    size = (run.path / "metrics.jsonl").stat().st_size
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def backoffs(kind: str, n: int) -> list[Any]:
    policy = POLICIES[kind]  # type: ignore[index]
    return [pytest.approx(policy.delay(i + 1), rel=JITTER + 1e-3) for i in range(n)]


HARM: dict[str, tuple[Callable[[int, RunDir], object], str, int]] = {
    "killed": (send(signal.SIGKILL), "preempted", 2),
    "printed that the GPU's memory ran out": (
        print_and_die("CUDA out of memory. Tried to allocate 2 GiB"),
        "gpu_oom",
        2,
    ),
    "printed that the memory ran out": (print_and_die("DefaultCPUAllocator: can't allocate memory"), "host_oom", 2),
    "a full disk": (fill_disk, "io", 2),
    "crashed": (send(signal.SIGSEGV), "error", 0),
}
"""What happens to a run -> how, the class it must be given, the further attempts of that class."""


@pytest.mark.parametrize(("harm", "kind", "tries"), HARM.values(), ids=HARM)
def test_what_ends_a_run_has_its_class_its_count_and_its_backoff(
    endure: Endure, harm: Callable[[int, RunDir], object], kind: str, tries: int
) -> None:
    gone = endure(harm, 99)
    assert (gone.code, gone.outcomes) == (3, [kind] * (tries + 1))
    assert gone.waits == backoffs(kind, tries)
    failure = gone.run.dir.failure()
    assert failure is not None
    assert failure["kind"] == kind
    assert f"failed {gone.run.point} ({gone.run.dir.run}), {kind}:" in gone.said
    assert begun(gone.run) == tries + 1
    if kind == "gpu_oom":
        assert [effort["n_micro"] for effort in gone.efforts] == [1, 2, 4]
    if kind == "host_oom":
        first, second, third = (effort["memory"] for effort in gone.efforts)
        assert 0 == first < second < third


def test_a_run_that_is_only_hit_once_ends_well(endure: Endure) -> None:
    gone = endure(send(signal.SIGKILL), 1)
    assert (gone.code, gone.outcomes) == (0, ["preempted", "done"])
    assert [line["step"] for line in gone.run.dir.metrics()] == list(range(1, 101))


def test_a_run_asked_to_go_by_a_batch_system_saves_and_loses_no_step(endure: Endure) -> None:
    seen: list[int] = []

    def ask(pid: int, run: RunDir) -> None:
        os.kill(pid, signal.SIGTERM)
        until(lambda: "checkpoint.pt" in os.listdir(run.path))
        seen.append(int((run.last_metrics() or {})["step"]))

    gone = endure(ask, 1)
    assert (gone.code, gone.outcomes) == (0, ["preempted", "done"])
    assert gone.waits == backoffs("preempted", 1)
    log = (gone.run.dir.path / "log.txt").read_text()
    assert f"asked to stop; saved at step {seen[0]} of 100" in log
    assert [line["step"] for line in gone.run.dir.metrics()] == list(range(1, 101))


@pytest.mark.slow
def test_a_run_whose_slot_is_killed_is_preempted_and_another_slot_takes_it(endure: Endure) -> None:
    gone = endure(lambda pid, run: os.kill(parent(pid), signal.SIGKILL), 1)
    assert (gone.code, gone.outcomes) == (0, ["preempted", "done"])


def test_a_run_that_hangs_is_ended_and_tried_once_more(endure: Endure) -> None:
    gone = endure(send(signal.SIGSTOP), 99, ("hang_after: 1h", "hang_after: 90s"))
    assert (gone.code, gone.outcomes) == (3, ["hang", "hang"])
    assert [event["kind"] for event in events(gone.plan)] == ["started", "hang", "retry", "started", "hang", "failed"]
    assert f"failed {gone.run.point} ({gone.run.dir.run}), hang: no sign of life for 90 s" in gone.said
    failure = gone.run.dir.failure()
    assert failure is not None
    assert failure["kind"] == "hang"


def test_a_loss_that_is_not_a_number_is_a_result(endure: Endure) -> None:
    wild = ("baselines: []", "baselines: []\nalgorithms: {mae: {lr: {base: 1.0e+30, rule: constant}}}")
    gone = endure(send(0), 0, wild)
    assert (gone.code, gone.outcomes) == (0, ["diverged"])
    record = gone.run.dir.record()
    assert record is not None
    assert record.status == "diverged"
    assert gone.run.dir.failure() is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A root on a disk of its own."""
    root = tmp_path / "state"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(root)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk needs root")
    yield root
    subprocess.run(["umount", "--lazy", str(root)], check=True)


def test_a_disk_that_fills_up_loses_nothing_and_the_driver_says_so(endure: Endure, small_disk: Path) -> None:
    filler = small_disk / "of somebody else"

    def fill(pid: int, run: RunDir) -> None:
        with open(filler, "wb", buffering=0) as file:
            for _ in range(30):  # again and again: a draft that failed gives back what it took
                with suppress(OSError):
                    while True:
                        file.write(bytes(4096))
                time.sleep(0.1)

    often = ("precision: fp32", "precision: fp32, checkpoint_minutes: 0")
    with pytest.raises(RunFailed, match=r"No space left on device.*give the same command again"):
        endure(fill, 1, often)
    filler.unlink()
    gone = endure(send(0), 0, often)
    assert gone.code == 0
    assert [line["step"] for line in gone.run.dir.metrics()] == list(range(1, 101))


# --- 8: fencing -------------------------------------------------------------------------------------------------


def contents(run: RunDir) -> dict[str, bytes]:
    """All files but drafts, and the log, where a fenced attempt may say that it was."""
    files = (path for path in run.path.rglob("*") if path.is_file() and path.name != "log.txt" and path.name[0] != ".")
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


def test_a_worker_whose_lease_is_taken_midway_ends_and_changes_nothing(
    launcher: LocalLauncher, sweep_file: Write
) -> None:
    plan = plan_of(sweep_file(("precision: fp32", "precision: fp32, checkpoint_minutes: 0"), text=ONE))
    run = plan.runs[0].dir
    run.lease("old")
    (run.path / "job.json").write_text(plan.job(plan.runs[0]).model_dump_json())
    launcher.submit(Order(path=run.path.resolve(), token="old", resources=Resources(), node="local"))
    ended: list[Ended] = []
    until(lambda: ended.extend(launcher.wait(0)) or (run.last_metrics() or {"step": 0})["step"] > 10)
    run.lease("new")
    after = contents(run)
    until(lambda: ended.extend(launcher.wait(0.1)) or ended)
    assert [(one.token, one.code) for one in ended] == [("old", EXIT_FENCED)]
    assert contents(run) == after
    assert "checkpoint.pt" in after
    assert "another attempt" in (run.path / "log.txt").read_text()


# --- 3: the same sweep ------------------------------------------------------------------------------------------

SMALL = """\
name: small
grid:
  model: [vit_atto]
  algorithm: [mae]
  n_images: [16, 32]
  mixture: [all, ct_only]
mixtures: {all: natural, ct_only: {ct: 1}}
data: {source: phantoms, image_size: 32, n_train: 64, n_val: 64, n_test: 64}
encoder: {patch_size: 8}
pretrain: {images_seen: 1600, batch_size: 16, precision: fp32}
probe: {tasks: [ct_lesion], bootstrap: 5, max_train: 16, linear: null}
baselines: [random]
"""


def test_a_sweep_written_in_another_way_has_nothing_to_do(sweep_file: Write) -> None:
    path = sweep_file(("images_seen: 1600", "images_seen: 64"), text=SMALL)
    quiet = ("--launcher", "inline", "--tracking", "none", "--no-report")
    assert call("run", path, *quiet)[0] == 0
    plan = plan_of(path)
    before = {file: file.stat().st_mtime_ns for file in plan.root.glob("runs/**/*")}
    again = (
        path.read_text()
        .replace("[16, 32]", "[32, 16]  # the other way round")
        .replace("[all, ct_only]", "[ct_only, all]")
    )
    again = (
        again.replace("name: small", "# a comment\nname: renamed\nquestion: The same?") + "schedule: {priority: 7}\n"
    )
    path.write_text(again + "budget: {cpu_hours: 9}\nresources: {cpus: 2}\n")
    assert {run.dir.run for run in plan_of(path).runs} == {run.dir.run for run in plan.runs}
    code, said = call("run", path, *quiet)
    assert (code, "nothing to do" in said) == (0, True)
    assert {file: file.stat().st_mtime_ns for file in plan.root.glob("runs/**/*")} == before
    assert all(begun(run) == 1 for run in plan.runs)
    assert events(plan_of(path)) == []


# --- 4 and 5: several commands at once --------------------------------------------------------------------------


def test_two_commands_on_one_root_do_each_run_once(sweep_file: Write, tmp_path: Path) -> None:
    path = sweep_file(("images_seen: 1600", "images_seen: 64"), text=SMALL)
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    both = [started(path, log, "--tracking", "none") for log in logs]
    assert [process.wait(GUARD) for process in both] == [0, 0], [log.read_text() for log in logs]
    assert sum("carries this sweep out too; watching" in log.read_text() for log in logs) == 1
    plan = plan_of(path)
    assert all(run.done for run in plan.runs)
    assert [begun(run) for run in plan.runs] == [1] * 5


@pytest.mark.slow
def test_a_sweep_is_paused_edited_and_cut_down_while_it_runs(sweep_file: Write, tmp_path: Path) -> None:
    path = sweep_file(text=SMALL)
    plan, of_it = plan_of(path), ("small", "--root", tmp_path / "state")
    first = started(path, tmp_path / "first.log", "--tracking", "none")

    def count(kind: str) -> int:
        return sum(event["kind"] == kind for event in events(plan))

    until(lambda: count("started") or first.poll() is not None)
    assert call("pause", *of_it)[0] == 0
    until(lambda: (tmp_path / "state/sweeps/small/live.json").exists() and 0 < count("started") == count("done"))
    time.sleep(2.5)  # several looks of the driver
    assert count("started") == count("done") < 5, "a paused sweep starts nothing"
    victim = next(run for run in plan.runs if not begun(run))
    assert call("cancel", "small", victim.dir.run[:8], *of_it[1:])[0] == 0
    path.write_text(path.read_text().replace("[16, 32]", "[16, 32, 48]"))
    second = started(path, tmp_path / "second.log", "--tracking", "none")
    assert (first.wait(GUARD), second.wait(GUARD)) == (0, 0), (tmp_path / "first.log").read_text()
    edited = plan_of(path)
    assert len(edited.runs) == len(plan.runs) + 2
    assert {run.dir.run: begun(run) for run in edited.runs} == {
        run.dir.run: int(run.dir.run != victim.dir.run) for run in edited.runs
    }
    assert not victim.done

    assert call("resume", "small", victim.dir.run, *of_it[1:])[0] == 0
    assert call("run", path, "--launcher", "inline", "--tracking", "none", "--no-report")[0] == 0
    assert all(run.done and begun(run) == 1 for run in edited.runs)


def test_a_spent_budget_starts_nothing_new_and_more_of_it_goes_on(sweep_file: Write) -> None:
    path = sweep_file(("baselines: [random]", "baselines: []\nbudget: {cpu_hours: 1.0e-5}"), text=SMALL)
    quiet = ("--launcher", "inline", "--tracking", "none", "--no-report")
    code, said = call("run", path, *quiet)
    plan = plan_of(path)
    assert (code, [begun(run) for run in plan.runs].count(1)) == (4, 1), said
    assert "the budget is spent" in said
    assert sum(run.done for run in plan.runs) == 1  # what ran was let finish
    code, said = call("run", path, *quiet)  # nobody is there to be asked
    assert (code, "raise the budget" in said) == (4, True)
    assert sum(begun(run) for run in plan.runs) == 1
    path.write_text(path.read_text().replace("1.0e-5", "1"))
    assert call("run", path, *quiet)[0] == 0
    assert all(run.done and begun(run) == 1 for run in plan.runs)


# --- 6: what can never run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("launcher_name", ["local", "ray"])
def test_a_gpu_that_is_not_there_is_refused_with_what_there_is(
    sweep_file: Write, tmp_path: Path, launcher_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = sweep_file(("baselines: [random]", "baselines: []\nresources: {gpus: 64}"), text=SMALL)
    code, said = call("run", path, "--launcher", launcher_name, "--no-report")
    assert code == 2
    assert "1 problem, nothing was started:" in said
    assert "4 runs, such as vit_atto/mae/16xall/s0, want 1 CPU, 64 GPUs, which no node has" in said
    assert f"{os.uname().nodename}: " in said  # the table of nodes
    assert "CPU" in said.rsplit(f"{os.uname().nodename}: ", 1)[1]
    assert not list((tmp_path / "state").glob("runs/*"))
    assert not list((tmp_path / "state").glob("sweeps/*/events.jsonl"))


# --- 7: MLflow --------------------------------------------------------------------------------------------------

Stored = Callable[[Path], dict[str, Any]]


def assert_stored_whole(plan: Plan, found: dict[str, Any]) -> None:
    assert found["runs"] == {run.dir.run: 1 for run in plan.runs}
    assert (found["running"], found["duplicates"]) == ([], [])
    for run in plan.runs:
        assert found["losses"].get(run.dir.run, []) == [(line["step"], line["loss"]) for line in run.dir.metrics()]


def test_a_store_that_is_down_costs_no_run_and_gets_all_by_sync(sweep_file: Write, stored: Stored) -> None:
    path = sweep_file(("images_seen: 1600", "images_seen: 64"), text=SMALL)
    plan = plan_of(path)
    (plan.root / "mlflow.db").mkdir(parents=True)  # where the database is to be
    code, said = call("run", path, "--launcher", "inline", "--no-report")
    assert code == 0, said
    assert "runs go on, `scaling sync` sends what is missing" in said
    assert all(run.done for run in plan.runs)
    (plan.root / "mlflow.db").rmdir()
    code, said = call("sync", "small", "--root", plan.root)
    assert (code, "5 runs are as their directories say" in said) == (0, True), said
    assert_stored_whole(plan, stored(plan.root))


@pytest.mark.slow
def test_a_database_deleted_midway_is_whole_again_by_sync(sweep_file: Write, tmp_path: Path, stored: Stored) -> None:
    path = sweep_file(text=SMALL)
    plan, database = plan_of(path), tmp_path / "state" / "mlflow.db"
    process = started(path, tmp_path / "log")
    until(lambda: (database.exists() and any(run.done for run in plan.runs)) or process.poll() is not None)
    assert process.poll() is None, (tmp_path / "log").read_text()
    for file in database.parent.glob("mlflow.db*"):
        file.unlink()
    assert process.wait(GUARD) == 0, (tmp_path / "log").read_text()
    assert all(run.done and begun(run) == 1 for run in plan.runs)
    assert call("sync", "small", "--root", plan.root)[0] == 0
    assert_stored_whole(plan, stored(plan.root))


# --- 9: many runs -----------------------------------------------------------------------------------------------


class Instantly:
    """A launcher whose runs are over as soon as somebody waits for them; of each size one diverges and one fails."""

    def __init__(self) -> None:
        self.going: list[Order] = []
        self.started: list[str] = []

    def nodes(self) -> list[Node]:
        return [Node(name="here", host="here", cpus=50)]

    def submit(self, order: Order) -> None:
        self.going.append(order)
        self.started.append(order.path.name)

    def wait(self, timeout: float) -> list[Ended]:
        over, self.going = self.going, []
        return [Ended(path=order.path, token=order.token, code=finish(RunDir(order.path))) for order in over]

    def kill(self, path: Path) -> None: ...

    def close(self) -> None: ...


DIVERGES, FAILS = 7, 9
"""Seeds."""


def finish(run: RunDir) -> int:
    job = Job.model_validate_json((run.path / "job.json").read_text())
    if job.spec.seed == FAILS:
        run.fail("error", f"ValueError: {run.run}")  # each its own, so that the rest goes on
        return 1
    (run.path / "probes").mkdir()
    for fingerprint, task in job.tasks.items():
        found = ProbeResult(
            task=task["name"],
            modality=task["modality"],
            probe="knn",
            auc=0.5 + job.spec.seed / 1000,
            auc_se=0.01,
            accuracy=0.5,
            accuracy_se=0.01,
            chance_auc=0.5,
            chance_accuracy=0.5,
            n_test=64,
        )
        (run.path / "probes" / f"{fingerprint}.json").write_text(json.dumps([asdict(found)]))
    record = RunRecord(
        run=run.run,
        status="diverged" if job.spec.seed == DIVERGES else "done",
        n_params=1,
        n_params_total=1,
        images_seen=64,
        train_flops=1.0,
        train_seconds=1.0,
        train_loss=0.1,
    )
    (run.path / "result.json").write_text(json.dumps(record.to_json()))
    return 0


@pytest.mark.slow
def test_two_thousand_runs_are_each_carried_out_counted_and_exported_once(
    sweep_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # this is about counts
    sizes, seeds = list(range(25, 65)), list(range(50))
    path = sweep_file(("n_images: [16]", f"n_images: {sizes}, seed: {seeds}"), text=ONE)
    plan, launcher = plan_of(path), Instantly()
    assert len({run.dir.run for run in plan.runs}) == len(plan.runs) == 2000
    plan.save()
    driver = Driver(plan.root, launcher, View(Console(file=StringIO())), lambda _: None)
    sweeping = driver.adopt(plan)
    driver.carry_out()
    assert sorted(launcher.started) == sorted(run.dir.run for run in plan.runs)
    assert sweeping.exit_code() == 3
    code, said = call("status", "one", "--root", plan.root, "--json")
    assert (code, json.loads(said)["counts"]) == (3, {"done": 1920, "diverged": 40, "failed": 40})
    failures = json.loads(call("failures", "one", "--root", plan.root, "--json")[1])["failures"]
    assert sum(group["count"] for group in failures) == 40
    code, said = call("export", "one", tmp_path / "all.csv", "--root", plan.root)
    rows = pd.read_csv(tmp_path / "all.csv")
    read_out = rows[rows["auc"].notna()]
    assert (code, len(read_out), read_out["run"].nunique()) == (0, 1920, 1920)
    assert set(read_out["seed"]) == set(seeds) - {DIVERGES, FAILS}


# --- 10: ranks --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_of_a_yaml_are_ranks_with_the_curve_of_one(endure: Endure) -> None:
    losses = []
    for n in (1, 2):
        gone = endure(send(0), 0, ("baselines: []", f"baselines: []\nresources: {{processes: {n}}}"))
        assert (gone.code, gone.outcomes) == (0, ["done"])
        noted = json.loads((gone.run.dir.path / "provenance" / "1.json").read_text())
        assert noted["n_ranks"] == n
        losses.append([line["loss"] for line in gone.run.dir.metrics()])
        shutil.rmtree(gone.plan.root)
    assert len(losses[0]) == 100
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


# --- 11: no home and no network ---------------------------------------------------------------------------------

LONELY = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""Runs a command where there is no network but the machine itself."""


@pytest.mark.slow
@pytest.mark.parametrize("launcher_name", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_without_a_home_and_a_network_a_sweep_is_done(
    sweep_file: Write, tmp_path: Path, launcher_name: str, stored: Stored
) -> None:
    path = sweep_file(("images_seen: 1600", "images_seen: 64"), text=SMALL)
    alone = (
        LONELY
        if shutil.which("unshare") and subprocess.run([*LONELY, "true"], capture_output=True).returncode == 0
        else []
    )
    nowhere = "http://127.0.0.1:9"
    short = tempfile.mkdtemp(prefix="r", dir="/tmp")  # Ray's sockets lie in it
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "MPL", "RAY_", "MLFLOW"))
    }
    environment |= {"HOME": "/proc/nowhere", "RAY_TMPDIR": short, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment |= {"http_proxy": nowhere, "https_proxy": nowhere, "no_proxy": "127.0.0.1,localhost"}
    words = ["scaling.cli", "run", str(path), "--launcher", launcher_name, "--out", str(tmp_path / "report")]
    try:
        done = subprocess.run(
            [*alone, sys.executable, "-m", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=GUARD,
        )
    finally:
        shutil.rmtree(short, ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = plan_of(path)
    assert all(run.done and begun(run) == 1 for run in plan.runs)
    assert_stored_whole(plan, stored(plan.root))
    assert (tmp_path / "report" / "report.html").exists()
