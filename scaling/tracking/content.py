"""A run directory in MLflow's words: parameters, tags, data sets, curves, totals, read-outs. Asks no store."""

from __future__ import annotations

import json
import math
import shlex
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_GIT_COMMIT, MLFLOW_USER

from scaling.cost import Counts
from scaling.plan import Plan, PlannedRun
from scaling.records import ProbeResult
from scaling.rundir import RunDir, read_json
from scaling.settings import peak_lr

METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100
PARAM_LENGTH, TAG_LENGTH, DIGEST_LENGTH = 6000, 5000, 36
"""MLflow's limits."""
POINTS = 500
"""Per curve at most: MLflow's pages slow down with more, and the whole file is an artifact."""
SYSTEM = "system/"
"""Prefix that MLflow shows on a page of its own; the worker writes it."""
NAMED = (SYSTEM, "health/", "probe_auc/")
"""Prefixes that the worker writes itself; what has none of them is of the training step."""
TOTALS = (
    *Counts.__annotations__,
    "images_seen",
    "train_flops",
    "train_seconds",
    "gpu_seconds",
    "peak_lr",
    "train_loss",
)
READ_OUTS = ("auc", "auc_se", "accuracy", "accuracy_se")


# --- what a run is ------------------------------------------------------------------------------------------------


def params(run: PlannedRun) -> dict[str, str]:
    values = {
        **run.spec.model_dump(mode="json"),
        **run.cost.counts,
        "peak_lr": peak_lr(run.spec),
        "train_flops": run.cost.train_flops,
        "n_by_modality": dict(run.n_by_modality),
        "n_unique_by_modality": dict(run.n_unique_by_modality) if run.spec.repeated_from else {},
    }
    return {key: str(value)[:PARAM_LENGTH] for key, value in _flat(values).items() if value not in (None, "")}


def inputs(plan: Plan, run: PlannedRun) -> list[DatasetInput]:
    """Data sets by name and identity; nothing is uploaded."""
    options = plan.sweep.data.model_dump(mode="json")
    used = [_input(info.name, info.identity, options, "probe") for info in run.tasks.values()]
    if run.spec.data_identity:
        name = f"{options['source']}/{run.point.mixture}/{run.point.n_images}"
        used.insert(0, _input(name, run.spec.data_identity, options, "pretraining"))
    return used


def _input(name: str, identity: str, options: Mapping[str, Any], context: str) -> DatasetInput:
    source = json.dumps({"identity": identity, **options}, sort_keys=True)
    dataset = Dataset(name, identity[:DIGEST_LENGTH], source_type=f"scaling.{options['source']}", source=source)
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


# --- how it stands ------------------------------------------------------------------------------------------------


def state_on_disk(run: PlannedRun) -> str | None:
    """done, diverged, collapsed, failed or stopped, by what its directory holds; None when it never began."""
    record = run.dir.record()
    if record is not None and run.done:
        return record.status
    if run.dir.failure() is not None:
        return "failed"
    began = record is not None or run.dir.last_metrics() is not None or bool(run.dir.attempts())
    return "stopped" if began else None


def tags(run: PlannedRun) -> dict[str, str]:
    """Where it is and with what it was computed, as far as that is known by now."""
    path = run.dir.path.resolve()
    lease = read_json(path / "lease.json") or {}
    found = {"scaling.directory": str(path), "scaling.attempts": str(lease.get("attempt", ""))}
    found |= {f"scaling.{n.split('.')[0]}": str(path / n) for n in ("encoder.pt",) if (path / n).exists()}
    return {key: value[:TAG_LENGTH] for key, value in {**found, **_provenance(path)}.items() if value}


def reason(run: PlannedRun) -> str:
    """Why there is no good result; empty otherwise."""
    record, failure = run.dir.record(), run.dir.failure()
    if failure is not None and not run.done:
        return f"{failure['kind']}: {failure['error']}"[:TAG_LENGTH]
    return record.reason[:TAG_LENGTH] if record else ""


def _provenance(path: Path) -> dict[str, str]:
    """Of the newest attempt, with what is kept beside the code it ran."""
    attempts = [file for file in (path / "provenance").glob("*.json") if file.stem.isdigit()]
    if not attempts:
        return {}
    attempt = read_json(max(attempts, key=lambda file: int(file.stem))) or {}
    code = read_json(Path(str(attempt.get("code", ""))) / "provenance.json") or {}
    known = _flat({**code, **attempt})
    words = {
        key: shlex.join(map(str, v)) if isinstance(v, list) else str(v) for key, v in known.items() if v is not None
    }
    named = {MLFLOW_GIT_COMMIT: words.get("commit", ""), MLFLOW_USER: words.get("user", "")}
    return {**{f"provenance.{key}": value for key, value in words.items() if key not in ("pid", "time")}, **named}


def began_ms(run: PlannedRun) -> int | None:
    """Unix time of the first attempt, ms; None if unknown."""
    first = next((line["began"] for line in run.dir.attempts() if "began" in line), None)
    return _ms(first) if first else _mtime_ms(run.dir.path / "job.json")


def ended_ms(run: PlannedRun) -> int | None:
    """Unix time of the newest file that a worker left, ms."""
    names = ("metrics.jsonl", "result.json", "failed.json")
    times = [_mtime_ms(path) for path in [run.dir.path / n for n in names] + list(run.dir.path.glob("probes/*.json"))]
    return max((time for time in times if time is not None), default=None)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _mtime_ms(path: Path) -> int | None:
    try:
        return _ms(path.stat().st_mtime)
    except FileNotFoundError:
        return None


# --- numbers ------------------------------------------------------------------------------------------------------


def is_curve(key: str) -> bool:
    return key.startswith(("train/", *NAMED))


def curve(lines: Iterable[dict[str, Any]], *, after: int, n_steps: int, now_ms: int) -> Iterator[list[Metric]]:
    """Batches of the points beyond step `after`, thinned; each ends with a line, so what a store has ends with one.

    Of each of POINTS equal stretches of the run the first line: which that is depends on nothing but its step and what
    was sent before, so that a run sent in pieces keeps as few points as one sent whole.
    """
    batch: list[Metric] = []
    for line in lines:
        step = line["step"]
        if step <= after or (after > 0 and _stretch(step, n_steps) <= _stretch(after, n_steps)):
            continue
        points = _points(line, now_ms)
        if len(batch) + len(points) > METRICS_PER_BATCH:
            yield batch
            batch = []
        batch += points
        after = step
    if batch:
        yield batch


def _stretch(step: int, n_steps: int) -> int:
    """The last step has one of its own."""
    return step * (POINTS - 1) // max(1, n_steps)


def _points(line: dict[str, Any], now_ms: int) -> list[Metric]:
    time = _ms(line["time"]) if "time" in line else now_ms
    return [
        Metric(key if key.startswith(NAMED) else f"train/{key}", value, time, line["step"])
        for key, value in line.items()
        if key not in ("step", "time") and isinstance(value, int | float)
    ]


def totals(run: PlannedRun) -> list[Metric]:
    record, time = run.dir.record(), _mtime_ms(run.dir.path / "result.json")
    if record is None or time is None:
        return []
    values = {key: getattr(record, key) for key in TOTALS}
    return [Metric(key, float(value), time, 0) for key, value in values.items() if value is not None]


def probed(run_dir: RunDir) -> dict[str, list[ProbeResult]]:
    """Fingerprint -> read-outs of one task, of all sweeps that probed the run, the oldest first."""
    files = sorted((run_dir.path / "probes").glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    return {path.stem: results for path in files if (results := run_dir.probes(path.stem)) is not None}


def read_outs(run_dir: RunDir, fingerprint: str, task: str, step: int) -> list[Metric]:
    """Of one probing of a task, none if it is gone; a task that was probed in several ways has a step for each."""
    results, time = run_dir.probes(fingerprint), _mtime_ms(run_dir.path / "probes" / f"{fingerprint}.json")
    return [metric for result in results or () if result.task == task for metric in _read_out(result, time or 0, step)]


def _read_out(result: ProbeResult, time: int, step: int) -> Iterator[Metric]:
    for key in READ_OUTS:
        value = getattr(result, key)
        if value is not None and math.isfinite(value):
            yield Metric(f"probe/{result.task}/{result.probe}/{key}", value, time, step)


def checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}-{len(content)}"


def checksum_of(files: Iterable[tuple[str, Path]]) -> str:
    """Of names and contents."""
    return checksum(json.dumps([(name, checksum(path.read_bytes())) for name, path in sorted(files)]).encode())


def files_in(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()]
