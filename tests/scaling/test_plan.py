"""What a plan knows of its runs from their directories alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaling.config import load
from scaling.errors import SpecError
from scaling.options import SupervisedOptions
from scaling.plan import Plan, PlannedRun, load_plan, make_plan, open_source, with_holdout
from scaling.records import RunRecord, Status
from scaling.report import observations
from scaling.rundir import append_line, read_json, write_json

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


def test_a_baselines_record_is_no_evidence_on_time(plan: Plan) -> None:
    baseline = next(run for run in plan.runs if run.point.algorithm == "random")
    finish(baseline, seconds=0.0)
    assert plan.measured() == []


def begin(run: PlannedRun, *, host: str | None = None, pid: int | None = None) -> None:
    """As a worker of this process would, on this machine unless said otherwise."""
    run.dir.lease("token")
    run.dir.begin("token", "pretrain")
    beat = read_json(run.dir.path / "heartbeat.json")
    write_json(run.dir.path / "heartbeat.json", {**beat, "host": host or beat["host"], "pid": pid or beat["pid"]})


GONE = 2**22 + 1
"""Above the largest process id of Linux."""


def test_a_run_stands_as_its_directory_says(plan: Plan) -> None:
    waiting, begun, running, failed, trained, done, diverged = plan.runs[:7]
    append_line(begun.dir.path / "metrics.jsonl", {"step": 3})
    begin(running)
    failed.dir.lease("token")
    failed.dir.fail("io", "disk full")
    finish(trained)
    finish(done)
    probe(done)
    finish(diverged, status="diverged")
    states = [run.standing().state for run in (waiting, begun, running, failed, trained, done, diverged)]
    assert states == ["waiting", "begun", "running", "failed", "to probe", "done", "diverged"]
    assert trained.standing().n_to_probe == len(trained.tasks)
    assert plan.standings()[begun.dir.run].last == {"step": 3}
    assert [s.over for s in plan.standings().values()].count(True) == 2


def test_a_run_whose_process_is_gone_is_not_running(plan: Plan) -> None:
    begin(plan.runs[0], pid=GONE)
    assert plan.runs[0].standing().state == "waiting"


def test_a_run_that_another_attempt_took_is_not_running_by_the_old_ones_word(plan: Plan) -> None:
    begin(plan.runs[0])
    plan.runs[0].dir.lease("another")
    assert plan.runs[0].standing().state == "waiting"


def test_a_run_on_another_machine_counts_as_running_while_its_heart_beats(plan: Plan) -> None:
    run = plan.runs[0]
    begin(run, host="elsewhere", pid=GONE)
    assert run.standing().state == "running"
    long_ago = time.time() - 1000
    os.utime(run.dir.path / "heartbeat.json", (long_ago, long_ago))
    assert run.standing().state == "waiting"


def test_a_kept_plan_is_the_plan(plan: Plan) -> None:
    plan.save()
    again = load_plan(plan.root, plan.sweep.name)
    assert again.runs == plan.runs
    assert again.sweep == plan.sweep
    assert (again.excluded, again.tasks, again.synthetic) == (plan.excluded, plan.tasks, plan.synthetic)
    assert plan.path == plan.root / "sweeps" / "tiny" / "plan.json"


def test_what_is_held_out_is_kept_with_the_plan_and_stands_in_the_observations(
    plan_of: Callable[..., Plan], pretend: Any
) -> None:
    plan = plan_of(("mixtures:", "holdout:\n  - {algorithm: mae, n_images: 32}\nmixtures:"))
    plan.save()
    again = load_plan(plan.root, plan.sweep.name)
    assert again.runs == plan.runs
    assert [str(run.point) for run in again.runs if run.holdout] == [
        "vit_atto/mae/32xall/s0",
        "vit_atto/mae/32xct_only/s0",
    ]
    for run in again.runs:
        pretend.failed(run, "error", "lost")
    rows = observations(again)
    assert rows.groupby("algorithm")["holdout"].sum().to_dict() == {"dinov2": 0, "mae": 2, "pixels": 0, "random": 0}


def test_a_run_cannot_be_held_out_under_one_name_and_fitted_under_another(plan_of: Callable[..., Plan]) -> None:
    again = ("mixture: [all, ct_only]", "mixture: [all, ct_only, only_ct]")
    twice = ("  ct_only: {ct: 1}\n", "  ct_only: {ct: 1}\n  only_ct: {ct: 2}\nholdout:\n  - {mixture: only_ct}\n")
    with pytest.raises(SpecError) as caught:
        plan_of(again, twice)
    assert (
        str(caught.value)
        .splitlines()[0]
        .endswith(
            "sweep.yaml:13: holdout: holds out vit_atto/mae/16xonly_ct/s0, which is the same run as "
            "vit_atto/mae/16xct_only/s0; hold out both or neither"
        )
    )


def test_a_sweep_that_was_never_run_is_told_with_the_nearest_that_was(plan: Plan) -> None:
    plan.save()
    with pytest.raises(SpecError, match="unknown sweep 'tinny'; did you mean 'tiny'"):
        load_plan(plan.root, "tinny")


def test_a_plan_of_an_older_layout_is_to_be_made_again(plan: Plan) -> None:
    write_json(plan.path, {"yaml_path": "sweep.yaml"})
    with pytest.raises(SpecError, match=r"another version of this program; `scaling run sweep\.yaml` again"):
        load_plan(plan.root, "tiny")


def test_evidence_on_time_is_the_same_from_one_look_and_from_many(plan: Plan) -> None:
    finish(plan.runs[0])
    finish(plan.runs[1], status="diverged")
    assert plan.measured(plan.standings()) == plan.measured() == [plan.runs[0].measured(10.0)]


def test_points_that_are_the_same_run_are_one(sweep_file: Callable[..., Path]) -> None:
    twins = sweep_file(("ct_only: {ct: 1}", "ct_only: natural"))
    sweep, document = load(twins)
    sweep, source = open_source(sweep, document)
    plan = make_plan(sweep, document, source)
    trained = [run for run in plan.runs if run.spec.images_seen]
    assert len(trained) == 8
    assert len({run.dir.run for run in trained}) == 4
    assert len(plan.unique()) == len(plan.runs) - 4


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys, scaling.plan, scaling.sizing, scaling.cost; print({'torch', 'ray', 'mlflow'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_what_is_held_out_may_be_edited_after_the_runs_and_nothing_else(
    sweep_file: Callable[..., Path], plan: Plan
) -> None:
    plan.save()
    kept = load_plan(plan.root, "tiny")
    rule = ("mixtures:", "holdout:\n  - {algorithm: mae, n_images: 32}\nmixtures:")
    now = with_holdout(kept, *load(sweep_file(rule)))
    assert sum(run.holdout for run in now.runs) == 2
    assert "holdout" in now.document.text
    assert [run.dir for run in now.runs] == [run.dir for run in kept.runs]
    assert with_holdout(kept, *load(sweep_file(rule, ("images_seen: 64", "images_seen: 128")))) is kept
    assert with_holdout(kept, *load(sweep_file())) is kept
    with pytest.raises(SpecError, match=r"holdout\[0\]: matches no point that is run"):
        with_holdout(kept, *load(sweep_file(("mixtures:", "holdout: [{seed: 9}]\nmixtures:"))))


# --- labels -----------------------------------------------------------------------------------------------------

SUPERVISED = (
    ("algorithm: [mae, dinov2]", "algorithm: [mae, supervised]"),
    ("  dinov2: {prototypes: 16, head_hidden: 16, head_bottleneck: 8, n_local: 1}\n", "  mae: {}\n"),
)


def options_in(plan: Plan, point: str) -> SupervisedOptions:
    options = next(run.spec.options for run in plan.runs if str(run.point) == point)
    assert isinstance(options, SupervisedOptions)
    return options


def test_a_plan_finds_the_labels_of_an_algorithm_that_learns_from_them(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(*SUPERVISED)
    every, ct = (options_in(plan, f"vit_atto/supervised/32x{name}/s0").labels for name in ("all", "ct_only"))
    assert every is not None
    assert ct is not None
    assert [head.task for head in ct.heads] == ["ct_lesion"]
    assert {head.task for head in every.heads} <= {info.name for info in plan.tasks}
    run = next(run for run in plan.runs if run.point.algorithm == "supervised")
    assert run.spec.data_identity in {other.spec.data_identity for other in plan.runs if other.point.algorithm == "mae"}
    assert run.cost.n_params_by_part["head"] > 0


def test_other_labels_of_the_same_images_are_another_run(plan_of: Callable[..., Plan]) -> None:
    run = next(run for run in plan_of(*SUPERVISED).runs if run.point.algorithm == "supervised")
    labels = run.spec.options.labels  # type: ignore[attr-defined]
    changed = run.spec.options.model_copy(update={"labels": labels.model_copy(update={"identity": "1" * 64})})
    assert run.spec.model_copy(update={"options": changed}).fingerprint != run.spec.fingerprint


def test_a_plan_with_labels_is_kept_and_read_again(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(*SUPERVISED)
    plan.save()
    again = load_plan(plan.root, plan.sweep.name)
    assert [run.spec for run in again.runs] == [run.spec for run in plan.runs]


def test_images_without_any_label_are_refused_with_the_way_out(sweep_file: Callable[..., Path], packs: Path) -> None:
    text = f"""\
name: unlabelled
grid: {{model: vit_atto, algorithm: [mae, supervised], n_images: 16}}
data:
  source: npz
  root: {packs}
  image_size: 28
  files:
    shapes.npz: {{modality: {{slice: ct, film: xray}}, pretrain: [train]}}
    cells.npz: {{modality: microscopy, pretrain: [val], task: {{kind: multi-class}}}}
pretrain: {{images_seen: 64, batch_size: 16}}
"""
    sweep, document = load(sweep_file(text=text))
    sweep, source = open_source(sweep, document)
    message = r"2: grid.algorithm: vit_atto/supervised/16xall/s0: 'supervised' needs labels and none of these images .*"
    with pytest.raises(SpecError, match=message + r"pretrain on the train split of a pack that has a `task:`"):
        make_plan(sweep, document, source)


def test_a_yaml_does_not_make_labels_up(sweep_file: Callable[..., Path]) -> None:
    given = ("  mae: {}\n", "  supervised: {labels: null}\n")
    with pytest.raises(SpecError, match=r"supervised\.labels: follows from the tasks of the images; remove it"):
        load(sweep_file(*SUPERVISED, given))
