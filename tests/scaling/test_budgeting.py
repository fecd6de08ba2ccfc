"""Runs are as long as the sweep's budget says: equal images, equal FLOPs or equal epochs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scaling.bill import bill_of
from scaling.choice import conclude
from scaling.config import load
from scaling.cost import cost_of
from scaling.errors import SpecError
from scaling.launch.launcher import Node
from scaling.plan import Plan, make_plan, open_source
from scaling.tables import plan_summary
from scaling.training import Pretrain
from scaling.trials import Tried, key_of, trial_plan

Make = Callable[..., Plan]
CPU = Node(name="c", host="box", cpus=2, memory=2**34)
FLOPS = "flops: 2e11"
SIZES = (
    ("model: [vit_atto]", "model: [vit_atto, vit_femto, vit_pico]"),
    ("  dinov2: {prototypes: 16, head_hidden: 16, head_bottleneck: 8, n_local: 1}\n", "  mae: {}\n"),
    ("algorithm: [mae, dinov2]", "algorithm: [mae]"),
)
SUPERVISED = (("algorithm: [mae, dinov2]", "algorithm: [supervised]"), SIZES[1], ("  mae: {}\n", "  supervised: {}\n"))


@pytest.fixture
def price(plan_of: Make) -> dict[str, float]:
    """FLOPs of a batch, by model: the closed forms are tested elsewhere and may be corrected."""
    plan = plan_of(*SIZES, ("vit_pico]", "vit_pico, vit_nano]"))
    return {run.point.model: run.cost.flops_per_image * 16 for run in plan.runs if run.point.n_images}


def flops(amount: float) -> tuple[str, str]:
    return "images_seen: 64", f"flops: {amount!r}"


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


def test_too_few_flops_for_half_a_batch_still_make_a_step_and_that_is_said(
    plan_of: Make, price: dict[str, float]
) -> None:
    one_size = (*SIZES, ("n_images: [16, 32]", "n_images: [16]"))
    plan = plan_of(*one_size, flops(0.6 * price["vit_femto"]))
    lengths = seen(plan)
    assert {lengths[f"{model}/mae/16xall/s0"] for model in ("vit_atto", "vit_femto", "vit_pico")} == {16}
    said = f"a step of vit_pico/mae costs more than pretrain.flops {plan.sweep.pretrain.flops:g}, so FLOPs are not "
    assert f"{said}equal; raise it, or lower pretrain.batch_size" in bill_of(plan, [CPU]).warnings
    assert not any("a step" in note for note in bill_of(plan_of(*one_size), [CPU]).warnings)


def test_all_points_that_do_not_see_their_images_are_refused_at_once_with_ways_out(
    plan_of: Make, price: dict[str, float]
) -> None:
    more = ("mixtures:\n", "include:\n  - {model: [vit_pico, vit_nano], algorithm: mae, n_images: 48}\nmixtures:\n")
    with pytest.raises(SpecError) as caught:
        plan_of(*SIZES, more, flops(1.4 * price["vit_femto"]))
    first, second = caught.value.problems
    found = re.fullmatch(
        r".*sweep\.yaml:6: grid\.n_images\[1\]: 32 is more than the images that pretrain\.flops \S+ pay for "
        r"\(16 with vit_femto/mae, 16 with vit_pico/mae\), so some would never be seen; raise pretrain\.flops to "
        r"(\S+), exclude these points, or leave n_images at 16 or below",
        str(first),
    )
    assert found
    assert 2 * price["vit_pico"] <= float(found[1]) < 2.02 * price["vit_pico"]
    assert second.where.endswith("sweep.yaml:10: include[0].n_images")
    assert "(16 with vit_pico/mae, 16 with vit_nano/mae)" in second.what


def test_each_way_out_of_too_few_flops_works(plan_of: Make, price: dict[str, float]) -> None:
    few = (*SIZES, ("images_seen: 64", f"flops: {1.4 * price['vit_femto']!r}"))
    with pytest.raises(SpecError) as caught:
        plan_of(*few)
    (named,) = re.findall(r"raise pretrain\.flops to (\S+),", str(caught.value))
    for way_out in (
        (few[-1][1], f"flops: {named}"),
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


def test_a_run_is_the_same_whichever_budget_gave_its_images(plan_of: Make, price: dict[str, float]) -> None:
    def prints(written: str) -> list[str]:
        return list(
            plan_of(*SIZES[1:], ("n_images: [16, 32]", "n_images: [32]"), ("images_seen: 64", written)).unique()
        )

    equal_images = prints("images_seen: 64")
    assert prints("epochs: 2") == equal_images
    assert prints(f"flops: {4 * price['vit_atto']!r}") == equal_images
    assert prints("epochs: 3") != equal_images


def test_a_plan_tells_its_budget_and_the_images_it_comes_to(plan_of: Make) -> None:
    plan = plan_of(*SIZES, ("images_seen: 64", FLOPS))
    bill, lengths = bill_of(plan, [CPU]), set(seen(plan).values())
    few, many = min(lengths - {0}), max(lengths)
    assert f"training: equal FLOPs, 2e+11 a run: {few:,} to {many:,} images seen" in list(plan_summary(bill))
    told = bill.to_json()
    assert told["training"] == {"budget": "equal FLOPs", "flops": 2e11}
    assert {run["images_seen"] for run in told["runs"]} == lengths
    plain = bill_of(plan_of(), [CPU])
    assert "training: equal images, 64 a run" in list(plan_summary(plain))
    assert plain.to_json()["training"] == {"budget": "equal images", "images_seen": 64}


# --- tuning -----------------------------------------------------------------------------------------------------

TUNE = ("probe: {", "tune: {at: [vit_atto, vit_pico], lr: {between: [1e-4, 1e-2]}}\nprobe: {")
"""Trials on 32 images of two of the three sizes."""


@pytest.fixture
def tuned(sweep_file: Callable[..., Path]) -> Callable[..., tuple[Plan, Plan]]:
    """Plans of the trials and of the grid."""

    def make(*replacements: tuple[str, str]) -> tuple[Plan, Plan]:
        sweep, document = load(sweep_file(*SIZES, TUNE, *replacements))
        sweep, source = open_source(sweep, document)
        return trial_plan(sweep, document, source), make_plan(sweep, document, source)

    return make


@pytest.mark.parametrize("budget", [FLOPS, "epochs: 3"])
def test_a_trial_is_as_long_as_the_grids_run_of_its_size(tuned: Callable[..., tuple[Plan, Plan]], budget: str) -> None:
    trials, grid = tuned(("images_seen: 64", budget))
    own = {run.point: run.dir.run for run in grid.runs}
    assert [run.dir.run for run in trials.runs] == [own[run.point] for run in trials.runs]
    assert len(trials.runs) == 2
    other, _ = tuned(("images_seen: 64", budget + "0"))
    assert key_of(other.sweep, ("mae", "vit_pico")) != key_of(trials.sweep, ("mae", "vit_pico"))


def test_trials_whose_flops_do_not_pay_for_their_images_are_refused_with_a_way_out(
    tuned: Callable[..., tuple[Plan, Plan]], price: dict[str, float]
) -> None:
    few = flops(1.2 * price["vit_pico"])
    where = r"sweep\.yaml:22: tune{}: {} is more than the images that pretrain\.flops \S+ pay for "
    with pytest.raises(SpecError, match=where.format("", 32) + r"\(16 with vit_pico/mae\).*tune\.n_images 16 or fewer"):
        tuned(few)
    with pytest.raises(SpecError, match=where.format(r"\.n_images", 33) + r"\(16 with vit_pico/mae"):
        tuned(few, ("at: [vit_atto", "n_images: 33, at: [vit_atto"))


def test_what_a_budget_does_to_carried_learning_rates_is_said(tuned: Callable[..., tuple[Plan, Plan]]) -> None:
    def said(budget: str) -> str:
        trials, _ = tuned(("images_seen: 64", budget))
        tried = [
            Tried(
                algorithm="mae", model=run.point.model, n_params=run.cost.n_params, run=run.dir.run, lr=1e-3,
                weight_decay=None, status="done", step=1, n_steps=1, loss=1.0, score=1.0,
            )
            for run in trials.runs
        ]  # fmt: skip
        sweep = trials.sweep.model_copy(update={"grid": trials.sweep.grid.model_copy(update={"n_images": [16, 32]})})
        return "\n".join(conclude(sweep, tried).warnings)

    assert "under equal FLOPs larger models see fewer images, so the rule between sizes holds for" in said(FLOPS)
    assert "under equal epochs trials see 96 images; runs on 16 images are of another length" in said("epochs: 3")
    assert "under equal" not in said("images_seen: 64")
