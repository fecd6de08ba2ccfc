"""What a plan knows of its runs from their directories alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scaling.config import load
from scaling.plan import Plan, PlannedRun, make_plan, open_source
from scaling.records import RunRecord, Status
from scaling.rundir import write_json

STORE = "sqlite:///somewhere.db"


@pytest.fixture
def plan(sweep_file: Callable[..., Path]) -> Plan:
    sweep, document = load(sweep_file())
    sweep, source = open_source(sweep, document)
    return make_plan(sweep, document, source)


def finish(run: PlannedRun, *, status: Status = "done", seconds: float = 10.0) -> None:
    record = RunRecord(
        run=run.dir.run,
        status=status,
        n_params=1,
        n_params_total=1,
        images_seen=64,
        train_flops=run.cost.train_flops,
        train_seconds=seconds,
        train_loss=None,
    )
    write_json(run.dir.path / "result.json", record.to_json())


def probe(run: PlannedRun) -> list[str]:
    for fingerprint in run.tasks:
        write_json(run.dir.path / "probes" / f"{fingerprint}.json", [])
    return list(run.tasks)


def mirror(run: PlannedRun, probes: list[str], status: str = "FINISHED") -> None:
    write_json(run.dir.path / "mlflow.json", {STORE: {"run_id": "1", "step": 0, "probes": probes, "status": status}})


def test_a_run_is_mirrored_when_the_store_has_all_its_read_outs(plan: Plan) -> None:
    run = plan.runs[0]
    finish(run)
    probes = probe(run)
    assert not run.mirrored(STORE)
    mirror(run, probes[:-1])
    assert not run.mirrored(STORE)
    mirror(run, probes, "RUNNING")
    assert not run.mirrored(STORE)
    mirror(run, probes)
    assert run.mirrored(STORE)
    assert not run.mirrored("sqlite:///elsewhere.db")


def test_a_diverged_run_is_done_and_mirrored_without_read_outs(plan: Plan) -> None:
    run = plan.runs[0]
    finish(run, status="diverged")
    mirror(run, [])
    assert run.done
    assert run.mirrored(STORE)


def test_what_is_trained_is_not_estimated_to_be_trained_again(plan: Plan) -> None:
    trained, waiting = plan.runs[0], plan.runs[1]
    assert (trained.point.model, trained.point.algorithm) == (waiting.point.model, waiting.point.algorithm)
    finish(trained)
    assert plan.estimate(waiting, plan.measured()) == pytest.approx(10.0)
    assert plan.estimate(trained, plan.measured()) is None  # no probe was timed yet
    probes_alone = [*plan.measured(), trained.measured(3.0, probes_only=True)]
    assert plan.estimate(trained, probes_alone) == pytest.approx(3.0)


def test_a_baselines_record_is_no_evidence_on_time(plan: Plan) -> None:
    baseline = next(run for run in plan.runs if run.point.algorithm == "random")
    finish(baseline, seconds=0.0)
    assert plan.measured() == []
