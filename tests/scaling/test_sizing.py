"""What a run is given follows from what was measured of its shape, and from the nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from scaling.calibration import Calibration, shape_key
from scaling.launch.launcher import Node, Resources
from scaling.plan import Plan
from scaling.planned import PlannedRun
from scaling.preflight import preflight
from scaling.sizing import USABLE, Sizer, resources_of

GIB = 2**30
CPU = Node(name="c", host="c", cpus=8, memory=64 * GIB)
H100 = Node(name="g", host="g", cpus=16, gpus=4, accelerator="H100", gpu_memory=80 * GIB)
T4 = replace(H100, name="t", host="t", accelerator="T4", gpu_memory=16 * GIB)

Make = Callable[..., Plan]


def asking(plan_of: Make, resources: str) -> Plan:
    return plan_of(("probe: {", f"resources: {{{resources}}}\nprobe: {{"))


def measured(
    run: PlannedRun, parts: int, memory: int, device: str = "NVIDIA H100 80GB HBM3", *, recomputed: bool = False
) -> Calibration:
    return Calibration(
        device=device,
        device_memory_bytes=80 * GIB,
        shape_key=shape_key(run.spec, parts, recomputed=recomputed),
        model=run.point.model,
        algorithm=run.point.algorithm,
        batch_size=run.spec.batch_size,
        n_micro=parts,
        precision="fp32",
        memory_bytes=memory,
        host_memory_bytes=2 * GIB,
        images_per_second=100.0,
        seconds=1.0,
        recomputed=recomputed,
    )


def test_auto_takes_a_gpu_where_there_are_any(plan_of: Make) -> None:
    plan = plan_of()
    assert resources_of(plan.runs[0], plan, [CPU], []) == Resources(cpus=1)
    assert resources_of(plan.runs[0], plan, [CPU, H100], []) == Resources(cpus=1, gpus=1.0)


def test_who_names_a_gpu_type_wants_one_whether_it_is_there_or_not(plan_of: Make) -> None:
    plan = asking(plan_of, "accelerator: A100")
    assert resources_of(plan.runs[0], plan, [H100], []).gpus == 1
    assert preflight(plan, [H100], [])
    assert resources_of(plan.runs[0], plan, [H100, replace(T4, accelerator="A100")], []).gpus == 1


@pytest.mark.parametrize(
    ("need_gib", "gpus"), [(5, 1 / 14), (24, 1 / 3), (36, 1 / 2), (37, 1.0), (70, 1.0)], ids=lambda v: f"{v:.3g}"
)
def test_packed_shares_a_gpu_among_as_many_as_the_measured_memory_allows(
    plan_of: Make, need_gib: int, gpus: float
) -> None:
    # 0.92 x 80 GiB = 73.6 GiB, so 14 x 5, 3 x 24, 2 x 36 fit; 2 x 37 = 74 do not.
    plan = asking(plan_of, "gpus: packed")
    given = Sizer(plan, [H100], [measured(plan.runs[0], 1, need_gib * GIB)]).size(plan.runs[0])
    assert given.resources.gpus == pytest.approx(gpus)
    assert given.basis == "measured"


def test_packed_without_a_measurement_takes_a_whole_gpu(plan_of: Make) -> None:
    plan = asking(plan_of, "gpus: packed")
    elsewhere = measured(plan.runs[0], 1, 5 * GIB, device="Tesla T4")
    given = Sizer(plan, [H100], [elsewhere]).size(plan.runs[0])
    assert (given.resources.gpus, given.basis) == (1.0, "estimated")


def test_packed_on_two_types_counts_with_the_smaller_gpu(plan_of: Make) -> None:
    plan = asking(plan_of, "gpus: packed")
    given = Sizer(plan, [H100, T4], [measured(plan.runs[0], 1, 5 * GIB)]).size(plan.runs[0])
    assert given.resources.gpus == pytest.approx(1 / 2)  # 0.92 x 16 GiB = 14.7 GiB


@pytest.mark.parametrize(("asked", "given"), [("0.5", 0.5), ("0.33", 1 / 3), ("2", 2.0), ("0", 0.0)])
def test_a_number_of_gpus_is_taken_as_it_is_to_the_nearest_share(plan_of: Make, asked: str, given: float) -> None:
    plan = asking(plan_of, f"gpus: {asked}")
    assert resources_of(plan.runs[0], plan, [H100], []).gpus == pytest.approx(given)


def test_ranks_are_one_per_whole_gpu_or_as_many_as_said(plan_of: Make) -> None:
    two = asking(plan_of, "gpus: 2")
    assert Sizer(two, [H100], []).size(two.runs[0]).n_ranks == 2
    spoken = asking(plan_of, "processes: 2")
    assert Sizer(spoken, [H100], []).size(spoken.runs[0]).resources.gpus == 2.0
    on_cpu = Sizer(spoken, [CPU], []).size(spoken.runs[0])
    assert (on_cpu.n_ranks, on_cpu.resources.gpus) == (2, 0.0)


def test_a_baseline_needs_one_process_and_one_gpu_at_most(plan_of: Make) -> None:
    plan = asking(plan_of, "gpus: 2")
    baseline = next(run for run in plan.runs if run.point.algorithm == "random")
    given = Sizer(plan, [H100], []).size(baseline)
    assert (given.n_ranks, given.resources.gpus) == (1, 1.0)


def test_a_step_that_does_not_fit_is_split_until_it_does(plan_of: Make) -> None:
    plan = plan_of()
    run = plan.runs[0]
    sizes: list[Any] = [measured(run, 1, 100 * GIB), measured(run, 2, 75 * GIB), measured(run, 4, 40 * GIB)]
    given = Sizer(plan, [H100], sizes).size(run)
    assert (given.n_micro, given.recomputed, given.fits) == (4, False, True)
    assert given.need == pytest.approx(40 * GIB, rel=0.001)


def test_what_fits_in_no_number_of_parts_says_so(plan_of: Make) -> None:
    plan = plan_of()
    run = plan.runs[0]
    kept, anew = (
        [measured(run, parts, memory * GIB, recomputed=recomputed) for parts in (1, 2, 4, 8, 16)]
        for memory, recomputed in ((90, False), (80, True))
    )
    given = Sizer(plan, [H100], [*kept, *anew]).size(run)
    assert (given.n_micro, given.recomputed, given.fits) == (run.spec.batch_size, True, False)


def test_activations_are_computed_anew_where_a_single_image_does_not_fit_else_and_in_as_few_parts_as_do(
    plan_of: Make,
) -> None:
    plan = plan_of()
    run = plan.runs[0]
    kept = [measured(run, parts, 80 * GIB) for parts in (1, 2, 4, 8, 16)]
    anew = [measured(run, parts, memory * GIB, recomputed=True) for parts, memory in ((1, 75), (2, 73), (4, 20))]
    given = Sizer(plan, [H100], [*kept, *anew]).size(run)
    assert (given.n_micro, given.recomputed, given.basis, given.fits) == (2, True, "measured", True)
    estimated = Sizer(plan, [H100], kept).size(run)
    assert (estimated.n_micro, estimated.recomputed, estimated.basis) == (1, True, "estimated")


def test_images_that_a_gpu_or_its_share_cannot_keep_are_counted_as_the_batches_that_are_streamed(
    plan_of: Make,
) -> None:
    plan = plan_of()
    run = plan.runs[0]
    many = replace(run, spec=run.spec.model_copy(update={"n_images": 30 * 2**20}))  # of 1 KiB each: 30 GiB
    smaller = replace(H100, gpu_memory=70 * GIB)
    for sizes in ([], [measured(many, 1, GIB)]):
        assert Sizer(plan, [H100], sizes).size(many).need > 30 * GIB  # 40 % of 80 GiB keep them
        half = asking(plan_of, "gpus: 0.5")
        assert Sizer(half, [H100], sizes).size(many).need < 2 * GIB
    assert Sizer(plan, [smaller], []).size(many).need < 2 * GIB


def test_a_baseline_computes_nothing_anew(plan_of: Make) -> None:
    plan = plan_of()
    run = next(run for run in plan.runs if run.spec.algorithm == "random")
    assert not Sizer(plan, [replace(H100, gpu_memory=GIB // 2)], []).size(run).recomputed


def test_a_run_that_shares_must_fit_its_share(plan_of: Make) -> None:
    plan = asking(plan_of, "gpus: 0.5")
    run = plan.runs[0]
    given = Sizer(plan, [H100], [measured(run, 1, 50 * GIB), measured(run, 2, 30 * GIB)]).size(run)
    assert given.n_micro == 2
    assert given.need <= USABLE * given.gpu_memory == USABLE * 40 * GIB


def test_on_a_cpu_only_measurements_with_as_many_threads_count(plan_of: Make) -> None:
    plan = asking(plan_of, "cpus: 2")
    run = plan.runs[0]
    other, same = (measured(run, 1, 1, device=f"cpu: x86_64, {n} threads") for n in (4, 2))
    assert Sizer(plan, [CPU], [other]).size(run).basis == "estimated"
    given = Sizer(plan, [CPU], [other, same]).size(run)
    assert given.basis == "measured"
    assert given.need == same.host_bytes(run.spec)


def test_host_memory_and_type_are_passed_on(plan_of: Make) -> None:
    plan = asking(plan_of, "memory_gb: 2.5, accelerator: H100, cpus: 3")
    expected = Resources(cpus=3, gpus=1.0, memory=int(2.5 * GIB), accelerator="H100")
    assert resources_of(plan.runs[0], plan, [H100], []) == expected
