"""What can never run is refused before anything starts, with the reason and the way out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaling import preflight as module
from scaling.launch.launcher import Node, Resources
from scaling.plan import Plan
from scaling.preflight import (
    changed_data,
    disk_bytes,
    in_memory,
    node_table,
    over_budget,
    preflight,
    slots,
    unwritable,
    warnings,
)

GIB = 2**30
CPU = Node(name="c", host="box", cpus=8, memory=64 * GIB)
GPU = Node(name="g", host="big", cpus=16, gpus=2, accelerator="H100", gpu_memory=80 * GIB, memory=256 * GIB)
Make = Callable[..., Plan]


def asking(plan_of: Make, resources: str) -> Plan:
    return plan_of(("probe: {", f"resources: {{{resources}}}\nprobe: {{"))


def told(plan: Plan, *nodes: Node) -> str:
    return "\n".join(map(str, preflight(plan, nodes, [])))


def test_a_sweep_that_fits_has_no_problem(plan_of: Make) -> None:
    assert preflight(plan_of(), [CPU], []) == []
    assert preflight(asking(plan_of, "gpus: 2, accelerator: H100"), [CPU, GPU], []) == []


def test_a_gpu_that_no_node_has_is_one_problem_with_the_nodes(plan_of: Make) -> None:
    said = told(asking(plan_of, "gpus: 1"), CPU)
    assert "sweep.yaml:22: resources.gpus: 10 runs, such as vit_atto/mae/16xall/s0, want 1 CPU, 1 GPU, which" in said
    assert "write `gpus: auto`" in said
    assert "box: 8 CPUs, 0 GPUs, 64 GiB" in said


@pytest.mark.parametrize(
    ("resources", "key", "wants"),
    [
        ("gpus: 4", "resources.gpus", "1 CPU, 4 GPUs"),
        ("cpus: 32", "resources.cpus", "32 CPUs"),
        ("memory_gb: 512", "resources.memory_gb", "512 GiB"),
        ("gpus: 1, accelerator: A100", "resources.accelerator", "1 GPU A100"),
    ],
)
def test_the_key_that_asks_too_much_is_named(plan_of: Make, resources: str, key: str, wants: str) -> None:
    said = told(asking(plan_of, resources), CPU, GPU)
    assert f": {key}: " in said
    assert wants in said
    assert "big: 16 CPUs, 2 GPUs H100 of 80 GiB, 256 GiB" in said


def test_what_is_done_needs_no_node(plan_of: Make, pretend: Any) -> None:
    plan = asking(plan_of, "gpus: 1")
    for run in plan.runs:
        pretend.done(run)
    assert preflight(plan, [CPU], []) == []


def test_nodes_of_a_kind_share_a_line() -> None:
    many = [replace(GPU, name=f"g{i}", host=f"big{i}") for i in range(3)]
    assert node_table([CPU, *many]).splitlines() == [
        "      box: 8 CPUs, 0 GPUs, 64 GiB",
        "      3 nodes (big0, ...): 16 CPUs, 2 GPUs H100 of 80 GiB, 256 GiB",
    ]
    assert node_table([]).strip() == "there is no node"


def test_too_little_disk_is_refused_with_the_bytes(plan_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda root: GIB)
    said = told(plan_of(), CPU)
    assert "of encoders and up to" in said
    assert "has 1 GiB free" in said
    assert "scaling gc" in said


def test_disk_counts_encoders_for_good_and_checkpoints_twice_for_those_at_once(plan_of: Make, pretend: Any) -> None:
    plan = plan_of()
    trained = [run for run in plan.runs if run.spec.images_seen]
    kept, passing = disk_bytes(plan.runs, at_once=2)
    assert kept == sum(run.cost.encoder_bytes for run in trained)
    largest = sorted((run.cost.checkpoint_bytes for run in trained), reverse=True)
    assert passing == 2 * (largest[0] + largest[1])
    pretend.trained(trained[0])
    assert disk_bytes(plan.runs, at_once=2)[0] == kept - trained[0].cost.encoder_bytes


def test_slots_are_counted_node_by_node() -> None:
    assert slots([CPU, GPU], Resources(cpus=5)) == 1 + 3
    assert slots([CPU, GPU], Resources(gpus=0.25)) == 8
    assert slots([CPU], Resources(gpus=1)) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written: Permission denied" in str(unwritable(tmp_path / "state"))


def test_a_root_where_no_file_can_be_made_is_refused() -> None:
    assert "/proc/no: the root cannot be written" in str(unwritable(Path("/proc/no")))


def test_looking_at_a_root_makes_none(tmp_path: Path) -> None:
    assert unwritable(tmp_path / "a" / "b") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="no /dev/shm here")
def test_a_root_in_memory_is_warned_of(plan_of: Make) -> None:
    assert in_memory(Path("/dev/shm/somewhere"))
    plan = replace(plan_of(), root=Path("/dev/shm/somewhere"))
    assert any("lies in memory (tmpfs)" in line for line in warnings(plan, [CPU]))


def test_files_that_changed_behind_an_unchanged_yaml_are_asked_about(plan_of: Make) -> None:
    plan = plan_of()
    assert changed_data(plan) is None
    plan.save()
    assert changed_data(plan) is None
    first = plan.runs[0]
    other = replace(first, spec=first.spec.model_copy(update={"data_identity": "f" * 64}))
    asked = changed_data(replace(plan, runs=(other, *plan.runs[1:])))
    assert asked is not None
    assert asked.startswith("the pretraining images have changed since this sweep last ran, its YAML has not: 1 run")


def test_a_changed_yaml_may_name_other_images(plan_of: Make) -> None:
    plan_of().save()
    assert changed_data(plan_of(("[16, 32]", "[16, 48]"))) is None


def test_a_budget_is_asked_about_only_when_it_will_not_do(plan_of: Make) -> None:
    plan = plan_of(("probe: {", "budget: {gpu_hours: 10, cpu_hours: 4}\nprobe: {"))
    assert over_budget(plan, 0.0, None) is None
    assert over_budget(plan, 3.0, 7.0) is None
    asked = over_budget(plan, 3.0, 8.0)
    assert asked is not None
    assert asked.startswith("the runs to do are estimated at 8 GPU-hours; the budget allows 10, of which 3 are used")
    assert "5 CPU-hours; the budget allows 4;" in str(over_budget(plan, 0.0, 5.0, unit="cpu"))
    assert over_budget(plan_of(), 0.0, 1e9) is None
