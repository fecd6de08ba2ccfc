"""The words of the report: each says what the numbers back, and says when they back nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis import answers
from analysis.benefit import benefits, headline
from analysis.correlate import correlate
from analysis.figures.error import curves
from analysis.observations import kept, load, mean_over_tasks, references, without_result

FEATURES = ["samples", "classes", "imbalance", "compressibility", "davies_bouldin"]
Sweep = Callable[..., pd.DataFrame]


def fitted(table: pd.DataFrame) -> pd.DataFrame:
    return kept(load(table))


def pairs_of(table: pd.DataFrame) -> pd.DataFrame:
    return answers.paired(fitted(table), references(load(table)))


def weaknesses_of(table: pd.DataFrame) -> str:
    rows = fitted(table)
    along = curves(mean_over_tasks(rows), "n_params")
    return "\n".join(answers.weaknesses(rows, without_result(load(table)), along))


def test_the_best_run_is_named_with_its_error_and_the_flattery_of_picking_it(sweep: Sweep) -> None:
    means = mean_over_tasks(fitted(sweep()))
    (words,) = answers.best_run(means)
    assert f"over 5 tasks, {means['error'].min():.4f} (1 - AUC; standard error of the test images " in words
    assert "is vit_l / dinov2 / all on 16,000 images" in words
    assert "best of 34 runs on the same test images, which flatters it" in words


def test_without_standard_errors_none_is_printed(sweep: Sweep) -> None:
    (words,) = answers.best_run(mean_over_tasks(fitted(sweep().assign(auc_se=np.nan))))
    assert "(1 - AUC)" in words
    assert "nan" not in words


def test_without_runs_nothing_is_best(sweep: Sweep) -> None:
    assert answers.best_run(mean_over_tasks(fitted(sweep().iloc[:0]))) == [
        "No run has a result that could be compared."
    ]


def test_a_reference_is_compared_task_by_task_with_the_same_model(sweep: Sweep) -> None:
    table = sweep()
    wrong_model = (table["algorithm"] == "random") & (table["model"] != "vit_l")
    table.loc[wrong_model, "auc"] = 0.01
    pair = pairs_of(table).set_index(["algorithm", "reference"]).loc[("dinov2", "random")]
    rows = fitted(table)
    mine = (rows["algorithm"] == "dinov2") & (rows["model"] == "vit_l") & (rows["mixture"] == "all")
    errors = rows[mine & (rows["n_images"] == 16_000)].groupby("task")["error"].mean()
    difference = 0.3 - errors
    assert pair["difference"] == pytest.approx(difference.mean(), rel=1e-12)
    # Student's t of four degrees of freedom is 2.776 at 97.5 %.
    half = 2.7764451 * difference.std() / np.sqrt(5)
    assert pair["low"] == pytest.approx(difference.mean() - half, rel=1e-6)
    assert pair["tasks_better"] == pair["n_tasks"] == 5


@pytest.mark.parametrize(
    ("reference_auc", "verdict"),
    [(0.5, "has a lower error than"), (0.999, "has a higher error than")],
)
def test_the_verdict_on_a_reference_follows_its_interval(sweep: Sweep, reference_auc: float, verdict: str) -> None:
    table = sweep(algorithms=("mae",), mixtures=("all",))
    table.loc[table["algorithm"] == "pixels", "auc"] = reference_auc
    words = [line for line in answers.references(pairs_of(table)) if "bare pixels" in line]
    assert len(words) == 1
    assert verdict in words[0]


def test_one_task_tells_nothing_apart_and_prints_no_nan(sweep: Sweep) -> None:
    for line in answers.references(pairs_of(sweep(tasks=("skin",)))):
        assert "is not told apart from" in line
        assert "[no interval from one task] over 1 task," in line
        assert "nan" not in line


def test_references_without_common_tasks_or_model_give_a_reason(sweep: Sweep) -> None:
    table = sweep()
    table = table[~((table["algorithm"] == "random") & (table["model"] == "vit_l"))]
    words = [line for line in answers.references(pairs_of(table)) if "initialisation" in line]
    assert len(words) == 2
    for line in words:
        assert "cannot be compared with the same encoder at initialisation: the reference was read out on none" in line
        assert "nan" not in line


def test_without_references_nothing_shows_that_pretraining_helped(sweep: Sweep) -> None:
    (words,) = answers.references(pairs_of(sweep(baselines=False)))
    assert "nothing here shows that pretraining helped at all" in words


def test_tenfold_scale_multiplies_the_error_by_ten_to_the_minus_b(sweep: Sweep) -> None:
    means = mean_over_tasks(fitted(sweep(noise=0.0, algorithms=("mae",), mixtures=("all",), broken=False)))
    (words,) = answers.tenfold(curves(means, "n_images"), "images")
    assert words.startswith(f"mae, all, vit_l: ten times the images multiply the error by {10**-0.1:.2f} [0.79, 0.79]")
    assert words.endswith("(1k to 16k).")


def test_an_effect_whose_interval_holds_zero_is_not_shown(sweep: Sweep) -> None:
    table = sweep(algorithms=("mae",), mixtures=("all",), images=(1000,), broken=False)
    size = table["n_params"].map({2e6: 0.8, 8e6: 0.9, 3e7: 0.8})
    means = mean_over_tasks(fitted(table.assign(auc=size.fillna(0.5))))
    (words,) = answers.tenfold(curves(means, "n_params"), "parameters")
    assert words.endswith("; an effect is not shown.")


def test_less_than_tenfold_is_called_an_extrapolation(sweep: Sweep) -> None:
    # Exactly 2, 8 and 15 million: three sizes, sevenfold.
    table = sweep(algorithms=("mae",), mixtures=("all",), images=(1000,), broken=False)
    table["n_params"] = table["n_params"].replace({3e7: 1.5e7})
    (words,) = answers.tenfold(curves(mean_over_tasks(fitted(table)), "n_params"), "parameters")
    assert "(2M to 15M, less than tenfold: an extrapolation)" in words


def test_two_sizes_are_no_law_and_one_is_no_series(sweep: Sweep) -> None:
    two = mean_over_tasks(fitted(sweep(models=("vit_s", "vit_l"), broken=False)))
    for line in answers.tenfold(curves(two, "n_params"), "parameters"):
        assert line.endswith("no law along parameters: fewer distinct sizes than parameters plus one.")
    one = mean_over_tasks(fitted(sweep(models=("vit_s",))))
    (line,) = answers.tenfold(curves(one, "n_params"), "parameters")
    assert "nothing is known" in line


@pytest.mark.parametrize(
    ("exponent", "factor"),
    [(0.3, "0.50"), (0.0, "1.00"), (-0.3, "2.00"), (1.5, "0.032"), (400, "< 0.001"), (-400, "> 1000")],
)
def test_a_factor_is_printed_with_the_digits_it_deserves(exponent: float, factor: str) -> None:
    assert answers._factor(exponent) == factor


def test_the_quoted_curve_is_not_chosen_by_its_result(sweep: Sweep) -> None:
    table = sweep(broken=False)
    quoted = [curve.name for curve in answers.longest(curves(mean_over_tasks(fitted(table)), "n_params"))]
    assert quoted == ["dinov2, all, 16,000 images", "mae, all, 16,000 images"]
    upside_down = table.assign(auc=1.2 - table["auc"])
    means = mean_over_tasks(fitted(upside_down[upside_down["auc"] < 1]))
    assert [curve.name for curve in answers.longest(curves(means, "n_params"))] == quoted


def test_tasks_that_gain_lose_show_neither_or_have_no_answer_add_up(sweep: Sweep) -> None:
    table = sweep(algorithms=("mae",), mixtures=("all",), images=(1000,), broken=False, noise=1e-4)
    ours = table["algorithm"] == "mae"
    table.loc[ours & (table["task"] == "chest"), "auc"] = table["n_params"].map({2e6: 0.9, 8e6: 0.85, 3e7: 0.775})
    table.loc[ours & (table["task"] == "skin"), "auc"] = table["n_params"].map({2e6: 0.8, 8e6: 0.9, 3e7: 0.8})
    table.loc[ours & (table["task"] == "organ") & (table["n_params"] == 3e7), "auc"] = 1.0
    tested, untested = answers.gaining(headline(benefits(fitted(table))))
    assert tested == (
        "mae: the error falls with model size on 2 of 4 tasks (blood, retina), rises on 1 (chest), shows neither on 1. "
        "One 95 % interval a task, so that chance alone gives 0.1 each way on average."
    )
    assert untested == (
        "mae: no answer along model size for organ: a size or an error of zero or below has no logarithm."
    )


def test_correlations_are_counted_with_those_that_have_no_answer(sweep: Sweep, tasks: pd.DataFrame) -> None:
    chosen = headline(benefits(fitted(sweep())))
    first, second = answers.correlated(correlate(chosen, tasks.drop(columns="classes"), features=FEATURES))
    assert first == (
        "0 of 8 feature-benefit correlations survive a false-discovery rate of 5 %; 2 more have no answer."
    )
    assert second == (
        "With 5 tasks only |r| > 0.88 could be called significant at 5 % even for a single test, and no permutation p "
        "can be below 1/120."
    )


def test_correlations_without_an_answer_give_every_reason(sweep: Sweep, tasks: pd.DataFrame) -> None:
    chosen = headline(benefits(fitted(sweep(tasks=("skin", "organ")))))
    (words,) = answers.correlated(correlate(chosen, tasks.drop(columns="classes"), features=FEATURES))
    assert "tasks with both numbers: 2; at least 4 are needed" in words
    assert "the task table has no such column" in words
    (none,) = answers.correlated(correlate(chosen.iloc[:0], tasks))
    assert none.endswith("no benefit was measured.")


def test_a_surviving_correlation_is_named() -> None:
    pair = {
        "feature": "samples",
        "algorithm": "mae",
        "n_tasks": 12,
        "pearson": 0.9,
        "p": 0.001,
        "q": 0.01,
        "status": "",
    }
    first, _ = answers.correlated(pd.DataFrame([pair]))
    assert first.startswith("1 of 1 feature-benefit correlations survive")
    assert first.endswith(": samples with mae (r = +0.90).")


def test_weaknesses_name_lost_runs_few_sizes_single_seeds_and_few_tasks(sweep: Sweep) -> None:
    words = weaknesses_of(sweep())
    assert "Runs without a result are in no fit: 1 failed, 1 diverged." in words
    assert "No series has more than 3 model sizes: intervals rest on one degree of freedom." in words
    assert "34 of 34 cells have a single seed" in words
    assert "5 tasks are few" in words


def test_weaknesses_name_tasks_that_means_leave_out_and_tasks_without_room(sweep: Sweep) -> None:
    table = sweep(broken=False)
    table.loc[0, "auc"] = np.nan
    table.loc[table["task"] == "organ", "auc"] = 0.995
    words = weaknesses_of(table)
    assert f"Means are over 4 tasks; not every run has a result on {table.loc[0, 'task']}." in words
    assert "Nearly solved, with little room to gain (error below 0.01): organ." in words


@pytest.mark.parametrize(("models", "words"), [(("vit_s",), "1 model size:"), (("vit_s", "vit_m"), "2 model sizes:")])
def test_too_few_model_sizes_are_said_to_give_no_law(sweep: Sweep, models: tuple[str, ...], words: str) -> None:
    assert f"No series has more than {words} no law, no interval." in weaknesses_of(sweep(models=models))


MIXED = [
    ("n_params", -1.0, "12 of 12 series along model size", "fewer", ", and the error may turn up again beyond."),
    ("n_params", 0.5, "12 of 12 series along model size", "more", "."),
    ("n_images", 1.0, "12 of 12 series along data size", "more", "."),
]


@pytest.mark.parametrize(("axis", "power", "where", "how", "end"), MIXED, ids=["FLOPs", "patience", "epochs"])
def test_a_training_that_changes_length_along_an_axis_is_a_weakness_of_its_laws(
    sweep: Sweep, axis: str, power: float, where: str, how: str, end: str
) -> None:
    table = sweep(broken=False)
    trained = table["images_seen"] > 0
    table.loc[trained, "images_seen"] *= (table.loc[trained, axis] / 1e6) ** power
    words = f"In {where} runs at the larger end saw {how} images in training, so that these laws mix both{end}"
    assert [line for line in weaknesses_of(table).splitlines() if " images in training, so" in line] == [words]


def test_trainings_of_one_length_but_for_rounding_are_no_weakness(sweep: Sweep) -> None:
    table = sweep()
    table["images_seen"] *= np.where(table["model"] == "vit_l", 1.005, 1.0)
    assert "so that these laws mix both" not in weaknesses_of(table)
    assert "so that these laws mix both" not in weaknesses_of(table.assign(images_seen=np.nan))


def test_several_seeds_are_no_weakness(sweep: Sweep) -> None:
    assert "single seed" not in weaknesses_of(sweep(seeds=(0, 1), broken=False))
