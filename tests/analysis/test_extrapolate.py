"""Predictions of runs that were never made: right where the law is planted, refused where nothing can be known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.extrapolate import Held, Prediction, Predictor, Target
from analysis.observations import Rules, held_out, kept, load
from analysis.series import Series, series

SIZES = (1e6, 3e6, 1e7, 3e7, 1e8)


def planted(n_params: float, n_images: float) -> float:
    return 30 * n_params**-0.4 + 8 * n_images**-0.35 + 0.02


def table(
    sizes: tuple[float, ...] = SIZES,
    images: tuple[float, ...] = (1e4, 4e4, 16e4, 64e4),
    *,
    noise: float = 0.0,
    seeds: int = 2,
    **more: Any,
) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "n_params": n,
            "n_images": d,
            "seed": s,
            "train_flops": 6 * n * 1e6,
            "error": planted(n, d),
            "run": f"{n}{d}{s}",
        }
        for n in sizes
        for d in images
        for s in range(seeds)
    ]
    made = pd.DataFrame(rows).assign(**more)
    return made.assign(error=made["error"] * np.exp(noise * rng.standard_normal(len(made))))


def of(rows: pd.DataFrame, **rules: Any) -> Series:
    checked = load(rows, rules=Rules(**rules))
    (only,) = series(kept(checked), held_out(checked))
    return only


def ask(given: Series, law: str = "auto", **sizes: Any) -> Prediction:
    (answer,) = Predictor(given, law=law).predict([Target(**sizes)])
    return answer


def test_where_both_sizes_vary_the_law_of_both_is_found_and_followed() -> None:
    answer = ask(of(table()), n_params=1e9, n_images=1e7, train_flops=6e16)
    assert answer.value == pytest.approx(planted(1e9, 1e7), rel=1e-6)
    assert answer.law == "chinchilla"
    assert answer.why.startswith(
        "both sizes vary (5 model sizes x 4 data sizes); chinchilla foretold the larger sizes best from the smaller"
    )
    assert [rival.law for rival in answer.candidates] == ["chinchilla", "chinchilla_tied"]
    assert answer.candidates[0].weight == 1
    assert answer.candidates[1].value != answer.value
    assert answer.beyond == pytest.approx({"n_params": 10, "n_images": 15.625, "train_flops": 100})
    assert answer.n_cells == 20
    assert len(answer.runs) == 40
    assert answer.answered


def test_a_run_scatters_more_than_the_curve_is_unknown_and_the_truth_lies_within() -> None:
    answer = ask(of(table(noise=0.03)), n_params=3e8, n_images=2e6)
    assert answer.run_low < answer.low < answer.value < answer.high < answer.run_high
    assert answer.low < planted(3e8, 2e6) < answer.high


def test_a_design_too_small_for_both_exponents_takes_the_law_that_ties_them_and_says_why() -> None:
    answer = ask(of(table(images=(1e4, 64e4))), n_params=3e8, n_images=64e4)
    assert answer.law == "chinchilla_tied"
    assert answer.why.startswith(
        "both sizes vary (5 model sizes x 2 data sizes), not chinchilla: 2 distinct data sizes"
    )


def test_of_two_laws_of_both_sizes_the_one_that_fits_for_its_parameters_is_taken() -> None:
    rows = table()
    tied = rows.assign(error=30 * rows["n_params"] ** -0.4 + 12 * rows["n_images"] ** -0.4 + 0.02)
    noise = np.exp(0.01 * np.random.default_rng(1).standard_normal(len(rows)))
    assert ask(of(tied.assign(error=tied["error"] * noise)), n_params=1e9).law == "chinchilla_tied"
    free = rows.assign(error=300 * rows["n_params"] ** -0.6 + 0.9 * rows["n_images"] ** -0.15 + 0.02)
    assert ask(of(free.assign(error=free["error"] * noise)), n_params=1e9).law == "chinchilla"


def test_along_the_axis_that_varies_the_other_stays_as_it_is() -> None:
    given = of(table(images=(4e4,)))
    answer = ask(given, n_params=1e9)
    assert answer.n_images == 4e4
    assert answer.why.startswith(
        "the model size varies, n_images being 40,000; saturating foretold the larger sizes best"
    )
    assert answer.beyond["n_images"] == 1
    refused = ask(given, n_params=1e9, n_images=21e6)
    assert (refused.status, refused.answered) == ("refused", False)
    assert refused.reason == (
        "n_images 21,000,000 was asked for and is 40,000 in all runs, so what it does is unknown; "
        "ask for 40,000, or run other data sizes"
    )
    assert refused.beyond == {}
    assert np.isnan([refused.low, refused.high, refused.run_low, refused.run_high]).all()


def test_along_data_size_the_model_stays_as_it_is() -> None:
    given = of(table(sizes=(1e7,), images=(1e4, 3e4, 1e5, 3e5), model="vit_x"))
    answer = ask(given, n_images=1e6)
    assert (answer.model, answer.n_params) == ("vit_x", 1e7)
    assert answer.why.startswith("the data size varies, n_params being 10,000,000; ")
    assert "ask for 10,000,000, or run other model sizes" in ask(given, n_params=1e9, n_images=1e6).reason


def test_a_grid_too_small_for_any_law_of_both_is_read_along_a_line_that_was_run() -> None:
    rows = pd.concat([table(sizes=(1e6, 1e7, 1e8), images=(1e4,)), table(sizes=(1e6,), images=(2e4,))])
    given = of(rows)
    answer = ask(given, n_params=1e9, n_images=1e4)
    assert answer.law == "power"
    assert answer.n_cells == 3
    assert ", no law of both sizes (chinchilla: 4 distinct sizes for 5 parameters; one more is needed)" in answer.why
    assert answer.why.endswith("; power: too few sizes to hold any out; the law of fewest parameters")
    refused = ask(given, n_params=1e9, n_images=3e4)
    assert "no run has n_images 30,000; there are 10,000, 20,000" in refused.reason
    few = ask(given, n_params=1e9, n_images=2e4)
    assert "1 model size at n_images 20,000: a law needs three" in few.reason


def test_without_a_size_that_varies_nothing_is_known() -> None:
    answer = ask(of(table(sizes=(1e6,), images=(1e4,))), n_params=1e9)
    assert answer.reason == "all runs have the same sizes; run others to learn what size does"


def test_a_table_without_data_sizes_answers_by_model_size_alone() -> None:
    given = of(table(images=(4e4,)).drop(columns="n_images"))
    answer = ask(given, n_params=1e9)
    assert answer.answered
    assert np.isnan(answer.n_images)
    assert answer.why.startswith("the model size varies; ")
    assert ask(given, n_params=1e9, n_images=1e5).reason == (
        "the table has no n_images, so nothing is known along the data size"
    )


def test_a_law_by_name_is_taken_or_refused() -> None:
    line = of(table(images=(4e4,)))
    answer = ask(line, law="saturating", n_params=1e9)
    assert answer.value == pytest.approx(planted(1e9, 4e4), rel=1e-5)
    assert answer.why.endswith("; saturating was asked for")
    assert ask(line, law="chinchilla", n_params=1e9).reason == (
        "chinchilla needs model and data sizes that vary, and all runs have n_images 40,000"
    )
    two = ask(of(table(images=(1e4, 4e4))), law="chinchilla", n_params=1e9)
    assert two.reason.startswith("chinchilla: 2 distinct data sizes")
    with pytest.raises(ValueError, match="unknown law 'powr'; did you mean 'power'"):
        Predictor(line, law="powr")
    with pytest.raises(ValueError, match="unknown law 'sigmoid'"):
        Predictor(line, law="sigmoid")


def test_a_fit_that_failed_is_no_number() -> None:
    rows = table(images=(4e4,)).assign(error=0.0)
    answer = ask(of(rows), n_params=1e9)
    assert (answer.status, answer.answered) == ("not_positive", False)
    assert answer.reason
    assert answer.warnings == ()


def test_what_is_far_or_thin_is_said() -> None:
    answer = ask(of(table(images=(4e4,), seeds=1)), n_params=2e10)
    assert answer.warnings[0] == (
        "200 times beyond the largest model size, while those fitted span a factor of 100: "
        "the data say little about so long a way"
    )
    assert "one seed a size: what seeds do shows only as distance from the law" in answer.warnings
    assert "20 times beyond the largest model size" in ask(of(table(images=(4e4,))), n_params=2e9).warnings
    assert "below the smallest model size, 1,000,000" in ask(of(table(images=(4e4,))), n_params=1e5).warnings
    longer = table(images=(4e4,)).assign(images_seen=lambda rows: 1e6 * (1 + rows["seed"]))
    assert "runs of equal sizes saw different numbers of images, which the law takes for scatter" in (
        ask(of(longer), n_params=2e8).warnings
    )
    mixed = of(pd.concat([table(images=(4e4,), seeds=1), table(sizes=(1e6,), images=(4e4,)).iloc[1:]]))
    assert "4 of 5 sizes have one seed" in ask(mixed, n_params=2e8).warnings


def test_held_out_runs_are_predicted_from_the_others_and_stand_beside_what_was_measured() -> None:
    given = of(table(noise=0.01), holdout=["n_params == 1e8 and n_images == 640000"])
    found = Predictor(given).against()
    assert [h.run for h in found] == ["100000000.0640000.00", "100000000.0640000.01"]
    assert not set(found[0].prediction.runs) & {h.run for h in found}
    assert len(found[0].prediction.runs) == 38
    for h in found:
        assert h.inside
        assert h.off == pytest.approx(planted(1e8, 64e4) / h.measured - 1, abs=0.03)
        assert h.prediction.value == found[0].prediction.value


def test_a_held_out_run_far_from_its_prediction_is_outside_and_one_without_an_interval_neither() -> None:
    rows = table(noise=0.01)
    last = rows["n_params"] == 1e8
    assert not any(
        h.inside
        for h in Predictor(of(rows.assign(error=rows["error"] * (1 + last)), holdout=["n_params==1e8"])).against()
    )
    refused = Predictor(of(table(images=(4e4,)), holdout=["n_params >= 1e7"])).against()
    assert [h.inside for h in refused] == [None] * 6
    assert "a law needs three" in refused[0].prediction.reason


def test_series_are_means_over_the_tasks_of_all_fitted_runs_or_one_a_task(
    sweep: Callable[..., pd.DataFrame],
) -> None:
    rows = load(
        sweep(broken=False),
        rules=Rules(holdout=["model == vit_l"], exclude=["task == skin and seed == 0 and model == vit_s"]),
    )
    fitted, held = kept(rows), held_out(rows)
    means = series(fitted, held)
    assert [s.name for s in means] == [
        f"{algorithm} / {mixture} / mean of 4 tasks"
        for algorithm in ("dinov2", "mae")
        for mixture in ("all", "ct_only")
    ]
    assert [(len(s.rows), len(s.held)) for s in means] == [(6, 3)] * 4
    expected = held[(held["run"] == means[0].held["run"].iloc[0]) & (held["task"] != "skin")]["error"].mean()
    assert means[0].held["error"].iloc[0] == pytest.approx(expected, rel=1e-12)
    each = series(fitted, held, tasks=["chest", "skin"])
    assert [s.task for s in each] == ["chest", "skin"] * 4
    assert each[1].name == "dinov2 / all / skin"
    assert len(each[1].rows) == 3


def test_a_held_out_run_that_lacks_a_task_is_compared_on_none(sweep: Callable[..., pd.DataFrame]) -> None:
    rows = load(sweep(broken=False), rules=Rules(holdout=["model == vit_l"]))
    held = held_out(rows)
    short = held[~((held["run"] == held["run"].iloc[0]) & (held["task"] == "skin"))]
    assert len(series(kept(rows), short)[0].held) == 2


def test_durations_of_one_trunk_are_one_cluster() -> None:
    rows = table(images=(4e4,), seeds=1).assign(trunk=["a", "a", "b", "c", "d"])
    fitter = Predictor(of(rows)).fitter
    best = fitter.choose({"n_params": 1e9, "n_images": 4e4}, {"n_params": 1e9, "n_images": None}).best
    assert best.fit.points.clusters.tolist() == [0, 0, 1, 2, 3]


def test_a_held_run_says_how_far_off_its_prediction_is() -> None:
    answer = ask(of(table(images=(4e4,))), n_params=1e8)
    held = Held(run="x", seed=0, measured=answer.value / 1.1, prediction=answer)
    assert held.off == pytest.approx(0.1)


def test_a_held_out_run_whose_seed_nobody_wrote_down_is_compared_all_the_same() -> None:
    rows = table(images=(4e4,), seeds=1)
    given = of(rows.assign(seed=rows["seed"].where(rows["n_params"] < 1e8)), holdout=["n_params == 1e8"])
    (held,) = Predictor(given).against()
    assert held.seed is None
    assert np.isfinite(held.off)


def test_where_no_task_is_common_to_all_runs_only_single_tasks_make_series() -> None:
    rows = load(
        pd.DataFrame({"n_params": [1e6, 2e6, 3e6] * 2, "task": list("aaabbb"), "error": 0.5, "run": list("123456")})
    )
    assert series(kept(rows), held_out(rows)) == []
    each = series(kept(rows), held_out(rows), tasks=["a", "b"])
    assert [(s.task, len(s.rows)) for s in each] == [("a", 3), ("b", 3)]


def test_without_their_sizes_models_are_series_of_their_own() -> None:
    curves = table(sizes=(1e6, 1e7), images=(1e3, 1e4, 1e5, 1e6), model=["small"] * 8 + ["large"] * 8)
    rows = load(curves.drop(columns="n_params"), rules=Rules(holdout=["n_images == 1e6"]))
    found = series(kept(rows), held_out(rows))
    assert [s.name for s in found] == [f"unnamed / all / {m} / mean of 1 task" for m in ("large", "small")]
    assert [(len(s.rows), len(s.held)) for s in found] == [(6, 2)] * 2
    small = Predictor(found[1]).against()[0].prediction
    assert (small.model, small.name) == ("small", found[1].name)
    assert small.n_cells == 3
