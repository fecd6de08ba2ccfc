"""The trials of a sweep's tuning, and what their directories say of them.

A trial is a run like any other, with other options: the same fingerprint in the same directory, shared with the grid
where it equals one of its points. So nothing here knows of processes or of Ray, and a stage that was killed is taken
up by looking at directories. What can be in no run's directory stands in the sweep's folder:

trials.json    the runs that are trials, before any of them starts: nobody else may take them for abandoned
trials.jsonl   which trials were stopped early, and what a searcher proposed (a line each, as it happens)
tuning.json    the stage is over: all trials, what was chosen and by which rule (`choice.py`; written last)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scaling.budgeting import run_at, too_few
from scaling.config import Grid, Sweep
from scaling.data.source import Source
from scaling.document import Document
from scaling.errors import SpecError
from scaling.grid import Point, fingerprint
from scaling.mixtures import written
from scaling.options import Options, Recipe
from scaling.plan import Plan, make_plan, plan_path, probe_fingerprint
from scaling.planned import PlannedRun
from scaling.rundir import RunDir, read_json, read_lines, write_json
from scaling.tuning import Setting, rounded, settings

SCHEMA = 1
"""Raised when what a stage finds would be another for the same section."""
TAIL = 0.1
"""Share of the steps done, the newest, over which a running trial's loss is averaged."""

Group = tuple[str, str]
"""Algorithm and anchor: the trials that are compared with each other."""
Status = Literal["waiting", "done", "stopped", "diverged", "collapsed", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    group: Group
    setting: Setting
    run: PlannedRun


@dataclass(frozen=True, kw_only=True)
class Tried:
    """How one trial stands."""

    algorithm: str
    model: str
    n_params: int
    run: str
    lr: float
    weight_decay: float | None
    status: Status
    step: int
    n_steps: int
    loss: float | None
    """Mean over the last tenth of the steps done; None for nothing yet or a loss without a number."""
    score: float | None
    """The criterion, lower is better; None unless done."""
    reason: str = ""

    @property
    def setting(self) -> Setting:
        return Setting(lr=self.lr, weight_decay=self.weight_decay)


# --- what is tried ----------------------------------------------------------------------------------------------


def log_path(root: Path, name: str) -> Path:
    return plan_path(root, name).with_name("trials.jsonl")


def list_trials(trials: Iterable[Trial], root: Path, name: str) -> None:
    """Writes trials.json; runs of earlier stages of the sweep stay in it, for their hours count too."""
    path = plan_path(root, name).with_name("trials.json")
    mine = {t.run.dir.run: {"group": "/".join(t.group), **asdict(t.setting)} for t in trials}
    write_json(path, {**(read_json(path) or {}), **mine})


def trial_dirs(root: Path, name: str) -> list[RunDir]:
    """Of all trials that a sweep ever had, for whoever counts its hours."""
    listed = set(read_json(plan_path(root, name).with_name("trials.json")) or {})
    listed |= {line["run"] for line in read_lines(log_path(root, name))}
    return [RunDir(root / "runs" / run) for run in sorted(listed)]


def root_of(sweep: Sweep) -> Path:
    return Path(sweep.root).resolve()


def algorithms_of(sweep: Sweep) -> list[str]:
    return list(dict.fromkeys(name for part in (sweep.grid, *sweep.include) for name in part.algorithm))


def models_of(sweep: Sweep) -> list[str]:
    return list(dict.fromkeys(name for part in (sweep.grid, *sweep.include) for name in part.model))


def groups_of(sweep: Sweep) -> list[Group]:
    assert sweep.tune is not None
    return [(algorithm, model) for algorithm in algorithms_of(sweep) for model in sweep.tune.at]


def point_of(sweep: Sweep, group: Group) -> Point:
    """Where an anchor's trials stand on the axes of the grid."""
    tune, grid = sweep.tune, sweep.grid
    assert tune is not None
    return Point(
        model=group[1],
        algorithm=group[0],
        n_images=tune.n_images or max(grid.n_images),
        mixture=tune.mixture or grid.mixture[0],
        seed=grid.seed[0] if tune.seed is None else tune.seed,
    )


def key_of(sweep: Sweep, group: Group) -> str:
    """Changes with whatever makes an anchor's trials others; not with other anchors, the rule or the grid's sizes."""
    assert sweep.tune is not None
    point = point_of(sweep, group)
    identity = {
        "schema": SCHEMA,
        "run": run_at(sweep, point, "").identity(),
        "data": sweep.data.model_dump(mode="json", exclude={"root"}),
        "weights": written(sweep.mixtures[point.mixture]),
        "tune": sweep.tune.model_dump(mode="json", exclude={"at", "rule"}),
    }
    if sweep.tune.criterion == "probe":
        identity["probe"] = sweep.probe.model_dump(mode="json")
    return fingerprint(identity)


def trial_plan(sweep: Sweep, document: Document, source: Source) -> Plan:
    """One run per anchor and algorithm with the YAML's own values, from which trials are made by `trial_of`.

    Its trials are as long as the grid's runs of that size would be. Raises SpecError as `make_plan`.
    """
    assert sweep.tune is not None
    _see_all(sweep, document)
    at = point_of(sweep, groups_of(sweep)[0])
    grid = Grid(
        model=sweep.tune.at,
        algorithm=algorithms_of(sweep),
        n_images=[at.n_images],
        mixture=[at.mixture],
        seed=[at.seed],
    )
    bare = sweep.model_copy(update={"grid": grid, "exclude": [], "include": [], "baselines": []})
    plan = make_plan(bare, document, source)
    return plan if sweep.tune.criterion == "probe" else replace(plan, tasks=())


def _see_all(sweep: Sweep, document: Document) -> None:
    """Raises SpecError for anchors whose FLOPs do not pay for one pass over a trial's images."""
    assert sweep.tune is not None
    runs = [run_at(sweep, point_of(sweep, group), "") for group in groups_of(sweep)]
    if short := [run for run in runs if run.images_seen < run.n_images]:
        fewest = min(run.images_seen for run in short)
        what = f"{too_few(sweep, short[0].n_images, short)}, or give tune.n_images {fewest:,} or fewer"
        raise SpecError([document.problem(("tune", "n_images") if sweep.tune.n_images else ("tune",), what)])


def trial_of(plan: Plan, group: Group, setting: Setting) -> Trial:
    base = next(run for run in plan.runs if (run.point.algorithm, run.point.model) == group)
    run_spec = base.spec.model_copy(update={"options": with_setting(base.spec.options, setting)})
    run = run_spec.fingerprint
    tasks = {probe_fingerprint(run, info, plan.sweep): info for info in plan.tasks}
    planned = replace(base, spec=run_spec, dir=RunDir(plan.root / "runs" / run), tasks=tasks)
    return Trial(group=group, setting=setting, run=planned)


def all_trials(plan: Plan, sweep: Sweep) -> list[Trial]:
    """Every trial that is known now, none twice: all of them, or with `optuna` those proposed so far."""
    assert sweep.tune is not None
    found: dict[str, Trial] = {}
    for group in groups_of(sweep):
        wanted = settings(sweep.tune, "/".join([*group, str(point_of(sweep, group).seed)]))
        for setting in wanted or proposed(sweep, group):
            trial = trial_of(plan, group, setting)
            found.setdefault(trial.run.dir.run, trial)
    return list(found.values())


def proposed(sweep: Sweep, group: Group) -> list[Setting]:
    """What a searcher proposed for an anchor in earlier calls of the same stage, in order."""
    key = key_of(sweep, group)
    lines = read_lines(log_path(root_of(sweep), sweep.name))
    return [
        Setting(lr=line["lr"], weight_decay=line["weight_decay"])
        for line in lines
        if line["key"] == key and line["what"] == "proposed"
    ]


def with_setting(options: Options, setting: Setting) -> Options:
    """An algorithm's options with a trial's values; the end of the weight decay moves by the factor of its start."""
    assert isinstance(options, Recipe)
    changes: dict[str, Any] = {"lr": options.lr.model_copy(update={"base": setting.lr})}
    if setting.weight_decay is not None:
        changes["weight_decay"] = setting.weight_decay
        if options.weight_decay_end is not None and options.weight_decay > 0:
            factor = setting.weight_decay / options.weight_decay
            changes["weight_decay_end"] = rounded(options.weight_decay_end * factor)
    return options.model_copy(update=changes)


# --- how it stands ----------------------------------------------------------------------------------------------


def stopped_early(sweep: Sweep) -> dict[str, int]:
    """Run -> the step at which this stage stopped it."""
    keys = {key_of(sweep, group) for group in groups_of(sweep)}
    lines = read_lines(log_path(root_of(sweep), sweep.name))
    return {line["run"]: line["step"] for line in lines if line["key"] in keys and line["what"] == "stopped"}


def smoothed(lines: Iterable[Mapping[str, Any]], step: int) -> float | None:
    """Mean logged loss over the last tenth of the steps up to `step`; None where one of them had no finite loss."""
    losses = [line.get("loss") for line in lines if step * (1 - TAIL) < line["step"] <= step]
    numbers = [loss for loss in losses if loss is not None]
    return sum(numbers) / len(numbers) if numbers and len(numbers) == len(losses) else None


def look(trial: Trial, stopped: Mapping[str, int], *, by_probe: bool = False) -> Tried:
    """How a trial stands, by its directory; `stopped` as `stopped_early`."""
    run = trial.run
    record, failure, n_steps = run.dir.record(), run.dir.failure(), run.spec.n_steps
    status: Status = "waiting"
    loss = score = None
    step, reason = (run.dir.last_metrics() or {}).get("step", 0), ""
    if record is not None and (record.status == "diverged" or record.status == "collapsed"):
        status, reason = record.status, record.reason
    elif record is not None and run.done:
        status, loss, step = "done", record.train_loss, n_steps
        score = validation_error(run) if by_probe else loss
        if score is None:
            status, reason = "failed", "it has no " + ("validation AUC" if by_probe else "loss")
    elif run.dir.run in stopped:
        status, step = "stopped", min(step, stopped[run.dir.run])
    elif failure is not None:
        status, reason = "failed", failure["error"]
    if loss is None and step:
        loss = smoothed(run.dir.metrics(), step)
    return Tried(
        algorithm=trial.group[0],
        model=trial.group[1],
        n_params=run.cost.n_params,
        run=run.dir.run,
        lr=trial.setting.lr,
        weight_decay=trial.setting.weight_decay,
        status=status,
        step=step,
        n_steps=n_steps,
        loss=loss,
        score=score,
        reason=reason,
    )


def validation_error(run: PlannedRun) -> float | None:
    """Mean over tasks of 1 - AUC of the linear read-out on the validation split; None where a task has none."""
    results = [result for f in run.tasks for result in run.dir.probes(f) or [] if result.probe == "linear"]
    scores = [result.settings.get("val_auc") for result in results]
    known = [1.0 - score for score in scores if score is not None]
    return sum(known) / len(known) if known and len(known) == len(run.tasks) else None
