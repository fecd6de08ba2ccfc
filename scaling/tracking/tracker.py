"""The mirror itself: at any touch of a run, what its directory has and the store has not is sent.

After anything went wrong - a new process, an error, a store made anew - nothing is assumed: the store is asked first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from scaling.plan import Plan, PlannedRun
from scaling.records import UNSOUND, ProbeResult
from scaling.rundir import read_json, write_json
from scaling.tracking import content
from scaling.tracking.claim import claim
from scaling.tracking.store import Seen, Store, chunks

STATUS = {
    **dict.fromkeys(("done", *UNSOUND), "FINISHED"),
    "failed": "FAILED",
    **dict.fromkeys(("cancelled", "stopped"), "KILLED"),
}
"""How an attempt ended -> MLflow's word. A run that was killed or failed is opened again by its next attempt."""
RUN, SWEEP, SWEEPS = "scaling.run", "scaling.sweep", "scaling.sweeps"
"""Tags: a run's fingerprint; the name of the sweep whose own MLflow run it is; all sweeps that a run belongs to."""
DIRECTORY, HOW, REASON = "scaling.directory", "scaling.status", "scaling.reason"
YAML, REPORT = "scaling.yaml", "scaling.report"
FILES = {"metrics.jsonl": "scaling.metrics", "picture.png": "scaling.picture"}
"""Of a run -> tag."""
"""Tags: what is in artifacts that were sent whole, so that they are sent again only when changed."""
READ = "scaling.probes."
"""Tag per task: fingerprints of its read-outs, in the order of their steps; written before them."""


class Tracker:
    """Raises MlflowException or OSError when the store cannot be reached, soon; the next call tries again.

    Raises SpecError while another process mirrors the same root.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.uri = plan, plan.tracking_uri
        self._claim = claim(plan.root)
        self._store: Store | None = None
        self._doubts = 0
        self._parent: Seen
        self._index: dict[str, Seen] | None = None
        """All the store has, while everything is compared."""
        with self._opened():
            pass

    # --- what a driver calls ----------------------------------------------------------------------------------

    def start(self, run: PlannedRun) -> None:
        """Opens the run's MLflow run, or opens it again."""
        self._claim.active[run.dir.run] = self.plan.sweep.name
        with self._opened() as store:
            self._begin(store)
            self._open(store, run)

    def sync(self, run: PlannedRun) -> None:
        """Sends the curve's new points of a run under way."""
        self._claim.active[run.dir.run] = self.plan.sweep.name
        with self._opened() as store:
            self._begin(store)
            self._send_curve(store, run, self._open(store, run))

    def finish(self, run: PlannedRun, status: str) -> None:
        """Sends what is left - curve, read-outs, totals - and closes the MLflow run. Does nothing the second time."""
        self._claim.active.pop(run.dir.run, None)
        with self._opened() as store:
            if STATUS[status] != "FINISHED" or not self._told(store, run, status):
                self._finish(store, run, status)

    def finish_sweep(self, report: Path | None, *, complete: bool) -> None:
        """Sends what was missed while the store was down, and closes the sweep's run with `report` as artifact."""
        for fingerprint in [run for run, sweep in self._claim.active.items() if sweep == self.plan.sweep.name]:
            del self._claim.active[fingerprint]
        with self._opened() as store:
            for run, status in self._ended():
                if not self._told(store, run, status):
                    self._finish(store, run, status)
            if report is not None:
                write_json(self.plan.folder / "mlflow.json", {"report": str(report.resolve())})
            self._close(store, "FINISHED" if complete else "FAILED")

    def rebuild(self, progress: Callable[[int, int], None] = lambda n_done, n_runs: None) -> int:
        """Brings all that is on disk to the store, whatever was remembered of it; the number of runs compared."""
        with self._opened() as store:
            self._claim.seen.clear()
            self._index = store.index(RUN)
            ended = list(self._ended())
            try:
                for n_done, (run, status) in enumerate(ended, 1):
                    self._finish(store, run, status)
                    progress(n_done, len(ended))
            finally:
                self._index = None
            done = all(run.done for run in self.plan.runs)
            self._close(
                store, "FINISHED" if done else "FAILED" if any(status == "failed" for _, status in ended) else "KILLED"
            )
        return len(ended)

    # --- the store --------------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self) -> Iterator[Store]:
        """The store; opened again after an error, as what took effect before it is unknown."""
        with self._claim.turn:
            if self._store is None or self._doubts != self._claim.doubts or self._store.lost():
                self._store, self._doubts = None, self._claim.doubts
                store = Store(self.uri, self.plan.root, self.plan.sweep.tracking.experiment)
                self._close_left_running(store)
                self._parent = self._find_parent(store)
                self._store = store
            try:
                yield self._store
            except BaseException:
                self._claim.doubt()
                raise

    def _close_left_running(self, store: Store) -> None:
        """Of a driver that is gone: as this process has the claim, nobody else works for this root's runs."""
        folders = {str(self.plan.root / "runs"), str(self.plan.root / "sweeps")}
        for seen in store.running():
            ours = str(Path(seen.tags.get(DIRECTORY, "")).parent) in folders
            fingerprint = seen.tags.get(RUN, "")
            if ours and fingerprint not in self._claim.active and seen.tags.get(SWEEP) not in self._claim.sweeps:
                store.client.set_terminated(seen.run_id, "KILLED")
                self._claim.seen.pop((store.identity, fingerprint), None)

    # --- the sweep's own run ----------------------------------------------------------------------------------

    def _find_parent(self, store: Store) -> Seen:
        """The sweep's run, with the YAML."""
        name, text = self.plan.sweep.name, self.plan.document.text
        parent = store.find(SWEEP, name)
        if parent is None:
            tags = {SWEEP: name, DIRECTORY: str(self.plan.folder), MLFLOW_RUN_NOTE: self.plan.sweep.question}
            parent = Seen.of(store.client.create_run(store.experiment, run_name=name, tags=tags))
        known = content.checksum(text.encode())
        if parent.tags.get(YAML) != known:
            store.client.log_text(parent.run_id, text, "sweep.yaml")
            self._tag(store, parent, {YAML: known, DIRECTORY: str(self.plan.folder)})
        return parent

    def _begin(self, store: Store) -> None:
        self._claim.sweeps.add(self.plan.sweep.name)
        if self._parent.status != "RUNNING":
            store.client.update_run(self._parent.run_id, status="RUNNING")
            self._parent.status = "RUNNING"

    def _close(self, store: Store, status: str) -> None:
        self._claim.sweeps.discard(self.plan.sweep.name)
        kept = read_json(self.plan.folder / "mlflow.json") or {}
        report = Path(kept["report"]) if "report" in kept else None
        if report is not None and (files := content.files_in(report)):
            known = content.checksum_of(files)
            if self._parent.tags.get(REPORT) != known:
                store.client.log_artifacts(self._parent.run_id, str(report), "report")
                self._tag(store, self._parent, {REPORT: known})
        if self._parent.status != status:
            store.client.set_terminated(self._parent.run_id, status)
            self._parent.status = status
        self._close_left_running(store)

    # --- one run ----------------------------------------------------------------------------------------------

    def _ended(self) -> Iterator[tuple[PlannedRun, str]]:
        """The plan's runs that are not under way, each once, with how they stand by their directories."""
        for fingerprint, run in {run.dir.run: run for run in self.plan.runs}.items():
            if fingerprint not in self._claim.active and (status := content.state_on_disk(run)) is not None:
                yield run, status

    def _open(self, store: Store, run: PlannedRun) -> Seen:
        seen = self._look(store, run)
        if seen.status != "RUNNING":
            store.client.update_run(seen.run_id, status="RUNNING")
            seen.status = "RUNNING"
            self._remember(store, run, seen)
        return seen

    def _finish(self, store: Store, run: PlannedRun, status: str) -> None:
        size, seen = _size(run), self._look(store, run)
        if status == "stopped" and seen.tags.get(HOW) == "cancelled" and seen.status == STATUS[status]:
            status = "cancelled"  # its directory does not say that the user wanted it so
        self._send_curve(store, run, seen)
        probed = content.probed(run.dir)
        self._send_results(store, run, seen, probed)
        if seen.status != STATUS[status]:
            store.client.set_terminated(seen.run_id, STATUS[status], content.ended_ms(run))
            seen.status = STATUS[status]
        reason = content.reason(run) if status in ("failed", *UNSOUND) else ""
        wanted = {**content.tags(run), HOW: status, **({REASON: reason} if reason else {})}
        for path, tag in ((run.dir.path / name, tag) for name, tag in FILES.items()):
            if path.exists():
                wanted[tag] = content.checksum(path.read_bytes())
                if seen.tags.get(tag) != wanted[tag]:
                    store.client.log_artifact(seen.run_id, str(path))
        if REASON in seen.tags and not reason:
            store.client.delete_tag(seen.run_id, REASON)
            del seen.tags[REASON]
        self._tag(store, seen, wanted)
        self._remember(store, run, seen, {"metrics": size, "probes": sorted(probed)})

    def _look(self, store: Store, run: PlannedRun) -> Seen:
        """What the store has of a run, asked of it at the first touch; with all that does not change in it."""
        key = (store.identity, run.dir.run)
        seen: Seen | None = self._claim.seen.get(key)
        if seen is None:
            seen = self._ask(store, run) or self._create(store, run)
        if key not in self._claim.seen or self.plan.sweep.name not in _sweeps(seen):
            self._describe(store, run, seen)
            self._claim.seen[key] = seen
        return seen

    def _ask(self, store: Store, run: PlannedRun) -> Seen | None:
        if self._index is not None:
            return self._index.get(run.dir.run)
        state = self._state(store, run)
        return (store.get(state["run_id"]) if state else None) or store.find(RUN, run.dir.run)

    def _create(self, store: Store, run: PlannedRun) -> Seen:
        named = {RUN: run.dir.run, MLFLOW_PARENT_RUN_ID: self._parent.run_id, SWEEPS: self.plan.sweep.name}
        tags, begun = {**content.tags(run), **named}, content.began_ms(run)
        return Seen.of(store.client.create_run(store.experiment, begun, tags, str(run.point)))

    def _describe(self, store: Store, run: PlannedRun, seen: Seen) -> None:
        missing = [Param(key, value) for key, value in content.params(run).items() if key not in seen.params]
        for batch in chunks(missing, content.PARAMS_PER_BATCH):
            store.client.log_batch(seen.run_id, params=batch)
        new = [
            used
            for used in content.inputs(self.plan, run)
            if (used.dataset.name, used.dataset.digest) not in seen.inputs
        ]
        if new:
            store.client.log_inputs(seen.run_id, datasets=new)
        sweeps = _sweeps(seen)
        if self.plan.sweep.name not in sweeps:
            sweeps.append(self.plan.sweep.name)
        self._tag(store, seen, {SWEEPS: ", ".join(sweeps), DIRECTORY: str(run.dir.path.resolve())})
        self._remember(store, run, seen)

    def _tag(self, store: Store, seen: Seen, wanted: dict[str, str]) -> None:
        changed = {key: value for key, value in wanted.items() if seen.tags.get(key) != value}
        for batch in chunks(changed.items(), content.PARAMS_PER_BATCH):
            store.client.log_batch(seen.run_id, tags=[RunTag(key, value) for key, value in batch])
        seen.tags |= changed

    def _send_curve(self, store: Store, run: PlannedRun, seen: Seen) -> None:
        now = int(time.time() * 1000)
        for batch in content.curve(run.dir.metrics(), after=seen.curve_step(), n_steps=run.spec.n_steps, now_ms=now):
            self._log(store, seen, batch)
            self._remember(store, run, seen)

    def _send_results(
        self, store: Store, run: PlannedRun, seen: Seen, probed: Mapping[str, Sequence[ProbeResult]]
    ) -> None:
        """Totals, and read-outs at the step their tag gives them, which is written before them."""
        metrics = content.totals(run)
        order = {
            task: seen.tags.get(READ + task, "").split() for task in {r.task for rs in probed.values() for r in rs}
        }
        for fingerprint, results in probed.items():
            for task in {result.task for result in results} - {t for t, known in order.items() if fingerprint in known}:
                order[task].append(fingerprint)
        self._tag(store, seen, {READ + task: " ".join(known) for task, known in order.items()})
        for task, known in order.items():
            for step, fingerprint in enumerate(known):
                metrics += content.read_outs(run.dir, fingerprint, task, step)
        missing = [metric for metric in metrics if metric.step > seen.steps.get(metric.key, -1)]
        for batch in chunks(missing, content.METRICS_PER_BATCH):
            self._log(store, seen, batch)

    def _log(self, store: Store, seen: Seen, batch: list[Metric]) -> None:
        store.client.log_batch(seen.run_id, metrics=batch)
        seen.steps |= {metric.key: metric.step for metric in batch}

    # --- what is remembered beside the run --------------------------------------------------------------------

    def _state(self, store: Store, run: PlannedRun) -> dict[str, Any] | None:
        """None for a run that this store was never sent."""
        state = (read_json(run.dir.path / "mlflow.json") or {}).get(self.uri)
        return state if state is not None and state.get("store") == store.identity else None

    def _remember(self, store: Store, run: PlannedRun, seen: Seen, told: Mapping[str, Any] | None = None) -> None:
        """`told`: the directory's content when all of it was sent; else what that was before is kept."""
        path = run.dir.path / "mlflow.json"
        told = told or self._state(store, run) or {}
        state = {
            "store": store.identity,
            "run_id": seen.run_id,
            "status": seen.status,
            "sweeps": _sweeps(seen),
            "step": seen.curve_step(),
            "metrics": told.get("metrics", 0),
            "probes": told.get("probes", []),
        }
        states = read_json(path) or {}
        if states.get(self.uri) != state:
            write_json(path, {**states, self.uri: state})

    def _told(self, store: Store, run: PlannedRun, status: str) -> bool:
        """Whether the store, as far as is remembered, has all of a run that ended."""
        state = self._state(store, run)
        return (
            state is not None
            and state["status"] == STATUS[status]
            and state["metrics"] == _size(run)
            and self.plan.sweep.name in state["sweeps"]
            and {path.stem for path in (run.dir.path / "probes").glob("*.json")} <= set(state["probes"])
        )


def _sweeps(seen: Seen) -> list[str]:
    return [name for name in seen.tags.get(SWEEPS, "").split(", ") if name]


def _size(run: PlannedRun) -> int:
    """Bytes of the curve's file; 0 without any."""
    path = run.dir.path / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0
