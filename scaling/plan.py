"""Specs + what they cost + what is already done -> the plan that is printed and then carried out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaling.budgeting import run_at, unseen
from scaling.config import Sweep, parse
from scaling.cost import Measured, cost_of
from scaling.data.source import Source, TaskInfo
from scaling.document import Document
from scaling.errors import Problem, SpecError, unknown
from scaling.expected import Expected
from scaling.grid import NO_MIXTURE, Excluded, Point, RunSpec, expand, fingerprint, held_out
from scaling.opening import open_source, source_of
from scaling.options import Options
from scaling.planned import Job, PlannedRun, Standing
from scaling.rundir import RunDir, read_json, write_whole
from scaling.sets import NO_SET, chosen_sets, learns_from_labels, misnamed, withheld

__all__ = [
    "Job",
    "Plan",
    "PlannedRun",
    "load_plan",
    "make_plan",
    "open_source",
    "plan_path",
    "source_of",
    "sweep_names",
    "with_holdout",
]

PLAN_SCHEMA = 2
"""Raised when the layout of a kept plan changes."""
PROBE_SCHEMA = 3
"""Raised when the meaning of a probe's fingerprint or of its result changes."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    sweep: Sweep
    document: Document
    root: Path
    runs: tuple[PlannedRun, ...]
    excluded: tuple[Excluded, ...]
    tasks: tuple[TaskInfo, ...]
    synthetic: bool
    missing: tuple[Problem, ...] = ()
    """Files that are not here: then this is a price alone, and which runs are done is unknown."""
    of_the_data: tuple[str, ...] = ()
    """What the source left out, and why; a line each."""

    def job(self, run: PlannedRun) -> Job:
        return Job(
            spec=run.spec,
            data=self.sweep.data,
            mixture=None if run.point.mixture == NO_MIXTURE else self.sweep.mixtures[run.point.mixture],
            tasks={f: vars(info) for f, info in run.tasks.items()},
            probe=self.sweep.probe,
            cache=str(self.root / "cache"),
            checkpoint_minutes=self.sweep.pretrain.checkpoint_minutes,
            use_gpu=self.sweep.resources.gpus != 0,
            cpus=self.sweep.resources.cpus,
            online=self.sweep.pretrain.online_probe,
            compile=self.sweep.pretrain.compile,
            synthetic=self.synthetic,
        )

    @property
    def path(self) -> Path:
        """Where the plan is kept, so that status and reports need neither the YAML nor the data."""
        return plan_path(self.root, self.sweep.name)

    @property
    def folder(self) -> Path:
        """Of the sweep's own files: plan.json, control.json, events.jsonl."""
        return self.path.parent

    @property
    def tracking_uri(self) -> str:
        """Of the MLflow store: the YAML's, or a SQLite file beside the runs. A relative path is one under the root."""
        uri = self.sweep.tracking.uri or "sqlite:///mlflow.db"
        path = uri.removeprefix("sqlite:///")
        return uri if path == uri or path.startswith("/") else f"sqlite:///{(self.root / path).resolve()}"

    def save(self) -> None:
        runs = [
            {
                "run": run.dir.run,
                "spec": run.spec.model_dump(mode="json"),
                "probes": list(run.tasks),
                "n_by_modality": dict(run.n_by_modality),
                "n_unique_by_modality": dict(run.n_unique_by_modality),
            }
            for run in self.runs
        ]
        kept = {
            "schema": PLAN_SCHEMA,
            "yaml": self.document.text,
            "yaml_path": self.document.path,
            "data": self.sweep.data.model_dump(mode="json"),
            "synthetic": self.synthetic,
            "of_the_data": list(self.of_the_data),
            "tasks": [vars(info) for info in self.tasks],
            "runs": runs,
            "excluded": [{"point": vars(e.point), "rule": e.rule} for e in self.excluded],
        }
        write_whole(self.path, json.dumps(kept, allow_nan=False))  # on one line: a tenth of the time of an indented one

    def unique(self) -> dict[str, PlannedRun]:
        """Fingerprint -> run; points of the grid that are the same run once."""
        return {run.dir.run: run for run in self.runs}

    def standings(self) -> dict[str, Standing]:
        """Fingerprint -> how the run stands now."""
        return {fingerprint: run.standing() for fingerprint, run in self.unique().items()}

    def measured(self, standings: Mapping[str, Standing] | None = None) -> list[Measured]:
        """Times of this plan's finished runs, as they stand now or as `standings` says: training, and what the
        history of attempts knows beside it."""
        found = []
        for key, run in self.unique().items():
            record = run.dir.record() if standings is None else standings[key].record
            if record is not None and record.status == "done":
                # A baseline's record has no seconds: what it took was its probes, which only the history has.
                seconds = run.first_seconds() or record.train_seconds
                found += [run.measured(seconds)] if seconds > 0 else []
        return found


def plan_path(root: Path, name: str) -> Path:
    """The plan's file; in its folder lies all that belongs to the sweep and to no single run."""
    return root / "sweeps" / name / "plan.json"


def sweep_names(root: Path) -> list[str]:
    """Of the sweeps that were run on this root."""
    return sorted(path.parent.name for path in (root / "sweeps").glob("*/plan.json"))


def load_plan(root: Path, name: str) -> Plan:
    """The plan of the last `scaling run` of a sweep. Raises SpecError without one, or with one of an older layout."""
    kept = read_json(plan_path(root, name))
    if kept is None:
        what = f"{unknown('sweep', name, sweep_names(root))}; run it first, or give --root"
        raise SpecError([Problem(where=str(root), what=what)])
    if kept.get("schema") != PLAN_SCHEMA:
        what = f"sweep '{name}' was planned by another version of this program; `scaling run {kept['yaml_path']}` again"
        raise SpecError([Problem(where=str(root), what=what)])
    document = Document(kept["yaml_path"], kept["yaml"])
    sweep = parse(document)
    sweep = sweep.model_copy(update={"data": type(sweep.data).model_validate_json(json.dumps(kept["data"]))})
    tasks = tuple(TaskInfo(**info) for info in kept["tasks"])
    return Plan(
        sweep=sweep,
        document=document,
        root=root,
        runs=tuple(_kept_run(root, values, tasks, sweep) for values in kept["runs"]),
        excluded=tuple(Excluded(point=Point(**e["point"]), rule=e["rule"]) for e in kept["excluded"]),
        tasks=tasks,
        synthetic=kept["synthetic"],
        of_the_data=tuple(kept.get("of_the_data", ())),
    )


def with_holdout(plan: Plan, sweep: Sweep, document: Document) -> Plan:
    """The kept plan, holding out what its YAML says now if that is all that was edited since.

    Nothing else of a YAML may change without a `scaling run`; what is held out changes no run. Raises SpecError for a
    rule without effect.
    """
    before = {"holdout": plan.sweep.holdout, "data": plan.sweep.data}
    if sweep.holdout == plan.sweep.holdout or sweep.model_copy(update=before) != plan.sweep:
        return plan
    expand(sweep, document)
    runs = [replace(run, holdout=held_out(sweep, run.point)) for run in plan.runs]
    if problems := list(_half_held_out(document, runs)):
        raise SpecError(problems)
    now = sweep.model_copy(update={"data": plan.sweep.data})
    return replace(plan, sweep=now, document=document, runs=tuple(runs))


def _kept_run(root: Path, values: dict[str, Any], tasks: tuple[TaskInfo, ...], sweep: Sweep) -> PlannedRun:
    """With the fingerprint it was planned with: that names its directory, whatever this version would make of it."""
    run_spec = RunSpec.model_validate_json(json.dumps(values["spec"]))
    return PlannedRun(
        point=run_spec.point,
        spec=run_spec,
        cost=cost_of(run_spec),
        dir=RunDir(root / "runs" / values["run"]),
        tasks=dict(zip(values["probes"], tasks, strict=True)),
        n_by_modality=values["n_by_modality"],
        n_unique_by_modality=values.get("n_unique_by_modality", values["n_by_modality"]),  # older: none was repeated
        holdout=held_out(sweep, run_spec.point),
    )


Tuned = Mapping[tuple[str, str], Options]
"""(algorithm, model) -> the algorithm's options as the sweep's tuning chose them."""


def make_plan(sweep: Sweep, document: Document, source: Source | Expected, tuned: Tuned | None = None) -> Plan:
    """Of what is `Expected` where the files are not here. Raises SpecError for mixtures the source cannot fill, unknown
    tasks and modalities, points that do not see all their images, and an empty grid."""
    points, excluded = expand(sweep, document)
    tasks, modalities = _offered(sweep, document, source)
    problems = [*_unfollowed(sweep, document, tasks), *(misnamed(sweep, document, modalities) if modalities else ())]
    if problems:
        raise SpecError(problems)
    if isinstance(source, Expected):
        sets = source.sets(sweep, document, points)
    else:
        sets = chosen_sets(sweep, document, source, points)
    root, settings = Path(sweep.root).resolve(), _probe_settings(sweep)
    runs = []
    for point in points:
        chosen = sets.get((point.mixture, point.n_images), NO_SET)
        run_spec = run_at(
            sweep,
            point,
            chosen.identity,
            (tuned or {}).get((point.algorithm, point.model)),
            chosen.labels if learns_from_labels(point) else None,
            n_unique=chosen.n_unique,
        )
        run = run_spec.fingerprint
        runs.append(
            PlannedRun(
                point=point,
                spec=run_spec,
                cost=cost_of(run_spec),
                dir=RunDir(root / "runs" / run),
                tasks={_probe_print(run, info, settings): info for info in tasks},
                n_by_modality=chosen.n_by_modality,
                n_unique_by_modality=chosen.n_unique_by_modality,
                holdout=held_out(sweep, point),
            )
        )
    problems = [*_half_held_out(document, runs), *unseen(sweep, document, (run.spec for run in runs))]
    if problems:
        raise SpecError(document.in_order(problems))
    return Plan(
        sweep=sweep,
        document=document,
        root=root,
        runs=tuple(runs),
        excluded=tuple(excluded),
        tasks=tasks,
        synthetic=source.synthetic,
        missing=source.missing if isinstance(source, Expected) else (),
        of_the_data=tuple(withheld(source)),
    )


def _half_held_out(document: Document, runs: list[PlannedRun]) -> Iterator[Problem]:
    """Two points may be one run, as where two mixtures weigh alike: fitted under one name, it is not held out."""
    first: dict[str, PlannedRun] = {}
    for run in runs:
        other = first.setdefault(run.dir.run, run)
        if run.holdout != other.holdout:
            held, fitted = (run, other) if run.holdout else (other, run)
            what = f"holds out {held.point}, which is the same run as {fitted.point}; hold out both or neither"
            yield document.problem(("holdout",), what)


def probe_fingerprint(run: str, task: TaskInfo, sweep: Sweep) -> str:
    """Of one task's read-outs: changes with the run, the task's data and the probes' settings, with nothing else."""
    return _probe_print(run, task, _probe_settings(sweep))


def _probe_settings(sweep: Sweep) -> dict[str, Any]:
    return sweep.probe.identity()


def _probe_print(run: str, task: TaskInfo, settings: Mapping[str, Any]) -> str:
    return fingerprint({"schema": PROBE_SCHEMA, "run": run, "task": task.identity, "name": task.name, **settings})


def _offered(sweep: Sweep, document: Document, source: Source | Expected) -> tuple[tuple[TaskInfo, ...], Sequence[str]]:
    """The tasks to probe, and the modalities there are; none where nothing is known of them."""
    if isinstance(source, Expected):
        known = source.tasks
        tasks = source.named(sweep.probe.tasks) if known is None else _tasks(sweep, document, known)
        return tasks, source.modalities
    return _tasks(sweep, document, source.tasks()), source.pool().modalities


def _tasks(sweep: Sweep, document: Document, infos: Sequence[TaskInfo]) -> tuple[TaskInfo, ...]:
    offered = {info.name: info for info in infos}
    wanted = sweep.probe.tasks
    if wanted == "all":
        if not offered:
            raise SpecError([document.problem(("data",), "defines no task to probe; give a pack `task:`")])
        return tuple(offered.values())
    problems = [
        document.problem(("probe", "tasks", i), unknown("task", name, offered))
        for i, name in enumerate(wanted)
        if name not in offered
    ]
    if problems:
        raise SpecError(problems)
    return tuple(offered[name] for name in wanted)


def _unfollowed(sweep: Sweep, document: Document, tasks: Sequence[TaskInfo]) -> list[Problem]:
    """Tasks named for the online probe that the sweep does not probe."""
    wanted, probed = sweep.pretrain.online_probe.tasks, [info.name for info in tasks]
    at = ("pretrain", "online_probe", "tasks")
    return [
        document.problem((*at, i), unknown("task", name, probed))
        for i, name in enumerate(wanted if isinstance(wanted, list) else [])
        if name not in probed
    ]
