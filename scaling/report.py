"""Run directories -> observation and task tables -> `analysis`, which writes the report. Imports no torch."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.tables.problems import InputError
from scaling.choice import finished, rows_of
from scaling.data.cache import SPLITS, cached_task
from scaling.data.contact_sheet import contact_sheet, sample
from scaling.data.source import MIXED, TaskInfo
from scaling.errors import Problem, RunFailed, SpecError
from scaling.plan import Plan, PlannedRun, source_of
from scaling.pretraining import Pretraining
from scaling.records import COLUMNS, TUNING_COLUMNS, UNSOUND, ProbeResult, RunRecord
from scaling.rundir import read_json, write_json, write_whole
from scaling.settings import differences, peak_lr, recipe
from scaling.trajectories import trajectories

VERSIONS = ("numpy", "scipy", "torch", "timm", "scikit-learn", "ray", "mlflow")


def observations(plan: Plan) -> pd.DataFrame:
    """One row per run x task x probe of the finished runs and of those that failed; `COLUMNS` says what each is."""
    set_apart = _settings(plan)
    rows = [row for run in plan.runs for row in _rows(run, set_apart[run.dir.run])]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _settings(plan: Plan) -> dict[str, str]:
    """By run, what sets it apart from the sweep's other runs of its algorithm."""
    of = defaultdict[str, list[PlannedRun]](list)
    for run in plan.runs:
        of[run.point.algorithm].append(run)
    alike = [(runs, differences([run.spec.options for run in runs])) for runs in of.values()]
    return {run.dir.run: text for runs, texts in alike for run, text in zip(runs, texts, strict=True)}


def _rows(run: PlannedRun, set_apart: str) -> Iterator[dict[str, Any]]:
    """Nothing while a run is under way: half its tasks would leave only those to compare all runs on."""
    record, failure = run.dir.record(), run.dir.failure()
    if failure is None and not run.done:
        return
    common = {
        "run": run.dir.run,
        **vars(run.point),
        "n_images": run.spec.n_unique,
        "n_images_asked": run.point.n_images,
        "epochs": _epochs(run, record.images_seen if record else run.spec.images_seen),
        "holdout": run.holdout,
        "shares": _shares(run.n_by_modality),
        "recipe": recipe(run.spec.options),
        "settings": set_apart,
        "peak_lr": peak_lr(run.spec),
    }
    if record is None:
        if failure is not None:
            yield {**common, "status": "failed", "reason": failure["error"]}
        return
    common = {**run.cost.counts, **_record_columns(record), **common}
    results = [result for f in run.tasks for result in run.dir.probes(f) or []]
    if record.status in UNSOUND or not results:
        reason = record.reason or (failure["error"] if failure else "not probed yet")
        yield {**common, "status": record.status if not failure else "failed", "reason": reason}
        return
    for result in results:
        yield {**common, **_probe_columns(result)}


def _shares(n_by_modality: Mapping[str, int]) -> str:
    total = sum(n_by_modality.values())
    return _listed({name: n / total for name, n in n_by_modality.items() if n})


def _epochs(run: PlannedRun, images_seen: int) -> str:
    """Images seen of a modality over its unique ones."""
    total = sum(run.n_by_modality.values())
    seen = {name: images_seen * n / total for name, n in run.n_by_modality.items()}
    return _listed({name: seen[name] / n for name, n in run.n_unique_by_modality.items() if n})


def _listed(values: Mapping[str, float]) -> str:
    return ";".join(f"{name}={value:.8g}" for name, value in sorted(values.items()))


def _record_columns(record: RunRecord) -> dict[str, Any]:
    """Without what an older record does not say: all counts but GPU-seconds follow from what the run is."""
    values = {name: getattr(record, name) for name in COLUMNS if hasattr(record, name)}
    return {name: value for name, value in values.items() if value is not None}


def _probe_columns(result: ProbeResult) -> dict[str, Any]:
    """The column `settings` is of the run; a read-out's own are not tabled."""
    return {name: getattr(result, name) for name in COLUMNS if hasattr(result, name) and name != "settings"}


def task_table(plan: Plan) -> pd.DataFrame:
    """One row per task: what it is, and every task feature of `analysis.features`; `TASK_COLUMNS` says the rest."""
    pretraining = Pretraining(plan)
    return pd.DataFrame([_task_row(plan.root / "cache", info, pretraining) for info in plan.tasks])


def _task_row(cache: Path, info: TaskInfo, pretraining: Pretraining) -> dict[str, Any]:
    """From the cache, unless features have come since, or one means something else, or modalities have other names."""
    from analysis.features import FEATURES, PLANTED, VERSION

    run, share = pretraining.run, pretraining.share(info.modality)
    identities = [info.identity, *([run.spec.data_identity[:24]] if run else [])]
    path = cache / f"features-{info.name}-{'-'.join(identities)}.json"
    kept = read_json(path)
    given = {"version": VERSION, "modality_share": share}
    if kept is None or kept.get("given") != given or not FEATURES.keys() <= kept["features"].keys():
        kept = {"given": given, **_sizes_and_features(cache, info, pretraining)}
        if kept.pop("complete"):
            write_json(path, kept)
    named = {"task": info.name, "modality": info.modality, "kind": info.kind, "n_classes": info.n_classes}
    compared = {
        "pretraining_mixture": run.point.mixture if run else None,
        "pretraining_images": run.spec.n_unique if run else None,
    }
    planted = {} if info.scale_need is None else {PLANTED: info.scale_need}
    return {**named, **kept["sizes"], **compared, **planted, **kept["features"]}


def _sizes_and_features(cache: Path, info: TaskInfo, pretraining: Pretraining) -> dict[str, Any]:
    """Not `complete` where the source cannot be read any more; then the feature that needs it says so."""
    from analysis.features import compute
    from analysis.features.feature import TaskData

    task = cached_task(cache, info, lambda: pretraining.source)
    sizes = {f"n_{split}": len(getattr(task, split).labels) for split in SPLITS}
    images, unread = None, ""
    try:
        images = pretraining.images
    except (SpecError, OSError, RunFailed) as error:
        unread = f"the pretraining images cannot be read: {error}"
    data = TaskData(
        images=task.train.images,
        labels=task.train.labels,
        n_samples=sum(sizes.values()),
        n_classes=info.n_classes,
        modality_share=pretraining.share(info.modality),
        pretraining=images,
    )
    features = compute(data)
    if info.modality == MIXED:
        features["modality_share_reason"] = "the task's images are of several modalities"
    if unread:
        features["pretraining_distance_reason"] = unread
    return {"sizes": sizes, "features": features, "complete": not unread}


def tuning_table(plan: Plan) -> pd.DataFrame | None:
    """Trials and choices of the sweep's tuning; None without one."""
    tuning = finished(plan.sweep, plan.root)
    return None if tuning is None else pd.DataFrame(rows_of(tuning), columns=list(TUNING_COLUMNS))


def failures(plan: Plan) -> pd.DataFrame:
    """Runs without a result: which, why, and where the log is."""
    rows = [
        {"run": run.dir.run, "point": str(run.point), "error": failure["error"], "log": failure["log"]}
        for run in plan.runs
        if not run.done and (failure := run.dir.failure()) is not None
    ]
    return pd.DataFrame(rows, columns=["run", "point", "error", "log"])


def provenance(plan: Plan) -> dict[str, str]:
    """Where the numbers come from."""
    records = [record for run in plan.runs if (record := run.dir.record()) is not None]
    devices = sorted({f"{r.environment['device']}, {r.environment['precision']}" for r in records if r.environment})
    return {
        "sweep": plan.document.path,
        "runs": f"{sum(run.done for run in plan.runs)} of {len(plan.runs)} done",
        "training budget": str(plan.sweep.pretrain),
        "run directories": os.path.relpath(plan.root / "runs"),
        "devices": "; ".join(devices),
        **of_this_program(VERSIONS),
    }


def of_this_program(packages: Sequence[str]) -> dict[str, str]:
    """When, and with which code."""
    return {
        "written": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _commit() -> str:
    """Of the code in use; unknown outside a git checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (", with uncommitted changes" if git("status", "-s") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write(plan: Plan, out: Path, *, size: str = "n_params") -> Path:
    """The report's HTML file; beside it Markdown, tables and figures.

    `size`: the column that is the models' size. Raises SpecError for one that is none, or that a run lacks.
    """
    from analysis import report as analysis_report  # with SciPy and matplotlib: longer to import than a table takes

    gallery = plan.root / "cache" / f"gallery-{plan.sweep.name}.png" if plan.synthetic else None
    if gallery is not None:
        footer = "All images are synthetic: drawn by rule, none is a patient."
        write_whole(gallery, contact_sheet(sample(source_of(plan.sweep.data)), footer))
    try:
        return analysis_report.write(
            observations(plan),
            task_table(plan),
            out,
            title=plan.sweep.name,
            question=plan.sweep.question,
            provenance=provenance(plan),
            failures=failures(plan),
            tuning=tuning_table(plan),
            trajectories=trajectories(plan),
            synthetic=plan.synthetic,
            spec_text=plan.document.text,
            gallery=gallery,
            size=size,
        )
    except InputError as error:
        raise SpecError(as_problems(error)) from None


def as_problems(error: InputError) -> list[Problem]:
    """`where: what` of the analysis as problems of ours."""
    found = []
    for text in error.problems:
        where, _, what = text.partition(": ")
        found.append(Problem(where=where, what=what))
    return found
