"""What can never run is refused before anything starts, with the reason and the way out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaling import preflight as module
from scaling.data.views import normalise
from scaling.kernels import Kernels
from scaling.launch.launcher import Node, Resources
from scaling.plan import Plan, source_of
from scaling.preflight import (
    changed_data,
    disk_bytes,
    feature_bytes,
    in_memory,
    node_table,
    over_budget,
    preflight,
    slots,
    unwritable,
    warnings,
)
from scaling.probes.features import parts_of, task_features
from scaling.probes.kept import Kept
from scaling.rundir import beside
from scaling.train import build

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
    assert "of encoders, " in said
    assert "of features and up to" in said
    assert "has 1 GiB free" in said
    assert "scaling gc" in said


def test_disk_counts_encoders_for_good_and_checkpoints_twice_for_those_at_once(plan_of: Make, pretend: Any) -> None:
    plan = plan_of()
    trained = [run for run in plan.runs if run.spec.images_seen]
    disk = disk_bytes(plan.runs, 2, plan.sweep.probe)
    assert disk.encoders == sum(run.cost.encoder_bytes for run in trained)
    largest = sorted((run.cost.checkpoint_bytes for run in trained), reverse=True)
    assert disk.checkpoints == 2 * (largest[0] + largest[1])
    assert disk.features == sum(feature_bytes(run, plan.sweep.probe) for run in plan.runs)
    assert disk.total == disk.encoders + disk.checkpoints + disk.features
    pretend.trained(trained[0])
    now = disk_bytes(plan.runs, 2, plan.sweep.probe)
    assert now.encoders == disk.encoders - trained[0].cost.encoder_bytes
    assert now.features == disk.features  # its tasks are still to be probed


@pytest.mark.parametrize("algorithm", ["mae", "random", "pixels"])
@pytest.mark.parametrize("max_train", [20, None])
def test_kept_features_have_the_bytes_that_were_foretold(
    algorithm: str, max_train: int | None, plan_of: Make, tmp_path: Path
) -> None:
    plan = plan_of(("probe: {", f"probe: {{max_train: {'null' if max_train is None else max_train}, "))
    run = next(run for run in plan.runs if run.point.algorithm == algorithm)
    encoder = build(run.spec, torch.device("cpu"), Kernels(precision="fp32", attention="plain")).probed.eval()
    kept = Kept(folder=tmp_path, encoder="", max_train=max_train, seed=0, limit=2**30, place=beside)
    source = source_of(plan.sweep.data)
    for info in plan.tasks:
        kept.write(
            task_features(
                lambda images: parts_of(encoder(normalise(images))),
                source.task(info.name),
                max_train=max_train,
                seed=0,
                batch_size=64,
                device=torch.device("cpu"),
            )
        )
    held = 0
    for path in tmp_path.glob("features-*.npz"):
        with np.load(path) as arrays:
            held += sum(arrays[name].nbytes for name in arrays.files if "/" in name)
    assert len(list(tmp_path.glob("features-*.npz"))) == len(plan.tasks) == 5
    assert feature_bytes(run, plan.sweep.probe) == held


def test_what_a_run_may_keep_bounds_its_features(plan_of: Make, pretend: Any) -> None:
    plan = plan_of()
    run, probe = plan.runs[0], plan.sweep.probe.model_copy(update={"keep_mb": 200})
    sizes = (2**20, 2**20, 1000, 1000, 1000)
    infos = (replace(info, n_train=0, n_other=n) for info, n in zip(plan.tasks, sizes, strict=True))
    asked = replace(run, tasks=dict(zip(run.tasks, infos, strict=True)))
    # 64 values and a label; the third task has three labels. The first two would be 272 MiB, so the second is left out.
    assert feature_bytes(asked, probe) == 2**20 * 136 + 1000 * (128 + 3 * 8) + 2000 * 136
    assert feature_bytes(asked, probe.model_copy(update={"keep_mb": 0})) == 0
    unknown = replace(run, tasks={f: replace(info, n_train=None) for f, info in run.tasks.items()})
    assert feature_bytes(unknown, probe) == 200 * 2**20
    pretend.done(run)
    assert feature_bytes(run, probe) == 0


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


@pytest.mark.parametrize(("layer_scale", "warned"), [("1.0e-5", True), ("0.1", False), ("null", False)])
def test_short_runs_whose_blocks_start_faintly_are_warned_of(plan_of: Make, layer_scale: str, warned: bool) -> None:
    plan = plan_of(("{prototypes: 16,", f"{{layer_scale: {layer_scale}, prototypes: 16,"))
    lines = [line for line in warnings(plan, [CPU]) if "layer_scale" in line]
    assert len(lines) == warned
    if warned:
        n = len([run for run in plan.runs if run.point.algorithm == "dinov2"])
        assert lines[0].startswith(f"{n} runs of ")
        assert "`layer_scale: null` leaves it out" in lines[0]


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
