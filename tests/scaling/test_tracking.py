"""MLflow exactly once: whatever is killed, deleted or down, each run is there once, with each of its points once.

Run directories are made up by hand; the stores are real. As a script: kills itself at every call to a store, see `main`.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scaling.config import load
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

    uri = plan.tracking_uri
    client = MlflowClient(
        uri if not uri.startswith("sqlite:///") else f"sqlite:///{plan.root / uri[len('sqlite:///') :]}"
    )
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
        if lines and client.get_experiment(run.info.experiment_id).artifact_location.startswith("file:"):
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


if __name__ == "__main__":
    pass
