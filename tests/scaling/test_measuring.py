"""Calibration of a sweep: each shape once per device, split further when it does not fit, known again the next time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scaling.calibration import Calibration, load_calibrations, save, shape_key
from scaling.errors import SpecError
from scaling.launch.launcher import Ended, Node, Order
from scaling.measuring import measure_all, shapes_of
from scaling.plan import Plan
from scaling.planned import Job
from scaling.rundir import RunDir

GIB = 2**30
CPU = Node(name="c", host="c", cpus=2, memory=16 * GIB)
H100 = Node(name="g", host="g", cpus=16, gpus=2, accelerator="H100", gpu_memory=80 * GIB)
TWIN = Node(name="g2", host="g2", cpus=16, gpus=2, accelerator="H100", gpu_memory=80 * GIB)
T4 = Node(name="t", host="t", cpus=16, gpus=1, accelerator="T4", gpu_memory=16 * GIB)
NAMES = {"g": "NVIDIA H100 80GB HBM3", "t": "Tesla T4"}
DINOV2 = "algorithms:\n  dinov2: {prototypes: 16, head_hidden: 16, head_bottleneck: 8, n_local: 1}\n"
Make = Callable[..., Plan]


@dataclass
class FakeLauncher:
    """Measures at once: half a GiB an image, so that so many images fit at a time; or fails as told."""

    root: Path
    there: Sequence[Node]
    error: str = ""
    most_images: float = 1000
    orders: list[Order] = field(default_factory=list)
    _ended: list[Ended] = field(default_factory=list)

    def nodes(self) -> Sequence[Node]:
        return self.there

    def submit(self, order: Order) -> None:
        job = Job.model_validate_json((order.path / "job.json").read_text())
        self.orders.append(order)
        code = 1
        if self.error:
            RunDir(order.path).fail("error", self.error)
        elif job.spec.batch_size // job.n_micro > self.most_images * (16 if job.recomputed else 1):
            RunDir(order.path).fail("gpu_oom", "OutOfMemoryError: CUDA out of memory")
        else:
            code = 0
            save(self.root, self._measured(job, order))
        self._ended.append(Ended(path=order.path, token=order.token, code=code))

    def _measured(self, job: Job, order: Order) -> Calibration:
        device = NAMES[order.node] if order.resources.gpus else f"cpu: x86_64, {job.cpus} threads"
        return Calibration(
            device=device,
            device_memory_bytes=80 * GIB,
            shape_key=shape_key(job.spec, job.n_micro, recomputed=job.recomputed),
            model=job.spec.model,
            algorithm=job.spec.algorithm,
            batch_size=job.spec.batch_size,
            n_micro=job.n_micro,
            precision="fp32",
            memory_bytes=job.spec.batch_size // job.n_micro * GIB // 2,
            host_memory_bytes=GIB,
            images_per_second=100.0,
            seconds=1.0,
            recomputed=job.recomputed,
        )

    def wait(self, timeout: float) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def kill(self, path: Path) -> None:
        raise AssertionError("nothing is killed")

    def close(self) -> None:
        """Nothing is open."""


def measured_by(plan: Plan, launcher: FakeLauncher, **options: bool) -> tuple[list[Calibration], int, list[str]]:
    said: list[str] = []
    found, failed = measure_all(plan, launcher, said.append, **options)
    return found, failed, said


def test_each_shape_is_measured_once_whatever_the_images_and_seeds(plan_of: Make) -> None:
    plan = plan_of(("seed: [0]", "seed: [0, 1, 2]"))
    launcher = FakeLauncher(plan.root, [CPU])
    found, failed, said = measured_by(plan, launcher)
    assert (len(launcher.orders), failed) == (2, 0)
    assert sorted(c.algorithm for c in found) == ["dinov2", "mae"]
    assert all(order.calibrate for order in launcher.orders)
    assert said[0] == "2 shapes, 0 measured before, 2 to measure"
    assert said[1] == "vit_atto/mae, batch 16, on CPU: 1 GiB, 100 images/s, took 1.0 s"


def test_what_was_measured_is_measured_again_only_when_asked(plan_of: Make) -> None:
    plan = plan_of()
    launcher = FakeLauncher(plan.root, [CPU])
    measured_by(plan, launcher)
    found, _, said = measured_by(plan, launcher)
    assert (len(launcher.orders), len(found)) == (2, 2)
    assert said == ["2 shapes, 2 measured before, 0 to measure"]
    measured_by(plan, launcher, again=True)
    assert len(launcher.orders) == 4


def test_each_kind_of_gpu_is_measured_on_one_node_with_a_whole_gpu(plan_of: Make) -> None:
    plan = plan_of(("probe: {", "resources: {gpus: packed}\nprobe: {"))
    launcher = FakeLauncher(plan.root, [CPU, H100, TWIN, T4])
    found, failed, _ = measured_by(plan, launcher)
    assert [order.node for order in launcher.orders].count("g") == 2
    assert {order.node for order in launcher.orders} == {"g", "t"}
    assert {order.resources.gpus for order in launcher.orders} == {1.0}
    assert (len(found), failed) == (4, 0)


def test_a_shape_that_does_not_fit_is_tried_in_more_parts(plan_of: Make) -> None:
    plan = plan_of(("algorithm: [mae, dinov2]", "algorithm: mae"), (DINOV2, ""))
    launcher = FakeLauncher(plan.root, [H100], most_images=4)
    found, failed, said = measured_by(plan, launcher)
    assert (len(launcher.orders), failed) == (3, 0)
    assert [c.n_micro for c in found] == [4]
    assert said[1:3] == [
        "vit_atto/mae, batch 16, on H100: does not fit; again in 2 parts",
        "vit_atto/mae, batch 8 x 2, on H100: does not fit; again in 4 parts",
    ]
    assert said[3].startswith("vit_atto/mae, batch 4 x 4, on H100: 2 GiB")


def test_a_shape_of_which_no_image_fits_is_measured_with_activations_computed_anew(plan_of: Make) -> None:
    plan = plan_of(("algorithm: [mae, dinov2]", "algorithm: mae"), (DINOV2, ""))
    launcher = FakeLauncher(plan.root, [H100], most_images=0.5)
    found, failed, said = measured_by(plan, launcher)
    assert failed == 0
    assert [(c.n_micro, c.recomputed) for c in found] == [(2, True)]
    assert said[5] == "vit_atto/mae, batch 1 x 16, on H100: does not fit; again in 1 parts, recomputed"
    assert said[6] == "vit_atto/mae, batch 16, recomputed, on H100: does not fit; again in 2 parts, recomputed"


def test_a_shape_that_fits_in_no_way_is_given_up(plan_of: Make) -> None:
    plan = plan_of(("algorithm: [mae, dinov2]", "algorithm: mae"), (DINOV2, ""))
    launcher = FakeLauncher(plan.root, [H100], most_images=0)
    assert measured_by(plan, launcher)[:2] == ([], 1)
    assert len(launcher.orders) == 10  # 1 to 16 parts, twice


def test_a_shape_that_fails_is_told_with_its_log_and_the_others_go_on(plan_of: Make) -> None:
    plan = plan_of()
    launcher = FakeLauncher(plan.root, [CPU], error="ValueError: no")
    found, failed, said = measured_by(plan, launcher)
    assert (found, failed) == ([], 2)
    assert said[1].startswith("vit_atto/mae, batch 16, on CPU: error: ValueError: no\n  log: ")
    assert all((order.path / "job.json").exists() for order in launcher.orders)


def test_nothing_is_left_of_a_measurement_but_its_file(plan_of: Make) -> None:
    plan = plan_of()
    measured_by(plan, FakeLauncher(plan.root, [CPU]))
    assert len(load_calibrations(plan.root)) == 2
    assert list((plan.root / "calibration" / ".work").iterdir()) == []


def test_ranks_are_measured_by_the_part_that_one_of_them_holds(plan_of: Make) -> None:
    plan = plan_of(("probe: {", "resources: {gpus: 2}\nprobe: {"))
    assert {shape.parts for shape in shapes_of(plan, [H100])} == {2}


def test_a_sweep_that_wants_gpus_is_not_measured_without(plan_of: Make) -> None:
    plan = plan_of(("probe: {", "resources: {gpus: 1}\nprobe: {"))
    with pytest.raises(SpecError, match="asks for GPUs, and no node has such"):
        shapes_of(plan, [CPU])
