"""Runs are as long as the sweep's budget says: equal images, equal FLOPs or equal epochs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scaling.bill import bill_of
from scaling.cost import cost_of
from scaling.errors import SpecError
from scaling.launch.launcher import Node
from scaling.plan import Plan
from scaling.tables import plan_summary
from scaling.training import Pretrain

Make = Callable[..., Plan]
CPU = Node(name="c", host="box", cpus=2, memory=2**34)
FLOPS = "flops: 2e11"
SIZES = (
    ("model: [vit_atto]", "model: [vit_atto, vit_femto, vit_pico]"),
    ("  dinov2: {prototypes: 16, head_hidden: 16, head_bottleneck: 8, n_local: 1}\n", "  mae: {}\n"),
    ("algorithm: [mae, dinov2]", "algorithm: [mae]"),
)
SUPERVISED = (("algorithm: [mae, dinov2]", "algorithm: [supervised]"), SIZES[1], ("  mae: {}\n", "  supervised: {}\n"))


def seen(plan: Plan) -> dict[str, int]:
    return {str(run.point): run.spec.images_seen for run in plan.runs}


# --- equal FLOPs ------------------------------------------------------------------------------------------------


def test_runs_of_three_sizes_have_equal_flops_to_within_half_a_batch(plan_of: Make) -> None:
    plan = plan_of(*SIZES, ("images_seen: 64", FLOPS))
    trained = [run for run in plan.runs if run.point.n_images]
    assert len(trained) == 12
    for run in trained:
        half = run.cost.flops_per_image * run.spec.batch_size / 2
        assert run.cost.train_flops == pytest.approx(2e11, abs=half * (1 + 1e-12))  # rounding of the sums
        assert run.spec.images_seen == run.spec.n_steps * run.spec.batch_size
    lengths = seen(plan)
    atto, femto, pico = (lengths[f"{model}/mae/16xall/s0"] for model in ("vit_atto", "vit_femto", "vit_pico"))
    assert atto > femto > pico > 32
    assert lengths["vit_pico/random/s0"] == 0


def test_every_algorithm_pays_its_own_price_labels_included(plan_of: Make) -> None:
    plan = plan_of(*SUPERVISED, ("images_seen: 64", "flops: 1e16"))  # so many batches that heads' few FLOPs show
    run = plan.runs[0]
    bare = run.spec.options.model_copy(update={"labels": None})
    assert run.spec.images_seen == plan.sweep.pretrain.images(16, run.cost.flops_per_image)
    without = plan.sweep.pretrain.images(16, cost_of(run.spec.model_copy(update={"options": bare})).flops_per_image)
    assert run.spec.images_seen < without


def test_too_few_flops_for_half_a_batch_still_make_a_step_and_that_is_said(plan_of: Make) -> None:
    one_size = (*SIZES, ("n_images: [16, 32]", "n_images: [16]"))
    plan = plan_of(*one_size, ("images_seen: 64", "flops: 1e8"))  # a step of vit_femto takes 1.4e8
    assert set(seen(plan).values()) == {32, 16, 0}
    said = "a step of vit_pico/mae costs more than pretrain.flops 1e+08, so FLOPs are not equal; raise it, or "
    assert f"{said}lower pretrain.batch_size" in bill_of(plan, [CPU]).warnings
    assert not any("a step" in note for note in bill_of(plan_of(*one_size), [CPU]).warnings)


def test_all_points_that_do_not_see_their_images_are_refused_at_once_with_ways_out(plan_of: Make) -> None:
    more = ("mixtures:\n", "include:\n  - {model: [vit_pico, vit_nano], algorithm: mae, n_images: 48}\nmixtures:\n")
    with pytest.raises(SpecError) as caught:
        plan_of(*SIZES, more, ("images_seen: 64", "flops: 1e8"))
    first, second = caught.value.problems
    assert str(first).endswith(
        "sweep.yaml:6: grid.n_images[1]: 32 is more than the images that pretrain.flops 1e+08 pay for "
        "(16 with vit_femto/mae, 16 with vit_pico/mae), so some would never be seen; raise pretrain.flops to 5.97e+08, "
        "exclude these points, or leave n_images at 16 or below"
    )
    assert second.where.endswith("sweep.yaml:10: include[0].n_images")
    assert "raise pretrain.flops to 2.31e+09" in second.what


def test_each_way_out_of_too_few_flops_works(plan_of: Make) -> None:
    few = (*SIZES, ("images_seen: 64", "flops: 1e8"))
    for way_out in (
        ("flops: 1e8", "flops: 5.97e8"),
        ("mixtures:", "exclude:\n  - {model: [vit_femto, vit_pico], n_images: 32}\nmixtures:"),
        ("n_images: [16, 32]", "n_images: [16]"),
    ):
        assert all(run.spec.images_seen >= run.point.n_images for run in plan_of(*few, way_out).runs)


def test_a_recipe_that_follows_the_steps_follows_those_that_the_flops_leave(plan_of: Make) -> None:
    recipe = ("n_local: 1}", "n_local: 1, recipe: small-data}")
    plan = plan_of(recipe, ("images_seen: 64", "flops: 1e16"))
    run = next(run for run in plan.runs if run.point.algorithm == "dinov2")
    assert run.spec.n_steps > 125_000
    assert run.spec.options.warmup == pytest.approx(12_500 / run.spec.n_steps)  # type: ignore[attr-defined]


# --- equal epochs -----------------------------------------------------------------------------------------------


def test_equal_epochs_are_met_with_whole_batches(plan_of: Make) -> None:
    lengths = seen(plan_of(*SIZES, ("images_seen: 64", "epochs: 1.3"), ("[16, 32]", "[16, 30]")))
    assert {lengths[f"{model}/mae/16xall/s0"] for model in ("vit_atto", "vit_pico")} == {32}  # 20.8
    assert lengths["vit_atto/mae/30xall/s0"] == 48  # 39


def test_a_product_that_is_whole_but_for_its_last_bit_costs_no_batch() -> None:
    assert 1.12 * 100 > 112
    assert Pretrain(epochs=1.12, batch_size=16).images(100) == 112


# --- one run, however its budget was given ----------------------------------------------------------------------


def test_a_run_is_the_same_whichever_budget_gave_its_images(plan_of: Make) -> None:
    def prints(written: str) -> list[str]:
        return list(
            plan_of(*SIZES[1:], ("n_images: [16, 32]", "n_images: [32]"), ("images_seen: 64", written)).unique()
        )

    equal_images = prints("images_seen: 64")
    assert prints("epochs: 2") == equal_images
    assert prints(f"flops: {64 * 4129152}") == equal_images
    assert prints("epochs: 3") != equal_images


def test_a_plan_tells_its_budget_and_the_images_it_comes_to(plan_of: Make) -> None:
    bill = bill_of(plan_of(*SIZES, ("images_seen: 64", FLOPS)), [CPU])
    assert "training: equal FLOPs, 2e+11 a run: 10,720 to 48,432 images seen" in list(plan_summary(bill))
    told = bill.to_json()
    assert told["training"] == {"budget": "equal FLOPs", "flops": 2e11}
    assert {run["images_seen"] for run in told["runs"]} == {0, 10720, 22288, 48432}
    plain = bill_of(plan_of(), [CPU])
    assert "training: equal images, 64 a run" in list(plan_summary(plain))
    assert plain.to_json()["training"] == {"budget": "equal images", "images_seen": 64}
