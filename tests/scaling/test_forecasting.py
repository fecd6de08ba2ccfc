"""`scaling predict`: a sweep's runs, made up by a law, foretell runs that it has not; what is held out is compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scaling.cli import main
from scaling.errors import SpecError
from scaling.forecasting import Asked, cost_at, predict
from scaling.plan import Plan

Make = Callable[..., Plan]
HELD = ("mixtures:", "holdout:\n  - {model: vit_nano, n_images: 64}\nmixtures:")
ONE_DATA_SIZE = ("n_images: [16, 32, 64]", "n_images: [16]")


@pytest.fixture
def plan(answered: Make) -> Plan:
    return answered(HELD)


def test_a_model_beyond_the_grid_is_predicted_with_its_own_parameters_and_flops(
    plan: Plan, planted_error: Callable[..., float]
) -> None:
    found = predict(plan, Asked(model="vit_s", n_images=48))
    (answer,) = found.predictions
    assert (answer.model, answer.law, answer.n_tasks) == ("vit_s", "chinchilla", 2)
    cost = cost_at(plan, "mae", "all", "vit_s", 48)
    largest = max(run.cost.n_params for run in plan.runs if run.point.n_images)
    assert answer.n_params == cost.n_params > 10 * largest
    assert answer.beyond["n_params"] == cost.n_params / largest
    assert answer.beyond["n_images"] == 48 / 64
    held = [run for run in plan.runs if run.holdout]
    fitted = [run for run in plan.runs if run.point.n_images and not run.holdout]
    assert set(answer.runs) == {run.dir.run for run in fitted}
    assert answer.beyond["train_flops"] == pytest.approx(cost.train_flops / max(r.cost.train_flops for r in fitted))
    truth = sum(planted_error(cost.n_params, 48, 0.5, task) for task in ("ct_lesion", "smear_cells")) / 2
    assert answer.value == pytest.approx(truth, rel=1e-3)
    assert {h.run for h in found.held} == {run.dir.run for run in held}
    assert all(h.inside and abs(h.off) < 0.02 for h in found.held)


def test_more_images_than_a_run_sees_make_the_run_longer_and_that_is_said(plan: Plan) -> None:
    (answer,) = predict(plan, Asked(model="vit_nano", n_images=1000)).predictions
    assert answer.warnings[0] == (
        "all runs saw 64 images, too few to see 1,000 once: what a longer training does is not in the data"
    )
    assert answer.beyond["train_flops"] == pytest.approx(1008 / 64)  # whole batches of 16


def test_at_equal_flops_a_larger_model_sees_fewer_images_and_that_is_said(answered: Make) -> None:
    plan = answered(HELD, ("images_seen: 64", "flops: 4e9"))
    (inside,) = predict(plan, Asked()).predictions
    assert inside.beyond["train_flops"] == pytest.approx(1, abs=0.1)  # half a batch in six
    assert not any("FLOPs" in warning for warning in inside.warnings)
    (answer,) = predict(plan, Asked(model="vit_s", n_images=48)).predictions
    assert answer.warnings[0] == (
        "4e+09 FLOPs, as all runs had, pay vit_s for 16 images, too few to see 48 once: what a longer training does is "
        "not in the data"
    )
    assert answer.warnings[1].startswith("at equal FLOPs a larger model sees fewer images")
    cost = cost_at(plan, "mae", "all", "vit_s", 48)
    assert cost.train_flops == 48 * cost.flops_per_image > 4e9


def test_at_equal_epochs_more_images_are_a_longer_run_by_the_sweeps_own_rule(answered: Make) -> None:
    (answer,) = predict(answered(("images_seen: 64", "epochs: 4")), Asked(n_images=640)).predictions
    assert answer.beyond == pytest.approx({"n_params": 1, "n_images": 10, "train_flops": 10})
    assert not any("longer training" in warning for warning in answer.warnings)


def test_without_sizes_the_largest_that_was_run_is_meant(plan: Plan) -> None:
    (answer,) = predict(plan, Asked()).predictions
    assert (answer.model, answer.n_images) == ("vit_nano", 64)
    assert answer.beyond == pytest.approx({"n_params": 1, "n_images": 1, "train_flops": 1})


def test_tasks_can_be_asked_for_one_by_one(plan: Plan) -> None:
    each = predict(plan, Asked(model="vit_s", tasks=("all",)))
    assert [p.task for p in each.predictions] == ["ct_lesion", "smear_cells"]
    assert len(each.held) == 4
    (one,) = predict(plan, Asked(model="vit_s", tasks=("smear_cells",))).predictions
    assert one == each.predictions[1]


def test_everything_that_means_nothing_is_said_at_once(plan: Plan) -> None:
    asked = Asked(model="vit_x", algorithm="mea", mixture="al", tasks=("smear",), law="chinchila", n_images=-1)
    with pytest.raises(SpecError) as caught:
        predict(plan, asked)
    assert [str(problem).split(" known: ")[0] for problem in caught.value.problems] == [
        "--model: unknown model 'vit_x'; did you mean 'vit_s'?",
        "--algorithm: unknown algorithm 'mea'; did you mean 'mae'?",
        "--mixture: unknown mixture 'al'; did you mean 'all'?",
        "--task: unknown task 'smear'; did you mean 'smear_cells'?",
        "--n-images: -1 is no number of images; give one above 0",
        "--law: unknown law 'chinchila'; did you mean 'chinchilla'?",
    ]
    with pytest.raises(SpecError, match="--probe: unknown probe 'knnn'; known: linear"):
        predict(plan, Asked(probe="knnn"))


def test_a_sweep_without_results_has_nothing_to_fit(plan_of: Make) -> None:
    with pytest.raises(
        SpecError, match=r"tiny: no run has a result of the linear probe to fit; `scaling run .*` first"
    ):
        predict(plan_of(), Asked())


def test_predict_prints_the_answer_its_law_its_doubts_and_what_was_held_out(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "tiny", "--root", str(plan.root), "--model", "vit_s", "--n-images", "21e6"]) == 0
    said = capsys.readouterr().out
    assert said.split()[4:6] == ["n_images", "error"]
    assert "n_images 328,125x" in said
    assert "mae / all / mean of 2 tasks: chinchilla law, E + A N^-alpha + B D^-beta: both sizes vary (4 model" in said
    assert "note: all runs saw 64 images, too few to see 21,000,000 once" in said
    assert "held out: 2 of 2 within their interval" in said
    assert sum(line.rstrip().endswith("yes") for line in said.splitlines()) == 2


def test_predict_as_json_has_every_number_and_run_and_null_for_none(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", "tiny", "--root", str(plan.root), "--json"]
    assert main([*command, "--model", "vit_s"]) == 0
    values = json.loads(capsys.readouterr().out)
    (answer,) = values["predictions"]
    assert answer["run_low"] < answer["low"] < answer["value"] < answer["high"] < answer["run_high"]
    assert len(answer["runs"]) == 22
    assert [held["inside"] for held in values["held_out"]] == [True, True]
    assert main([*command, "--law", "broken3"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["predictions"][0]["value"] is None
    assert values["predictions"][0]["reason"]
    assert values["held_out"][0]["inside"] is None


def test_a_refusal_is_an_answer_in_words(answered: Make, capsys: pytest.CaptureFixture[str]) -> None:
    plan = answered(ONE_DATA_SIZE)
    assert main(["predict", "tiny", "--root", str(plan.root), "--n-images", "1000"]) == 0
    said = capsys.readouterr().out
    assert "mae / all / mean of 2 tasks: n_images 1,000 was asked for and is 16 in all runs, so what it does" in said
    assert "refused" in said


def test_predict_can_be_asked_by_the_yaml_and_mistakes_exit_with_two(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(Path(plan.document.path)), "--model", "vit_s"]) == 0
    capsys.readouterr()
    assert main(["predict", "tiny", "--root", str(plan.root), "--model", "vit_x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("1 problem, nothing was done:\n  --model: unknown model 'vit_x'")


def test_predict_takes_what_the_yaml_holds_out_now(answered: Make, capsys: pytest.CaptureFixture[str]) -> None:
    plan = answered()
    path = Path(plan.document.path)
    path.write_text(path.read_text() + "holdout: [{model: vit_pico, n_images: 16}]\n")
    assert main(["predict", str(path), "--model", "vit_s", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [held["model"] for held in values["held_out"]] == ["vit_pico"] * 2
