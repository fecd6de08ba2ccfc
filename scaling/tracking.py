"""What people browse: a mirror of the run directories in MLflow. The one module that imports mlflow.

The driver alone writes, through `MlflowClient`, one MLflow run per fingerprint for life: retries and resumed runs go
on in it. What was written stands in the run's mlflow.json, so nothing is written twice and all can be rebuilt.
"""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read by mlflow when it is imported
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from scaling.plan import Plan, PlannedRun
from scaling.records import ProbeResult
from scaling.rundir import read_json, write_json

METRICS_PER_BATCH = 1000
"""MLflow's limit."""
STATUS = {"done": "FINISHED", "diverged": "FINISHED", "failed": "FAILED"}


class Tracker:
    """Raises MlflowException or OSError when the store cannot be reached; runs do not depend on it."""

    def __init__(self, plan: Plan) -> None:
        for noisy in ("alembic", "mlflow.store.db"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        tracking = plan.sweep.tracking
        self.uri = plan.tracking_uri
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(self.uri)
        self.experiment = self._experiment(tracking.experiment, plan.root)
        self.plan = plan
        self.parent = self._parent()

    def _experiment(self, name: str, root: Path) -> str:
        found = self.client.get_experiment_by_name(name)  # the first call creates the tables of a new database
        if self.uri.startswith("sqlite:///"):
            with closing(sqlite3.connect(self.uri.removeprefix("sqlite:///"))) as database:
                database.execute("PRAGMA journal_mode=WAL")  # persistent, and a third of the time per write
        if found:
            return str(found.experiment_id)
        local = self.uri.startswith("sqlite:///")
        return str(
            self.client.create_experiment(
                name, artifact_location=(root / "mlflow_artifacts").resolve().as_uri() if local else None
            )
        )

    def _find(self, tag: str, value: str) -> str | None:
        found = self.client.search_runs([self.experiment], f"tags.`{tag}` = '{value}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _parent(self) -> str:
        """The sweep's run: the YAML now, the report when there is one."""
        name = self.plan.sweep.name
        run_id = self._find("scaling.sweep", name)
        if run_id is None:
            tags = {"scaling.sweep": name, "mlflow.note.content": self.plan.sweep.question}
            run_id = str(self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id)
        self.client.update_run(run_id, status="RUNNING")
        self.client.log_text(run_id, self.plan.document.text, "sweep.yaml")
        return run_id

    def finish_sweep(self, report: Path | None, *, complete: bool) -> None:
        """Closes the sweep's run, with the files of `report` as artifacts."""
        if report is not None:
            self.client.log_artifacts(self.parent, str(report), "report")
        self.client.set_terminated(self.parent, "FINISHED" if complete else "FAILED")

    # --- one run ----------------------------------------------------------------------------------------------

    def start(self, run: PlannedRun) -> None:
        """Opens the run's MLflow run, or opens it again."""
        state = self._state(run)
        self.client.update_run(state["run_id"], status="RUNNING")
        self._remember(run, {**state, "status": "RUNNING"})

    def sync(self, run: PlannedRun) -> None:
        """Sends the curve's new steps."""
        state = self._state(run)
        lines = [line for line in run.dir.metrics() if line["step"] > state["step"]]
        if lines:
            self._send(state["run_id"], _curve(lines))
            self._remember(run, {**state, "step": lines[-1]["step"]})

    def finish(self, run: PlannedRun, status: str) -> None:
        """Sends what is left - curve, read-outs, totals - and closes the MLflow run. Does nothing the second time."""
        state = self._state(run)
        fresh = [f for f in run.tasks if f not in state["probes"] and run.dir.probes(f) is not None]
        if state["status"] == STATUS[status] and not fresh:
            return
        self.sync(run)
        state = self._state(run)
        results = itertools.chain.from_iterable(run.dir.probes(f) or [] for f in fresh)
        self._send(state["run_id"], [*_totals(run), *_read_outs(results)])
        self.client.set_tag(state["run_id"], "scaling.status", status)
        self.client.set_terminated(state["run_id"], STATUS[status])
        self._remember(run, {**state, "probes": [*state["probes"], *fresh], "status": STATUS[status]})

    def _state(self, run: PlannedRun) -> dict[str, Any]:
        """What MLflow has of the run; creates its MLflow run at the first call."""
        states = read_json(run.dir.path / "mlflow.json") or {}
        if self.uri in states:
            return dict(states[self.uri])
        run_id = self._find("scaling.run", run.dir.run) or self._create(run)
        return self._remember(run, {"run_id": run_id, "step": 0, "probes": [], "status": "RUNNING"})

    def _remember(self, run: PlannedRun, state: dict[str, Any]) -> dict[str, Any]:
        states = read_json(run.dir.path / "mlflow.json") or {}
        write_json(run.dir.path / "mlflow.json", {**states, self.uri: state})
        return state

    def _create(self, run: PlannedRun) -> str:
        tags = {"scaling.run": run.dir.run, "mlflow.parentRunId": self.parent}
        created = self.client.create_run(self.experiment, run_name=str(run.point), tags=tags)
        run_id = str(created.info.run_id)
        values = {**run.spec.model_dump(mode="json"), "n_params": run.cost.n_params, **_flat(run.n_by_modality)}
        params = [Param(key, str(value)) for key, value in _flat(values).items()]
        self.client.log_batch(run_id, params=params[:100])
        self.client.log_batch(run_id, tags=[RunTag("scaling.directory", str(run.dir.path.resolve()))])
        return run_id

    def _send(self, run_id: str, metrics: Iterable[Metric]) -> None:
        waiting = iter(metrics)
        while batch := list(itertools.islice(waiting, METRICS_PER_BATCH)):
            self.client.log_batch(run_id, metrics=batch)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _now() -> int:
    return int(time.time() * 1000)


def _curve(lines: Iterable[dict[str, Any]]) -> Iterator[Metric]:
    now = _now()
    for line in lines:
        for key, value in line.items():
            if key != "step":
                yield Metric(f"train/{key}", value, now, line["step"])


def _totals(run: PlannedRun) -> Iterator[Metric]:
    record = run.dir.record()
    if record is not None:
        for key in ("n_params", "n_params_total", "train_flops", "train_seconds", "images_seen"):
            yield Metric(key, float(getattr(record, key)), _now(), 0)


def _read_outs(results: Iterable[ProbeResult]) -> Iterator[Metric]:
    for result in results:
        for key in ("auc", "auc_se", "accuracy", "accuracy_se"):
            value = getattr(result, key)
            if value is not None:
                yield Metric(f"probe/{result.task}/{result.probe}/{key}", value, _now(), 0)
