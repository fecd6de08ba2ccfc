"""`scaling suggest`: affordable runs that sharpen a prediction, as the sweep would make them, or why there are none."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scaling.cli import main
from scaling.config import load
from scaling.errors import SpecError
from scaling.forecasting import Asked, cost_at
from scaling.grid import expand
from scaling.launch.launcher import Node
from scaling.plan import Plan
from scaling.suggesting import Budget, suggest_runs

Make = Callable[..., Plan]
CPU = Node(name="c", host="box", cpus=2, memory=2**34)
GPU = Node(name="g", host="big", cpus=16, gpus=2, accelerator="H100", gpu_memory=80 * 2**30)
FLOPS = Budget(amount=1e15, unit="FLOPs")


def test_suggested_runs_are_affordable_new_and_shrink_the_interval(answered: Make) -> None:
    plan = answered()
    (found,) = suggest_runs(plan, Asked(model="vit_s"), FLOPS, [CPU]).nexts
    assert found.suggestion is not None
    steps = found.suggestion.steps
    assert steps[-1].spent <= FLOPS.amount
    assert steps[-1].shrinks < 0.9
    assert found.suggestion.interval[0] < found.suggestion.expected[0]
    assert found.suggestion.interval[1] > found.suggestion.expected[1]
    assert (found.model, found.n_images) == ("vit_s", 64)
    run = {planned.point for planned in plan.runs}
    assert not run & set(found.points)
    assert all(point.n_images <= 64 for point in found.points), "a run must see all its images"
    again = [point for point in found.points if (point.model, point.n_images) in {(p.model, p.n_images) for p in run}]
    assert {point.seed for point in again} <= {2}
    assert {point.seed for point in set(found.points) - set(again)} <= {0}


def test_runs_that_leave_the_interval_as_it_is_are_left_out_and_that_is_said(answered: Make) -> None:
    plan = answered()
    (little,) = suggest_runs(plan, Asked(model="vit_s"), Budget(amount=1e14, unit="FLOPs"), [CPU]).nexts
    (much,) = suggest_runs(plan, Asked(model="vit_s"), Budget(amount=1e19, unit="FLOPs"), [CPU]).nexts
    assert much.suggestion is not None
    assert much.suggestion.cost < 1e19 / 2
    assert re.match(r"\d+ more runs for \S+ FLOPs would take less than 2% of today's interval away", much.notes[0])
    assert little.n_candidates == much.n_candidates > 20


def test_hours_are_those_of_the_sweeps_own_runs(answered: Make) -> None:
    plan = answered(seconds=360.0)
    asked, hour = Asked(model="vit_nano"), 0.1
    (cpu,) = suggest_runs(plan, asked, Budget(amount=1.0, unit="CPU-hours"), [CPU]).nexts
    assert cpu.suggestion is not None
    costs = {str(p): s.candidate.cost for p, s in zip(cpu.points, cpu.suggestion.steps, strict=True)}
    known = {name: cost for name, cost in costs.items() if name.startswith(("vit_atto", "vit_femto", "vit_pico"))}
    assert known
    assert all(cost == pytest.approx(hour * plan.sweep.resources.cpus) for cost in known.values())
    (gpu,) = suggest_runs(plan, asked, Budget(amount=1.0, unit="GPU-hours"), [GPU]).nexts
    assert gpu.suggestion is not None
    assert gpu.suggestion.steps[0].candidate.cost == pytest.approx(hour)
    assert not any("slot" in note for note in gpu.notes)
    (slot,) = suggest_runs(plan, asked, Budget(amount=1.0, unit="GPU-hours"), [CPU]).nexts
    assert "runs take no GPU on this machine, so hours of one run's slot are counted" in slot.notes
    assert slot.suggestion is not None
    assert slot.suggestion.steps[0].candidate.cost == pytest.approx(hour)


def test_without_a_time_hours_cannot_be_counted_and_the_way_out_is_said(answered: Make) -> None:
    plan = answered(seconds=0.0)
    with pytest.raises(SpecError) as caught:
        suggest_runs(plan, Asked(), Budget(amount=1.0, unit="GPU-hours"), [CPU])
    assert str(caught.value) == (
        "mae / all / mean of 2 tasks: nothing of the kind was timed; "
        f"`scaling calibrate {plan.document.path}` measures it, or give --flops"
    )


def test_the_target_is_ten_times_the_largest_model_unless_named(answered: Make) -> None:
    (found,) = suggest_runs(answered(), Asked(), FLOPS, [CPU]).nexts
    assert found.model == "vit_ti"
    assert 5 < found.n_params / 0.9e6 < 15


def test_what_cannot_be_foretold_has_no_suggestion_but_a_reason(answered: Make) -> None:
    plan = answered(("n_images: [16, 32, 64]", "n_images: [16]"))
    (refused,) = suggest_runs(plan, Asked(n_images=1000), FLOPS, [CPU]).nexts
    assert refused.reason.startswith("n_images 1,000 was asked for and is 16 in all runs")
    assert refused.to_json()["status"] == "refused"
    (line,) = suggest_runs(plan, Asked(), FLOPS, [CPU]).nexts
    assert {point.n_images for point in line.points} == {16}
    (poor,) = suggest_runs(plan, Asked(), Budget(amount=1.0, unit="FLOPs"), [CPU]).nexts
    assert poor.reason.startswith("nothing for 1; the cheapest costs ")
    assert poor.to_json()["status"] == "nothing_affordable"
    assert "runs" not in poor.to_json()


def test_a_target_with_more_images_than_runs_see_says_where_candidates_end(answered: Make) -> None:
    (found,) = suggest_runs(answered(), Asked(n_images=1000), FLOPS, [CPU]).nexts
    assert any(
        note.startswith("candidates end at 64 images, which is what a run of this sweep") for note in found.notes
    )


def test_candidates_are_as_long_as_equal_epochs_make_them(answered: Make) -> None:
    plan = answered(("images_seen: 64", "epochs: 4"))
    (found,) = suggest_runs(plan, Asked(model="vit_nano", n_images=1000), FLOPS, [CPU]).nexts
    assert found.suggestion is not None
    assert max(point.n_images for point in found.points) > 64
    for point, step in zip(found.points, found.suggestion.steps, strict=True):
        assert step.candidate.cost == cost_at(plan, "mae", "all", point.model, point.n_images).train_flops
        assert step.candidate.cost == pytest.approx(4 * point.n_images * _flops_per_image(plan, point.model))
    assert not any("pretrain." in note for note in found.notes)


def _flops_per_image(plan: Plan, model: str) -> float:
    return cost_at(plan, "mae", "all", model, 64).flops_per_image


def test_candidates_see_all_their_images_within_equal_flops(answered: Make) -> None:
    plan = answered(("images_seen: 64", "flops: 4e9"))
    (found,) = suggest_runs(plan, Asked(model="vit_s", n_images=64), FLOPS, [CPU]).nexts
    assert found.suggestion is not None
    assert any(point.n_images > 64 for point in found.points)
    for point, step in zip(found.points, found.suggestion.steps, strict=True):
        per_image = _flops_per_image(plan, point.model)
        assert point.n_images * per_image <= step.candidate.cost == pytest.approx(4e9, abs=8 * per_image)
    assert any(note.startswith("at equal FLOPs a larger model sees fewer images") for note in found.notes)
    short = "4e+09 FLOPs pay the target for 16 images, fewer than its 64; raise pretrain.flops to come nearer to the "
    assert f"{short}target" in found.notes


def test_names_and_budgets_that_mean_nothing_are_said_at_once(answered: Make) -> None:
    plan = answered()
    with pytest.raises(SpecError) as caught:
        suggest_runs(plan, Asked(model="vit_x", n_images=0), Budget(amount=-1, unit="GPU-hours"), [CPU])
    assert [str(problem).split(" known: ")[0] for problem in caught.value.problems] == [
        "--target-model: unknown model 'vit_x'; did you mean 'vit_s'?",
        "--target-n-images: 0 is no number of images; give one above 0",
        "--gpu-hours: -1 buys no run; give a number above 0",
    ]


def test_what_is_printed_can_be_put_into_the_yaml(
    answered: Make, sweep_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = answered()
    root = str(plan.root)
    assert main(["suggest", "tiny", "--root", root, "--flops", "1e14", "--target-model", "vit_s"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("mae / all / mean of 2 tasks: to foretell vit_s on 64 images by the chinchilla law\n")
    assert "of 1e+14 FLOPs; 95 % of a run there: today [" in said
    assert "interval over today's" in said
    lines = said[said.index("include:\n") :]
    path = Path(plan.document.path)
    path.write_text(path.read_text() + lines)
    sweep, document = load(path)
    assert len(expand(sweep, document)[0]) > len(plan.runs)


def test_as_json_it_is_one_object(answered: Make, capsys: pytest.CaptureFixture[str]) -> None:
    plan = answered()
    assert main(["suggest", "tiny", "--root", str(plan.root), "--cpu-hours", "1", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["budget"] == {"amount": 1.0, "unit": "CPU-hours"}
    (one,) = values["series"]
    assert one["status"] == "given"
    assert one["spent"] == one["runs"][-1]["spent"] <= 1
    assert one["interval_today"][0] < one["interval_expected"][0]
    assert one["runs"][0]["algorithm"] == "mae"


def test_one_budget_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["suggest", "tiny"])
    assert ended.value.code == 2
    assert "one of the arguments --gpu-hours --cpu-hours --flops is required" in capsys.readouterr().err


def test_no_point_is_suggested_of_a_mixture_that_repeats(answered: Make) -> None:
    """A grid asks for entries; how many unique images these are, only the source's pool says."""
    plan = answered()
    repeated = [
        dataclasses.replace(run, spec=run.spec.model_copy(update={"repeated_from": run.spec.n_images // 2}))
        for run in plan.runs
    ]
    (found,) = suggest_runs(dataclasses.replace(plan, runs=tuple(repeated)), Asked(), FLOPS, [CPU]).nexts
    assert found.suggestion is None
    assert found.reason.startswith("mixture all repeats images: laws are of its unique ones, ")
