"""MLflow exactly once: whatever is killed, deleted or down, each run is there once, with each of its points once.

Run directories are made up by hand; the stores are real. As a script: `main`, which kills itself.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from scaling.config import Tracking, load
from scaling.errors import SpecError
from scaling.plan import Plan, PlannedRun, make_plan, open_source
from scaling.records import ProbeResult, RunRecord
from scaling.rundir import RunDir, append_line, write_json

SWEEP = """\
name: tiny
question: Does the path hold?
grid:
  model: [vit_atto]
  algorithm: [mae]
  n_images: [16, 32]
data: {source: phantoms, image_size: 32, n_train: 64, n_val: 64, n_test: 64}
encoder: {patch_size: 8}
pretrain: {images_seen: 128, batch_size: 16, precision: fp32}
probe: {tasks: [ct_lesion, smear_cells], bootstrap: 20, linear: {n_c: 2}}
baselines: []
"""
WRITES = {
    *("create_experiment", "create_run", "log_batch", "log_inputs", "log_artifact", "log_artifacts", "log_text"),
    *("update_run", "set_terminated", "delete_tag", "set_tag", "delete_run", "restore_run", "restore_experiment"),
}


class Killed(BaseException):
    """Stands for the end of the process."""


class Faulty:
    """A client that counts the calls of all clients and fails at one of them, before or after it takes effect."""

    calls: list[str]
    at: int | None = None
    after: bool = False
    fail: Callable[[], None]

    def __init__(self, uri: str) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(uri)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            Faulty.calls.append(name)
            here = len(Faulty.calls) - 1 == Faulty.at
            if here and not Faulty.after:
                Faulty.fail()
            result = method(*args, **kwargs)
            if here:
                Faulty.fail()
            return result

        return call

    @classmethod
    def reset(cls, at: int | None = None, *, after: bool = False, fail: Callable[[], None] | None = None) -> None:
        cls.calls, cls.at, cls.after = [], at, after
        if fail is not None:
            cls.fail = staticmethod(fail)


def tracker(plan: Plan) -> Any:
    from scaling.tracking import Tracker

    return Tracker(plan)


# --- run directories made up ----------------------------------------------------------------------------------------


def plan_at(folder: Path, *, name: str = "tiny", uri: str | None = None, bootstrap: int = 20) -> Plan:
    """Two runs with two tasks each; the root is `folder`/state whatever the sweep's name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    text = SWEEP.replace("name: tiny", f"name: {name}").replace("bootstrap: 20", f"bootstrap: {bootstrap}")
    text += f"root: {folder / 'state'}\n" + (f"tracking: {{uri: '{uri}'}}\n" if uri else "")
    path.write_text(text)
    sweep, document = load(path)
    sweep, source = open_source(sweep, document)
    return make_plan(sweep, document, source)


def moved(plan: Plan, root: Path) -> Plan:
    runs = tuple(dataclasses.replace(run, dir=RunDir(root / "runs" / run.dir.run)) for run in plan.runs)
    return dataclasses.replace(plan, root=root, runs=runs)


def at_store(plan: Plan, uri: str, experiment: str) -> Plan:
    tracking = Tracking(uri=uri, experiment=experiment)
    return dataclasses.replace(plan, sweep=plan.sweep.model_copy(update={"tracking": tracking}))


def train(run: PlannedRun, first: int, last: int, *, at: float | None = 1e9) -> None:
    """Logs steps as a worker does; `at` is the time of step 0, unix seconds; None writes none, as workers once did."""
    run.dir.path.mkdir(parents=True, exist_ok=True)
    run.dir.keep_metrics_until(first - 1)
    for step in range(first, last + 1):
        line = {"step": step, "images_seen": step * 16, "seconds": step / 10, "loss": 1 / step, "lr": 0.1}
        line |= {"system/rss_gb": 0.5 + step / 100} | ({} if at is None else {"time": at + step})
        append_line(run.dir.path / "metrics.jsonl", line)


def begin(run: PlannedRun, sweep: str = "tiny") -> None:
    attempt = run.dir.lease("token")
    run.dir.log_attempt({"attempt": attempt, "began": 1e9, "sweep": sweep})


def settle(run: PlannedRun, status: str = "done") -> None:
    """The record, and unless it diverged the read-outs."""
    record = RunRecord(
        run=run.dir.run,
        status=status,
        n_params=10,
        n_params_total=12,
        images_seen=128,
        train_flops=1e9,
        train_seconds=2.5,
        train_loss=0.125 if status == "done" else None,
        reason="" if status == "done" else "the loss became infinite",
    )
    write_json(run.dir.path / "result.json", record.to_json())
    if status == "done":
        probe(run)


def probe(run: PlannedRun, auc: float = 0.75) -> None:
    for fingerprint, info in run.tasks.items():
        result = ProbeResult(
            task=info.name,
            modality=info.modality,
            probe="linear",
            auc=auc,
            auc_se=0.01,
            accuracy=0.5,
            accuracy_se=None,
            chance_auc=0.5,
            chance_accuracy=0.5,
            n_test=64,
        )
        write_json(run.dir.path / "probes" / f"{fingerprint}.json", [dataclasses.asdict(result)])


# --- what must hold -------------------------------------------------------------------------------------------------


def contents(plan: Plan) -> tuple[list[Any], list[Any], Any]:
    """Runs and sweeps that the store has, the trash included, and the client."""
    from mlflow.entities import ViewType
    from mlflow.tracking import MlflowClient

    from scaling.tracking.store import _address, _database, _inode

    database = _database(plan.tracking_uri, plan.root)
    client = MlflowClient(_address(database, _inode(database)) if database else plan.tracking_uri)
    found = client.get_experiment_by_name(plan.sweep.tracking.experiment)
    runs = list(client.search_runs([found.experiment_id], "", ViewType.ALL, 1000))
    return (
        [run for run in runs if "scaling.run" in run.data.tags],
        [run for run in runs if "scaling.sweep" in run.data.tags],
        client,
    )


def mirrored(plan: Plan, *, trash: bool = False) -> dict[str, Any]:
    """Asserts all that must hold of a mirror of `plan`; its MLflow runs by fingerprint."""
    runs, sweeps, client = contents(plan)
    if trash:  # a request that took effect late may have left an empty run, which was thrown away
        runs = [run for run in runs if run.info.lifecycle_stage == "active"]
        sweeps = [run for run in sweeps if run.info.lifecycle_stage == "active"]
    began = [run for run in plan.runs if run.dir.last_metrics() or run.dir.record() or run.dir.failure()]
    assert sorted(run.data.tags["scaling.run"] for run in runs) == sorted(run.dir.run for run in began)
    assert len({run.data.tags["scaling.sweep"] for run in sweeps}) == len(sweeps)
    assert "RUNNING" not in {run.info.status for run in [*runs, *sweeps]}
    by_fingerprint = {run.data.tags["scaling.run"]: run for run in runs}
    for planned in began:
        run, lines = by_fingerprint[planned.dir.run], list(planned.dir.metrics())
        points = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        for key, history in points.items():
            assert len({point.step for point in history}) == len(history), f"{key}: a step is there twice"
        for key, name in [("loss", "train/loss"), ("lr", "train/lr"), ("system/rss_gb", "system/rss_gb")]:
            sent = sorted((point.step, point.value) for point in points.get(name, []))
            assert sent == [(line["step"], line[key]) for line in lines]
        record = planned.dir.record()
        if record is not None:
            assert run.data.metrics["train_seconds"] == record.train_seconds
        for fingerprint in planned.tasks:
            for result in planned.dir.probes(fingerprint) or []:
                assert run.data.metrics[f"probe/{result.task}/{result.probe}/auc"] == result.auc
        assert run.data.params["algorithm"] == "mae"
        assert int(run.data.params["n_params"]) == planned.cost.n_params
        assert len(run.inputs.dataset_inputs) == 1 + len(planned.tasks)
        assert "metrics.jsonl" in {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        if client.get_experiment(run.info.experiment_id).artifact_location.startswith("file:"):
            kept = Path(run.info.artifact_uri.removeprefix("file://")) / "metrics.jsonl"
            assert kept.read_text() == (planned.dir.path / "metrics.jsonl").read_text()
    return by_fingerprint


def disk_after(plan: Plan) -> None:
    """What the two runs of `life` come to, wherever in it the mirror stopped."""
    first, second = plan.runs
    begin(first)
    train(first, 1, 8, at=2e9)
    settle(first)
    begin(second)
    train(second, 1, 5, at=None)
    second.dir.fail("error", "ValueError: no")


def life(plan: Plan, mirror: Any, report: Path) -> None:
    """A sweep as a driver goes through it: a run that is resumed and ends well, and one that fails."""
    first, second = plan.runs
    begin(first)
    mirror.start(first)
    train(first, 1, 4)
    mirror.sync(first)
    train(first, 5, 6)
    mirror.sync(first)
    begin(first)  # killed; its checkpoint was of step 3
    mirror.start(first)
    train(first, 4, 8, at=2e9)
    mirror.sync(first)
    settle(first)
    mirror.finish(first, "done")
    begin(second)
    mirror.start(second)
    train(second, 1, 5, at=None)
    second.dir.fail("error", "ValueError: no")
    mirror.finish(second, "failed")
    mirror.finish_sweep(report, complete=False)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its migrations take seconds, a copy takes none."""
    from scaling.tracking.store import _open_database

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    _open_database(path)
    return path


@pytest.fixture
def plan(tmp_path: Path, database: Path) -> Plan:
    made = plan_at(tmp_path)
    made.root.mkdir()
    shutil.copy(database, made.root / "mlflow.db")
    return made


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    (folder / "figures").mkdir(parents=True)
    (folder / "report.html").write_text("<p>found")
    (folder / "figures" / "one.txt").write_text("a figure")
    return folder


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> type[Faulty]:
    monkeypatch.setattr("scaling.tracking.store.MlflowClient", Faulty)
    Faulty.reset()
    return Faulty


def n_writes() -> int:
    return sum(name in WRITES for name in Faulty.calls)


def gone() -> None:
    """Takes a tracker that nobody holds away for good, as the end of its process would."""
    from scaling.tracking.claim import _claims

    gc.collect()
    assert not list(_claims)


# --- a sweep's life -------------------------------------------------------------------------------------------------


def test_a_sweep_is_there_as_it_went(plan: Plan, report: Path) -> None:
    life(plan, tracker(plan), report)
    first, second = (mirrored(plan)[run.dir.run] for run in plan.runs)
    assert (first.info.status, second.info.status) == ("FINISHED", "FAILED")
    assert first.data.tags["scaling.attempts"] == "2"
    assert second.data.tags["scaling.reason"] == "error: ValueError: no"
    _, (sweep,), client = contents(plan)
    assert sweep.info.status == "FAILED"
    assert first.data.tags["mlflow.parentRunId"] == sweep.info.run_id
    assert {a.path for a in client.list_artifacts(sweep.info.run_id)} == {"report", "sweep.yaml"}
    assert "report/figures" in {a.path for a in client.list_artifacts(sweep.info.run_id, "report")}


def test_a_collapsed_run_is_there_with_its_reason_its_health_its_online_probes_and_its_picture(plan: Plan) -> None:
    run, mirror = plan.runs[0], tracker(plan)
    begin(run)
    train(run, 1, 4)
    along = {"health/rankme": 1.25, "probe_auc/ct_lesion": 0.5}
    append_line(run.dir.path / "metrics.jsonl", {"step": 5, "loss": 0.2, "lr": 0.1, "system/rss_gb": 0.5, **along})
    (run.dir.path / "picture.png").write_bytes(b"a picture")
    settle(run, "collapsed")
    mirror.finish(run, "collapsed")
    mirror.finish_sweep(None, complete=True)
    there = mirrored(plan)[run.dir.run]
    assert (there.info.status, there.data.tags["scaling.status"]) == ("FINISHED", "collapsed")
    assert there.data.tags["scaling.reason"] == "the loss became infinite"
    assert {key: there.data.metrics[key] for key in along} == along
    *_, client = contents(plan)
    assert {a.path for a in client.list_artifacts(there.info.run_id)} == {"metrics.jsonl", "picture.png"}
    sent = Path(there.info.artifact_uri.removeprefix("file://")) / "picture.png"
    assert sent.read_bytes() == b"a picture"


def test_what_was_mirrored_is_not_written_again(plan: Plan, report: Path, faulty: type[Faulty]) -> None:
    life(plan, tracker(plan), report)
    gone()
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        faulty.reset()
        again = tracker(plan)
        again.rebuild(lambda n_done, n_runs: seen.append((n_done, n_runs)))
        assert n_writes() == 0
        del again
        gone()
    assert seen == [(1, 2), (2, 2)] * 2


# --- a store that fails ---------------------------------------------------------------------------------------------


class Retrying:
    """Calls a tracker as a driver does: what fails is tried again."""

    def __init__(self, plan: Plan) -> None:
        self.tracker = self._twice(lambda: tracker(plan))

    @staticmethod
    def _twice(do: Callable[[], Any]) -> Any:
        try:
            return do()
        except Killed:
            return do()

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self._twice(lambda: getattr(self.tracker, name)(*args, **kwargs))


def fail() -> None:
    raise Killed


def fail_everywhere(plan: Plan, database: Path, folder: Path, report: Path, every: int) -> int:
    n = 0
    for at in range(0, 1000, every):
        for after in (False, True):
            here = moved(plan, folder / f"{at}{'after' * after}")
            here.root.mkdir()
            shutil.copy(database, here.root / "mlflow.db")
            Faulty.reset(at, after=after, fail=fail)
            life(here, Retrying(here), report)
            mirrored(here)
            if at >= len(Faulty.calls):
                return n
            n += 1
    raise AssertionError("a life of more than 1000 calls")


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_a_call_that_fails_is_made_good(
    tmp_path: Path, database: Path, report: Path, faulty: type[Faulty], every: int
) -> None:
    assert fail_everywhere(plan_at(tmp_path), database, tmp_path, report, every) >= 60 // every


def test_a_database_that_is_deleted_under_way_is_filled_again(plan: Plan, database: Path, report: Path) -> None:
    mirror = tracker(plan)
    first, second = plan.runs
    mirror.start(first)
    train(first, 1, 4)
    mirror.sync(first)
    for path in plan.root.glob("mlflow.db*"):
        path.unlink()
    shutil.copy(database, plan.root / "mlflow.db")  # in place of the seconds that migrations take
    train(first, 5, 8)
    mirror.sync(first)
    settle(first)
    mirror.finish(first, "done")
    mirror.start(second)
    mirror.finish_sweep(report, complete=False)
    train(second, 1, 8)
    settle(second, "diverged")
    mirror.finish(second, "diverged")
    mirror.finish_sweep(report, complete=True)
    assert {run.info.status for run in mirrored(plan).values()} == {"FINISHED"}


def test_a_database_that_was_deleted_is_rebuilt_from_disk(plan: Plan, report: Path) -> None:
    life(plan, tracker(plan), report)
    gone()
    before = mirrored(plan)
    for path in plan.root.glob("mlflow.db*"):
        path.unlink()
    assert tracker(plan).rebuild() == 2  # makes a database of its own
    gone()
    after = mirrored(plan)
    for fingerprint, run in after.items():
        assert run.info.run_id != before[fingerprint].info.run_id
        assert run.data.metrics == before[fingerprint].data.metrics
        assert run.data.params == before[fingerprint].data.params
        assert run.info.status == before[fingerprint].info.status
        assert run.info.start_time == before[fingerprint].info.start_time
    _, (sweep,), client = contents(plan)
    assert {a.path for a in client.list_artifacts(sweep.info.run_id)} == {"report", "sweep.yaml"}
    with closing(sqlite3.connect(plan.root / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_run_in_the_trash_is_taken_out_again(plan: Plan, report: Path) -> None:
    life(plan, tracker(plan), report)
    gone()
    runs, _, client = contents(plan)
    client.delete_run(runs[0].info.run_id)
    tracker(plan).rebuild()
    assert {run.info.run_id for run in mirrored(plan).values()} == {run.info.run_id for run in runs}


def test_of_two_runs_of_a_late_request_the_fuller_stays(plan: Plan, report: Path) -> None:
    life(plan, tracker(plan), report)
    gone()
    (one, _), _, client = contents(plan)
    client.create_run(one.info.experiment_id, tags={"scaling.run": one.data.tags["scaling.run"]})
    tracker(plan).rebuild()
    assert one.info.run_id in {run.info.run_id for run in mirrored(plan, trash=True).values()}


def test_what_was_missed_while_the_store_was_down_comes_at_the_end(plan: Plan, report: Path) -> None:
    first, second = plan.runs
    mirror = tracker(plan)
    train(first, 1, 8)
    settle(first)
    train(second, 1, 8)
    settle(second)
    mirror.finish_sweep(report, complete=True)
    assert {run.info.status for run in mirrored(plan).values()} == {"FINISHED"}


def test_a_server_that_is_down_costs_seconds(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        for scheme in ("http", "postgresql"):
            plan = plan_at(tmp_path, uri=f"{scheme}://127.0.0.1:{taken.getsockname()[1]}")
            started = time.monotonic()
            with pytest.raises(OSError):
                tracker(plan)
            assert time.monotonic() - started < 30  # MLflow alone would try for 100 s and more


def test_a_database_whose_driver_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with socket.create_server(("127.0.0.1", 0)) as there:
        plan = plan_at(tmp_path, uri=f"postgresql+psycopg2://127.0.0.1:{there.getsockname()[1]}/runs")
        with pytest.raises(SpecError, match=r"tracking\.uri: needs the Python package 'psycopg2'"):
            tracker(plan)


def test_a_server_that_dies_costs_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes connections and answers nothing, as behind a gateway whose back is gone."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        plan = plan_at(tmp_path, uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(Exception, match=r"timed out|timeout"):
            tracker(plan)
        assert time.monotonic() - started < 30


def test_a_database_on_a_network_file_system_is_known_as_such() -> None:
    from scaling.tracking.store import _on_network

    mounts = "/dev/sda / ext4 rw 0 0\nlab:/a /data nfs4 rw 0 0\n/dev/sdb /data/fast\\040disk xfs rw 0 0\n"
    assert _on_network(Path("/data/shared/mlflow.db"), mounts)
    assert not _on_network(Path("/data/fast disk/mlflow.db"), mounts)
    assert not _on_network(Path("/database/mlflow.db"), mounts)
    assert not _on_network(Path("/data/mlflow.db"), "")


# --- several sweeps, several processes ------------------------------------------------------------------------------


def test_a_run_of_two_sweeps_is_one_run_found_from_both(tmp_path: Path, plan: Plan, report: Path) -> None:
    other = plan_at(tmp_path, name="other")
    assert [run.dir.run for run in other.runs] == [run.dir.run for run in plan.runs]
    mine, theirs = tracker(plan), tracker(other)
    first = plan.runs[0]
    mine.start(first)
    train(first, 1, 4)
    theirs.start(first)
    mine.sync(first)
    theirs.sync(first)
    train(first, 5, 8)
    theirs.sync(first)
    mine.sync(first)
    settle(first)
    mine.finish(first, "done")
    theirs.finish(first, "done")
    mine.finish_sweep(report, complete=True)
    theirs.finish_sweep(report, complete=True)
    run = mirrored(plan)[first.dir.run]
    assert run.data.tags["scaling.sweeps"] == "tiny, other"
    _, sweeps, client = contents(plan)
    parent = {sweep.data.tags["scaling.sweep"]: sweep.info.run_id for sweep in sweeps}["tiny"]
    assert run.data.tags["mlflow.parentRunId"] == parent
    found = client.search_runs([run.info.experiment_id], "tags.`scaling.sweeps` LIKE '%other%'")
    assert [r.info.run_id for r in found] == [run.info.run_id]


def test_a_task_read_out_in_two_ways_has_two_steps_and_shows_the_newer(tmp_path: Path, plan: Plan) -> None:
    again = plan_at(tmp_path, name="again", bootstrap=30)
    first = plan.runs[0]
    train(first, 1, 8)
    settle(first)
    tracker(plan).rebuild()
    gone()
    probe(again.runs[0], auc=0.5)
    for _ in range(2):
        tracker(again).rebuild()
        gone()
    run = mirrored(again)[first.dir.run]
    _, _, client = contents(plan)
    history = client.get_metric_history(run.info.run_id, "probe/ct_lesion/linear/auc")
    assert [(point.step, point.value) for point in history] == [(0, 0.75), (1, 0.5)]


def test_one_process_mirrors_a_root(plan: Plan) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from scaling.tracking.claim import claim
        held = claim(Path(sys.argv[1]))
        print("held", flush=True)
        time.sleep(60)
    """
    holder = subprocess.Popen([sys.executable, "-c", code, str(plan.root)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SpecError, match=f"process {holder.pid} mirrors this root"):
            tracker(plan)
    finally:
        holder.kill()
        holder.communicate()
    tracker(plan)


def test_what_a_dead_driver_left_running_is_closed(plan: Plan) -> None:
    first, second = plan.runs
    mirror = tracker(plan)
    begin(first)
    mirror.start(first)
    train(first, 1, 2)
    mirror.sync(first)
    del mirror
    gone()
    mirror = tracker(plan)
    runs, sweeps, _ = contents(plan)
    assert {run.info.status for run in [*runs, *sweeps]} == {"KILLED"}
    train(second, 1, 2)
    mirror.start(second)
    mirror.sync(first)  # it goes on
    runs, sweeps, _ = contents(plan)
    assert {run.info.status for run in [*runs, *sweeps]} == {"RUNNING"}


@pytest.mark.parametrize(("status", "word"), [("cancelled", "KILLED"), ("stopped", "KILLED"), ("failed", "FAILED")])
def test_how_a_run_ended_is_kept_and_the_next_attempt_opens_it_again(plan: Plan, status: str, word: str) -> None:
    first = plan.runs[0]
    mirror = tracker(plan)
    begin(first)
    mirror.start(first)
    train(first, 1, 4)
    if status == "failed":
        first.dir.fail("io", "OSError: gone")
    mirror.finish(first, status)
    mirror.finish_sweep(None, complete=False)
    run = mirrored(plan)[first.dir.run]
    assert (run.info.status, run.data.tags["scaling.status"]) == (word, status)
    begin(first)
    mirror.start(first)
    train(first, 5, 8)
    settle(first)
    mirror.finish(first, "done")
    mirror.finish_sweep(None, complete=True)
    again = mirrored(plan)[first.dir.run]
    assert again.info.run_id == run.info.run_id
    assert (again.info.status, again.data.tags["scaling.status"]) == ("FINISHED", "done")
    assert "scaling.reason" not in again.data.tags


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_curves_are_thinned_the_same_in_pieces_as_whole() -> None:
    from scaling.tracking.content import METRICS_PER_BATCH, POINTS, curve

    n_steps = 4321
    lines = [{"step": s, "loss": 1.0, "lr": 0.1, "time": 5.0, "note": "none"} for s in range(1, n_steps + 1)]

    def sent(pieces: list[int]) -> list[int]:
        steps: list[int] = []
        for end in pieces:
            for batch in curve(lines[:end], after=steps[-1] if steps else 0, n_steps=n_steps, now_ms=0):
                assert len(batch) <= METRICS_PER_BATCH
                assert [m.key for m in batch] == ["train/loss", "train/lr"] * (len(batch) // 2)
                assert {m.timestamp for m in batch} == {5000}
                steps += [m.step for m in batch[::2]]
        return steps

    whole = sent([n_steps])
    assert len(whole) <= POINTS
    assert len(whole) > POINTS * 0.9
    assert (whole[0], whole[-1]) == (1, n_steps)
    assert sent([1, 2, 3, 900, 901, 2000, n_steps]) == whole


def test_provenance_of_the_newest_attempt_is_tagged(plan: Plan) -> None:
    first = plan.runs[0]
    train(first, 1, 8)
    settle(first)
    code = plan.root / "code" / "abc"
    write_json(code / "provenance.json", {"commit": "c0ffee", "dirty": True, "argv": ["scaling", "run"], "user": "ann"})
    for attempt, host in ((2, "old"), (10, "new")):
        values = {"host": host, "code": str(code), "gpu": {"name": "H100"}}
        write_json(first.dir.path / "provenance" / f"{attempt}.json", values)
    (first.dir.path / "encoder.pt").touch()
    tracker(plan).rebuild()
    tags = mirrored(plan)[first.dir.run].data.tags
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    assert tags["mlflow.user"] == "ann"
    assert (tags["provenance.host"], tags["provenance.gpu.name"], tags["provenance.dirty"]) == ("new", "H100", "True")
    assert tags["provenance.argv"] == "scaling run"
    assert tags["scaling.encoder"] == str(first.dir.path / "encoder.pt")


def test_data_sets_are_named_by_their_identity(plan: Plan) -> None:
    first = plan.runs[0]
    train(first, 1, 8)
    tracker(plan).rebuild()
    used = {i.dataset.name: i for i in mirrored(plan)[first.dir.run].inputs.dataset_inputs}
    images = used["phantoms/all/16"]
    assert first.spec.data_identity.startswith(images.dataset.digest)
    assert json.loads(images.dataset.source)["identity"] == first.spec.data_identity
    assert {tag.key: tag.value for tag in images.tags} == {"mlflow.data.context": "pretraining"}
    assert {tag.value for tag in used["ct_lesion"].tags} == {"probe"}


def test_more_parameters_than_a_batch_takes_are_all_sent(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaling.tracking.content.PARAMS_PER_BATCH", 5)
    train(plan.runs[0], 1, 2)
    tracker(plan).rebuild()
    from scaling.tracking.content import params

    wanted = params(plan.runs[0])
    assert len(wanted) > 15
    assert mirrored(plan)[plan.runs[0].dir.run].data.params == wanted


def test_a_relative_database_lies_under_the_root(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_at(tmp_path, uri="sqlite:///store/runs.db")
    (plan.root / "store").mkdir(parents=True)
    shutil.copy(database, plan.root / "store" / "runs.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(plan.runs[0], 1, 2)
    tracker(plan).rebuild()
    mirrored(plan)
    assert not list((tmp_path / "elsewhere").iterdir())


# --- killed ---------------------------------------------------------------------------------------------------------


def recover(plan: Plan, report: Path) -> None:
    """The next `scaling run`: what is not done is done, what is done is told again."""
    mirror = tracker(plan)
    first, second = plan.runs
    if not first.done:
        begin(first)
        mirror.start(first)
        last = (first.dir.last_metrics() or {"step": 0})["step"]
        train(first, 4 if last > 3 else 1, 8, at=3e9)
        mirror.sync(first)
        settle(first)
    mirror.finish(first, "done")
    begin(second)
    mirror.start(second)
    train(second, 1, 5, at=None)
    second.dir.fail("error", "ValueError: no")
    mirror.finish(second, "failed")
    mirror.finish_sweep(report, complete=False)


def recover_by_sync(plan: Plan, report: Path) -> None:
    """The directories come to their end without a mirror; `scaling sync` afterwards."""
    first, second = plan.runs
    train(first, 1, 8, at=3e9)
    settle(first)
    begin(second)
    train(second, 1, 5, at=None)
    second.dir.fail("error", "ValueError: no")
    tracker(plan).rebuild()


def in_child(do: Callable[[], None]) -> int:
    """The exit code of a process of its own that does this: 0, 1 for an exception, else what it left by."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            do()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


KILLED = 9


def points(plan: Plan, folder: Path, store: str, report: Path, which: str) -> list[tuple[int, bool]]:
    """Calls to be killed at, and whether after they took effect: the first of each kind after, or all before and after.

    `which`: kinds | half | all.
    """
    here, listed = placed(plan, folder / "whole", store), folder / "calls.json"

    def listing() -> None:
        Faulty.reset()
        life(here, tracker(here), report)
        mirrored(here)
        listed.write_text(json.dumps(Faulty.calls))

    assert in_child(listing) == 0, "a life without a kill"
    calls = json.loads(listed.read_text())
    assert {"create_run", "log_batch", "log_inputs", "set_terminated", "log_artifact"} <= set(calls)
    if which == "kinds":
        return [(calls.index(name), True) for name in dict.fromkeys(calls)]
    return [(at, after) for at in range(0, len(calls), 2 if which == "half" else 1) for after in (False, True)]


def placed(plan: Plan, root: Path, store: str) -> Plan:
    here = moved(plan, root)
    here.root.mkdir()
    if "://" in store:
        return at_store(here, store, f"killed-{root.name}")
    shutil.copy(store, here.root / "mlflow.db")
    return here


def kill_everywhere(plan: Plan, folder: Path, store: str, report: Path, which: str) -> int:
    """Ends the process at calls to the store and recovers in another; the number of kills.

    `store`: a URI, used with an experiment for each kill, or an empty database that is copied.
    """
    kills = points(plan, folder, store, report, which)
    for at, after in kills:
        here = placed(plan, folder / f"{at}{'after' * after}", store)

        def live(here: Plan = here, at: int = at, after: bool = after) -> None:
            Faulty.reset(at, after=after, fail=lambda: os._exit(KILLED))
            life(here, tracker(here), report)

        def heal(here: Plan = here, at: int = at) -> None:
            Faulty.reset()
            (recover_by_sync if at % 3 == 0 else recover)(here, report)
            mirrored(here)

        assert in_child(live) == KILLED
        assert in_child(heal) == 0, f"killed {'after' if after else 'before'} call {at}"
        shutil.rmtree(here.root)
    return len(kills)


def main(folder: Path, store: str, which: str) -> None:
    import scaling.tracking.store

    scaling.tracking.store.MlflowClient = Faulty  # type: ignore[misc]
    report = folder / "report"
    report.mkdir(parents=True)
    (report / "report.html").write_text("<p>found")
    started = time.monotonic()
    n = kill_everywhere(plan_at(folder), folder, store, report, which)
    print(json.dumps({"kills": n, "seconds": round(time.monotonic() - started, 1)}))


def kills(folder: Path, store: str, which: str) -> int:
    """`main` in a process that forks at its ease: one thread, no pytest."""
    command = [sys.executable, __file__, str(folder / "kills"), store, which]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return int(json.loads(done.stdout.splitlines()[-1])["kills"])


@pytest.mark.slow
def test_a_driver_killed_at_a_call_of_each_kind_leaves_nothing_double_or_missing(
    tmp_path: Path, database: Path
) -> None:
    assert kills(tmp_path, str(database), "kinds") > 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_killed_at_every_call_leaves_nothing_double_or_missing(tmp_path: Path, database: Path) -> None:
    assert kills(tmp_path, str(database), "all") > 50


# --- other stores ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `mlflow server`, as `scaling ui` starts it."""
    from scaling.tracking.server import server_command, server_environment

    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = server_command(f"sqlite:///{folder / 'server.db'}", folder / "artifacts", "127.0.0.1", port)
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(
            command, env=server_environment(os.environ), stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    try:
        await_health(f"http://127.0.0.1:{port}", process, folder / "log.txt")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def await_health(address: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                assert answer.read() == b"OK"
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(log.read_text()[-4000:])


@pytest.mark.slow
def test_a_server_has_it_all_over_http(tmp_path: Path, server: str, report: Path) -> None:
    plan = at_store(plan_at(tmp_path), server, "whole")
    life(plan, tracker(plan), report)
    gone()
    runs = mirrored(plan)
    states = json.loads((plan.runs[0].dir.path / "mlflow.json").read_text())
    assert states[server]["run_id"] == runs[plan.runs[0].dir.run].info.run_id
    _, (sweep,), client = contents(plan)
    assert {a.path for a in client.list_artifacts(sweep.info.run_id)} == {"report", "sweep.yaml"}
    fetched = client.download_artifacts(runs[plan.runs[0].dir.run].info.run_id, "metrics.jsonl", str(tmp_path))
    assert Path(fetched).read_text() == (plan.runs[0].dir.path / "metrics.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_killed_at_any_call_to_a_server_leaves_nothing_double_or_missing(tmp_path: Path, server: str) -> None:
    assert kills(tmp_path, server, "half") > 20


@pytest.mark.slow
def test_the_browser_gets_its_page_and_a_run_with_its_files(tmp_path: Path, server: str, report: Path) -> None:
    plan = at_store(plan_at(tmp_path), server, "browsed")
    life(plan, tracker(plan), report)

    def fetch(path: str, body: dict[str, Any] | None = None) -> str:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(server + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    page = fetch("/")
    scripts = re.findall(r'src="([^"]+\.js)"', page)
    assert "<title>MLflow</title>" in page
    assert scripts
    assert all(fetch("/" + script.lstrip("./")) for script in scripts)
    run_id = mirrored(plan)[plan.runs[0].dir.run].info.run_id
    metrics = fetch(f"/get-artifact?path=metrics.jsonl&run_uuid={run_id}")
    assert metrics == (plan.runs[0].dir.path / "metrics.jsonl").read_text()


def test_the_server_is_small_quiet_and_told_its_store() -> None:
    from scaling.tracking.server import server_command, server_environment

    command = server_command("sqlite:////data/mlflow.db", Path("/data/artifacts"), "0.0.0.0", 5001)
    assert command[1:4] == ["-m", "mlflow", "server"]
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options == {
        "--backend-store-uri": "sqlite:////data/mlflow.db",
        "--artifacts-destination": "/data/artifacts",
        "--host": "0.0.0.0",
        "--port": "5001",
        "--workers": "1",
    }
    environment = server_environment({"MLFLOW_DISABLE_TELEMETRY": "false", "HOME": "/root"})
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "false"  # the user's word counts


def test_a_store_that_is_a_server_is_only_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from scaling.tracking import serve

    assert serve("http://lab:5000", tmp_path, "127.0.0.1", 5000) == 0
    assert "http://lab:5000" in capsys.readouterr().out


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a PostgreSQL server of our own, on a free port of this machine."""
    pytest.importorskip("psycopg2", reason="no psycopg2 to reach PostgreSQL with")
    there = sorted(Path("/usr/lib/postgresql").glob("*/bin")) + [Path(p).parent for p in [shutil.which("initdb")] if p]
    if not there:
        pytest.skip("no PostgreSQL server on this machine (Debian: apt-get install postgresql)")
    as_user = []
    if os.geteuid() == 0:  # the server refuses to run as root
        names = {entry.pw_name for entry in pwd.getpwall()} & {"postgres", "nobody"}
        if not names or not shutil.which("runuser"):
            pytest.skip("root without runuser or a user to run PostgreSQL as")
        as_user = ["runuser", "-u", max(names), "--"]
    with tempfile.TemporaryDirectory(prefix="pg") as folder:  # a socket's path has to be short
        os.chmod(folder, 0o777)
        data, binaries = Path(folder) / "data", there[-1]
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]

        def call(*command: object) -> None:
            subprocess.run([*as_user, *map(str, command)], check=True, capture_output=True, cwd=folder)

        call(binaries / "initdb", "-D", data, "-U", "scaling", "-A", "trust", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        call(binaries / "pg_ctl", "-D", data, "-w", "-l", f"{folder}/log.txt", "-o", options, "start")
        try:
            yield f"postgresql+psycopg2://scaling@127.0.0.1:{port}/postgres"
        finally:
            call(binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop")


@pytest.mark.slow
def test_postgresql_has_it_all(tmp_path: Path, postgres: str, report: Path) -> None:
    plan = at_store(plan_at(tmp_path), postgres, "whole")
    life(plan, tracker(plan), report)
    gone()
    mirrored(plan)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_killed_at_any_call_to_postgresql_leaves_nothing_double_or_missing(
    tmp_path: Path, postgres: str
) -> None:
    assert kills(tmp_path, postgres, "half") > 20


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
