"""Sweeps for benchmarks: plans of any size, code whose runs only sleep, and directories of runs that never ran."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from scaling.config import load
from scaling.live import View
from scaling.plan import Plan, make_plan, open_source
from scaling.planned import PlannedRun
from scaling.provenance import freeze
from scaling.records import ProbeResult, RunRecord

SWEEP = """\
name: bench
question: What does the bookkeeping cost?
grid:
  model: [{models}]
  algorithm: [{algorithms}]
  n_images: [{n_images}]
  mixture: [{mixtures}]
  seed: [{seeds}]
mixtures:
{shares}
data: {{source: phantoms, image_size: 32}}
encoder: {{patch_size: 4}}
pretrain: {{images_seen: 20000, batch_size: 64}}
baselines: []
probe: {{tasks: {tasks}, bootstrap: 20}}
resources: {{gpus: 0, cpus: 1}}
root: {root}
"""
MODELS = ("vit_atto", "vit_femto", "vit_pico", "vit_nano", "vit_micro", "vit_ti", "vit_s", "vit_m", "vit_b", "vit_l")
MIXTURES = {
    "all": "natural",
    "ct_only": "{ct: 1}",
    "mr_only": "{mr: 1}",
    "radiology": "{ct: 1, mr: 1, xray: 1}",
    "halves": "{ct: 1, microscopy: 1}",
}


def write_sweep(
    folder: Path,
    *,
    models: Sequence[str] = ("vit_atto",),
    algorithms: Sequence[str] = ("mae",),
    n_images: Sequence[int] = (1024,),
    mixtures: Sequence[str] = ("all",),
    n_seeds: int = 1,
    tasks: str = "[ct_lesion]",
) -> Path:
    """The YAML, with its root beside it."""
    text = SWEEP.format(
        models=", ".join(models),
        algorithms=", ".join(algorithms),
        n_images=", ".join(map(str, n_images)),
        mixtures=", ".join(mixtures),
        seeds=", ".join(map(str, range(n_seeds))),
        shares="\n".join(f"  {name}: {MIXTURES[name]}" for name in mixtures),
        tasks=tasks,
        root=folder / "state",
    )
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def planned(path: Path) -> Plan:
    sweep, document = load(path)
    sweep, source = open_source(sweep, document)
    return make_plan(sweep, document, source)


def two_thousand(folder: Path) -> Path:
    """A YAML of 2,000 points with all five tasks."""
    return write_sweep(
        folder,
        models=MODELS[:5],
        algorithms=("mae", "dinov2"),
        n_images=(512, 1024, 2048, 4096, 8192),
        mixtures=tuple(MIXTURES)[:4],
        n_seeds=10,
        tasks="all",
    )


def silent() -> View:
    return View(Console(file=io.StringIO(), width=200))


# --- runs that only sleep ---------------------------------------------------------------------------------------

SLEEPING = '''

def execute(attempt: Attempt, member: Member, on_step: OnStep) -> None:
    """What a benchmark puts in the place of pretraining and probing: so many seconds, then the files of a result."""
    attempt.begin("pretrain")
    job = Job.model_validate_json((attempt.path / "job.json").read_text())
    time.sleep({seconds})
    for fingerprint in job.tasks:
        attempt.write_json(attempt.path / "probes" / f"{{fingerprint}}.json", [])
    record = RunRecord(
        run=attempt.run_dir.run, status="done", n_params=1, n_params_total=1, images_seen=1, train_flops=1.0,
        train_seconds={seconds}, train_loss=None,
    )
    attempt.write_json(attempt.path / "result.json", record.to_json())
'''


def sleeping_code(root: Path, seconds: float) -> Path:
    """The snapshot a driver of this root will run, changed: lease, fork, log, fence and exit are the real ones."""
    code = freeze(root)  # a driver finds it made and takes it as it is
    with open(code / "scaling" / "worker.py", "r+") as file:
        lines = file.read()
        main = lines.index('if __name__ == "__main__":')
        file.seek(main)
        file.write(SLEEPING.format(seconds=seconds) + "\n\n" + lines[main:])
    return code


# --- runs that never ran ----------------------------------------------------------------------------------------


def fabricate(plan: Plan) -> None:
    """Of every 20 runs 17 done, one diverged, one failed, one not begun, with the files such runs leave."""
    plan.save()
    for i, run in enumerate(plan.runs):
        kind = {17: "diverged", 18: "failed", 19: "waiting"}.get(i % 20, "done")
        if kind != "waiting":
            _leave(run, kind)


def _leave(run: PlannedRun, kind: str) -> None:
    path, now = run.dir.path, time.time()
    (path / "probes").mkdir(parents=True)

    def write(name: str, value: object) -> None:  # not synced to disk one by one, as a real run's are
        (path / name).write_text(json.dumps(value, indent=1) + "\n")

    write("lease.json", {"token": "gone", "attempt": 1, "owner": "bench", "time": now})
    write(
        "heartbeat.json", {"host": os.uname().nodename, "pid": 2**22 + 1, "token": "gone", "phase": "probe ct_lesion"}
    )
    (path / "log.txt").write_text("")
    steps = [
        {"step": step, "images_seen": 64 * step, "seconds": 0.1 * step, "loss": 1 / step, "lr": 1e-3}
        for step in range(1, 301, 6)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    given = {"cpus": 1, "gpus": 0.0, "memory": 0}
    began = {"attempt": 1, "began": now - 60, "sweep": "bench", "owner": "bench", "node": "here", "n_micro": 1, **given}
    used = {"seconds": 30.0, "gpu_seconds": 0.0, "cpu_seconds": 30.0}
    ended = {"ended": now - 30, "outcome": "error" if kind == "failed" else kind, "error": "", **used}
    (path / "attempts.jsonl").write_text(json.dumps(began) + "\n" + json.dumps(ended) + "\n")
    if kind == "failed":
        write("failed.json", {"kind": "error", "error": "ValueError: made up", "log": str(path / "log.txt")})
        return
    write("result.json", _record(run, kind).to_json())
    if kind == "done":
        for fingerprint, info in run.tasks.items():
            write(f"probes/{fingerprint}.json", [asdict(_read_out(info.name, probe)) for probe in ("linear", "knn")])


def _record(run: PlannedRun, kind: str) -> RunRecord:
    cost = run.cost
    return RunRecord(
        run=run.dir.run,
        status="diverged" if kind == "diverged" else "done",
        n_params=cost.n_params,
        n_params_total=cost.n_params_total,
        images_seen=run.spec.images_seen,
        train_flops=cost.train_flops,
        train_seconds=30.0,
        train_loss=None if kind == "diverged" else 0.1,
        n_params_by_part=dict(cost.n_params_by_part),
        environment={"device": "cpu", "precision": "fp32", "host": "here"},
        reason="the loss became infinite or not a number" if kind == "diverged" else "",
    )


def _read_out(task: str, probe: str) -> ProbeResult:
    return ProbeResult(
        task=task,
        modality="ct",
        probe=probe,
        auc=0.9,
        auc_se=0.01,
        accuracy=0.8,
        accuracy_se=0.01,
        chance_auc=0.5,
        chance_accuracy=0.5,
        n_test=640,
        settings={"C": 1.0},
    )
