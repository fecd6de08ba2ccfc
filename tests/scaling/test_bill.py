"""What a sweep will take: every number says what it rests on, parts sum to totals, tables keep every run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console, RenderableType

from scaling.bill import Bill, bill_of
from scaling.calibration import Calibration, shape_key
from scaling.launch.launcher import Node
from scaling.plan import Plan, load_plan
from scaling.standings import look
from scaling.tables import plan_legend, plan_summary, plan_table, status_table

GIB = 2**30
CPU = Node(name="c", host="box", cpus=2, memory=16 * GIB)
GPU = Node(name="g", host="big", cpus=16, gpus=2, accelerator="H100", gpu_memory=80 * GIB)
Make = Callable[..., Plan]


def drawn(table: RenderableType) -> list[str]:
    out = StringIO()
    Console(file=out, width=220, color_system=None).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def summary(bill: Bill) -> str:
    return "\n".join(plan_summary(bill))


def calibrated(plan: Plan, algorithm: str, device: str = "cpu: x86_64, 1 threads") -> Calibration:
    run = next(run for run in plan.runs if run.point.algorithm == algorithm)
    return Calibration(
        device=device,
        device_memory_bytes=16 * GIB,
        shape_key=shape_key(run.spec, 1),
        model=run.point.model,
        algorithm=algorithm,
        batch_size=16,
        n_micro=1,
        precision="fp32",
        memory_bytes=GIB,
        host_memory_bytes=2 * GIB,
        images_per_second=0.64,
        seconds=1.0,
    )


def test_nothing_is_timed_before_anything_ran(plan_of: Make) -> None:
    bill = bill_of(plan_of(), [CPU])
    assert bill.untimed == len(bill.to_do) == 10
    assert "nothing of the kind was timed yet; `scaling calibrate" in summary(bill)
    assert all(line.allotment.basis == "estimated" for line in bill.lines)
    assert any("memory ~ estimated in closed form (host)" in line for line in plan_legend(bill))


def test_finished_runs_time_their_kind_and_calibration_the_others(plan_of: Make, pretend: Any) -> None:
    plan = plan_of()
    done, *others = [run for run in plan.runs if run.point.algorithm == "mae"]
    pretend.done(done, seconds=36.0)
    bill = bill_of(plan, [CPU], [calibrated(plan, "mae"), calibrated(plan, "dinov2")])
    by_run = {line.run.dir.run: line for line in bill.lines}
    assert (by_run[done.dir.run].seconds, by_run[done.dir.run].standing.over) == (0.0, True)
    assert {(by_run[run.dir.run].seconds, by_run[run.dir.run].seconds_basis) for run in others} == {(36.0, "runs")}
    dino = [line for line in bill.lines if line.run.point.algorithm == "dinov2"]
    assert {(line.seconds, line.seconds_basis) for line in dino} == {
        (100.0, "calibration")
    }  # 64 images at 0.64 a second
    assert {line.allotment.basis for line in dino} == {"measured"}
    assert bill.slot_hours == pytest.approx((3 * 36 + 4 * 100) / 3600)
    assert bill.untimed == 2
    assert "of 2 more nothing is known" in summary(bill)


def test_a_run_half_done_takes_the_other_half(plan_of: Make, pretend: Any) -> None:
    plan = plan_of()
    first, second = [run for run in plan.runs if run.point.algorithm == "mae"][:2]
    pretend.done(first, seconds=40.0)
    pretend.stepped(second, 1)  # of four steps
    line = next(line for line in bill_of(plan, [CPU]).lines if line.run == second)
    assert line.seconds == pytest.approx(30.0)


def test_what_baselines_took_is_known_from_their_history(plan_of: Make, pretend: Any) -> None:
    plan = plan_of(("seed: [0]", "seed: [0, 1]"))
    first, second = [run for run in plan.runs if run.point.algorithm == "random"]
    pretend.done(first, seconds=0.0)
    first.dir.log_attempt({"attempt": 1, "began": 0.0, "sweep": "tiny"})
    spent = {"seconds": 7.0, "gpu_seconds": 0.0, "cpu_seconds": 7.0}
    first.dir.log_attempt({"attempt": 1, "ended": 7.0, "outcome": "done", **spent})
    line = next(line for line in bill_of(plan, [CPU]).lines if line.run == second)
    assert (line.seconds, line.seconds_basis) == (7.0, "runs")


def test_hours_count_gpus_and_cpus_of_each_run(plan_of: Make) -> None:
    plan = plan_of(("probe: {", "resources: {gpus: 0.5, cpus: 3}\nprobe: {"))
    sizes = [calibrated(plan, name, device="NVIDIA H100 80GB HBM3") for name in ("mae", "dinov2")]
    bill = bill_of(plan, [GPU], sizes)
    assert bill.slot_hours == pytest.approx(8 * 100 / 3600)
    assert bill.gpu_hours == pytest.approx(bill.slot_hours / 2)
    assert bill.cpu_hours == pytest.approx(bill.slot_hours * 3)
    assert bill.at_once == 4
    assert bill.wall_seconds is None  # the baselines' time is not known


def test_points_that_are_one_run_are_said_and_paid_once(plan_of: Make) -> None:
    plan = plan_of(("ct_only: {ct: 1}", "ct_only: natural"))
    bill = bill_of(plan, [CPU])
    assert len(bill.lines) - len(bill.own) == 4
    assert "4 points are the same run as another" in summary(bill)
    lines = drawn(plan_table(bill))
    assert sum("same as vit_atto/mae/16xall/s0" in line for line in lines) == 1


def test_the_budget_stands_beside_the_estimate(plan_of: Make, pretend: Any) -> None:
    plan = plan_of(("probe: {", "budget: {cpu_hours: 0.1, wall: 2h}\nprobe: {"))
    pretend.used(plan.runs[0], "tiny", cpu_hours=0.05)
    sizes = [calibrated(plan, name) for name in ("mae", "dinov2")]
    bill = bill_of(plan, [CPU], sizes)
    assert bill.question is not None
    assert "0.222 CPU-hours; the budget allows 0.1, of which 0.05 are used" in bill.question
    assert "budget: 0.05 of 0.1 CPU-hours used; 2 h 00 min for one call; not enough" in summary(bill)


def test_what_run_would_refuse_is_said_by_plan(plan_of: Make) -> None:
    plan = plan_of(("probe: {", "resources: {gpus: 1}\nprobe: {"))
    said = summary(bill_of(plan, [CPU]))
    assert "`scaling run` would refuse on this machine:" in said
    assert "box: 2 CPUs, 0 GPUs" in said
    assert bill_of(plan, [CPU], check=False).problems == []


def test_the_table_has_a_row_per_point_and_the_rule_of_what_is_excluded(plan_of: Make) -> None:
    plan = plan_of(("mixtures:", "exclude:\n  - {algorithm: dinov2, n_images: 16}\nmixtures:"))
    head, *rows = drawn(plan_table(bill_of(plan, [CPU])))
    assert head.split()[:4] == ["run", "model", "algorithm", "mixture"]
    assert len(rows) == len(plan.runs) + 2
    assert next(row for row in rows if row.startswith("-")).endswith(": exclude[0]")
    for run, row in zip(plan.runs, rows, strict=False):
        assert row.split()[:4] == [run.dir.run, run.point.model, run.point.algorithm, run.point.mixture]


def test_what_is_held_out_of_the_fits_is_marked_and_counted(plan_of: Make) -> None:
    plan = plan_of(("mixtures:", "holdout:\n  - {algorithm: dinov2, n_images: 16}\nmixtures:"))
    bill = bill_of(plan, [CPU])
    rows = drawn(plan_table(bill))[1:]
    assert [run.point.algorithm for run, row in zip(plan.runs, rows, strict=True) if "held out" in row] == [
        "dinov2"
    ] * 2
    assert "2 held out of the fits" in summary(bill)
    assert "held out" not in summary(bill_of(plan_of(), [CPU]))
    assert [line["holdout"] for line in bill.to_json()["runs"]].count(True) == 2
    assert bill.to_json()["totals"]["held_out"] == 2


def test_the_batch_is_shown_as_it_is_split(plan_of: Make) -> None:
    plan = plan_of(("probe: {", "resources: {gpus: 2}\nprobe: {"))
    bill = bill_of(plan, [GPU])
    first = bill.lines[0]
    split = replace(first, allotment=replace(first.allotment, n_micro=4))
    anew = replace(first, allotment=replace(first.allotment, n_micro=8, recomputed=True))
    rows = drawn(plan_table(replace(bill, lines=[first, split, anew])))
    assert "8 x 1 x 2 ranks" in rows[1]
    assert "2 x 4 x 2 ranks" in rows[2]
    assert "1 x 8 x 2 ranks recomputed" in rows[3]
    assert [line["recomputed"] for line in replace(bill, lines=[first, anew]).to_json()["runs"]] == [False, True]


MANY = (("seed: [0]", f"seed: [{', '.join(map(str, range(60)))}]"),)


def test_hundreds_of_runs_are_grouped_unless_all_are_asked_for(plan_of: Make, pretend: Any) -> None:
    plan = plan_of(*MANY)
    pretend.done(plan.runs[0])
    bill = bill_of(plan, [CPU])
    assert len(bill.lines) == 541
    rows = drawn(plan_table(bill))
    assert len(rows) == 1 + 6
    assert rows[1].split()[:8] == ["vit_atto", "mae", "all", "120", "16", "to", "32", "60"]
    assert rows[1].endswith("119 waiting, 1 done")
    assert len(drawn(plan_table(bill, everything=True))) == 1 + 541
    grouped = drawn(status_table(plan, plan.standings()))
    assert len(grouped) == 1 + 6
    assert len(drawn(status_table(plan, plan.standings(), everything=True))) == 1 + 541


def test_the_json_says_what_the_table_says(plan_of: Make, pretend: Any) -> None:
    plan = plan_of()
    pretend.done(plan.runs[0], seconds=36.0)
    bill = bill_of(plan, [CPU])
    values = json.loads(json.dumps(bill.to_json(), allow_nan=False))
    assert [row["run"] for row in values["runs"]] == [run.dir.run for run in plan.runs]
    first, second = values["runs"][:2]
    assert (first["state"], first["seconds"]) == ("done", 0.0)
    assert (second["seconds"], second["seconds_basis"], second["memory_basis"]) == (36.0, "runs", "estimated")
    assert second["n_params"] == plan.runs[1].cost.n_params
    totals = values["totals"]
    assert totals["to_do"] + totals["done"] == totals["runs"] == 10
    assert totals["train_flops"] == sum(line.run.cost.train_flops for line in bill.to_do)
    assert values["mlflow"] == {"uri": plan.tracking_uri, "experiment": "scaling"}
    assert values["budget"]["gpu_hours"] is None


def test_status_of_two_thousand_runs_takes_no_longer_than_their_files(plan_of: Make, pretend: Any) -> None:
    """Against reading each result once: loading, looking and drawing cost a small multiple of that, not a square."""
    plan = plan_of(("seed: [0]", f"seed: [{', '.join(map(str, range(222)))}]"))
    for run in plan.runs:
        pretend.done(run)
    plan.save()
    began = time.perf_counter()
    for run in plan.runs:
        run.dir.record()
    reading = time.perf_counter() - began
    began = time.perf_counter()
    now = look(load_plan(plan.root, "tiny"))
    drawn(status_table(now.plan, now.standings))
    assert now.snapshot.done == len(plan.unique()) == 1999
    assert time.perf_counter() - began < 40 * reading


def test_a_plan_says_what_is_repeated_and_which_sizes_are_one(plan_of: Make) -> None:
    pool = ("image_size: 32", "image_size: 32\n  pool_size: 60")
    plan = plan_of(pool, ("{ct: 1}", "{weights: {ct: 1}, repeat: true}"), ("[16, 32]", "[16, 32, 48]"))
    n = next(run.spec.n_unique for run in plan.runs if run.spec.repeated_from)
    found = bill_of(plan, [CPU])
    said = [note for note in found.warnings if note.startswith("ct_only")]
    assert f"ct_only at n_images 32 repeats ct {n} images x {32 / n:.4g}: {n} unique images" in said
    assert any(note.startswith(f"ct_only has the same {n} unique images at n_images ") for note in said)
    assert all(note in "\n".join(plan_legend(found)) or note in summary(found) for note in said)
    line = next(line for line in found.to_json()["runs"] if line["mixture"] == "ct_only" and line["n_images"] == 48)
    assert (line["n_unique"], line["repeated"]) == (n, {"ct": 48 / n})
