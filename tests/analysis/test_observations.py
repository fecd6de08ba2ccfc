"""Every row of a table is kept or excluded with a reason, and a table that is none says all that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.observations import (
    COLUMNS,
    EXTRA,
    Exclusion,
    Rules,
    accounting,
    held_out,
    kept,
    load,
    mean_over_tasks,
    references,
    shared_tasks,
    without_result,
)
from analysis.tables.problems import InputError

Sweep = Callable[..., pd.DataFrame]


def test_a_table_without_needed_columns_names_all_of_them(sweep: Sweep) -> None:
    with pytest.raises(InputError) as error:
        load(sweep().drop(columns=["auc", "n_params", "n_images", "train_flops"]))
    first, second = error.value.problems
    assert first.startswith("observations: no column auc, nor error; the table has run, status, model, ")
    assert second.startswith(
        "observations: no column n_params, n_images, train_flops: a size is needed; the table has run, status, "
    )


def test_all_wrong_values_are_named_at_once(sweep: Sweep) -> None:
    table = sweep().astype({"n_images": object})
    table.loc[0, "n_images"] = "many"
    table.loc[1, "auc"] = 93.5
    table.loc[2, "status"] = "finished"
    with pytest.raises(ValueError) as error:
        load(table)
    assert "no numbers in n_images (row 1: 'many'); leave a missing value empty" in str(error.value)
    assert "auc outside 0-1" in str(error.value)
    assert "unknown status 'finished'; known: done, diverged, collapsed, failed" in str(error.value)


def test_rows_in_are_rows_kept_plus_rows_excluded(sweep: Sweep) -> None:
    rows = load(sweep())
    assert accounting(rows)["number"].sum() == len(rows) == len(sweep())
    assert set(rows["excluded"]) == {
        Exclusion.KEPT,
        Exclusion.FAILED,
        Exclusion.DIVERGED,
        Exclusion.BASELINE,
    }


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("status", "failed", Exclusion.FAILED),
        ("status", "diverged", Exclusion.DIVERGED),
        ("status", "collapsed", Exclusion.COLLAPSED),
        ("auc", np.nan, Exclusion.NO_METRIC),
        ("algorithm", "random", Exclusion.BASELINE),
        ("n_images", np.nan, Exclusion.NO_SIZE),
        ("n_params", 0.0, Exclusion.NO_SIZE),
    ],
)
def test_a_row_that_no_fit_may_use_says_why(sweep: Sweep, column: str, value: object, reason: Exclusion) -> None:
    table = sweep()
    table[column] = table[column].astype(object)
    table.loc[3, column] = value
    assert load(table).loc[3, "excluded"] == reason


def test_a_row_that_comes_twice_counts_once(sweep: Sweep) -> None:
    table = sweep()
    rows = load(pd.concat([table, table.iloc[[0]]]))
    assert rows["excluded"].iloc[-1] == Exclusion.REPEATED
    pd.testing.assert_frame_equal(kept(rows), kept(load(table)))


def test_only_the_main_read_out_is_fitted_and_baselines_are_apart(sweep: Sweep) -> None:
    rows = load(sweep())
    assert set(kept(rows)["probe"]) == {"linear"}
    assert set(kept(rows)["algorithm"]) == {"dinov2", "mae"}
    assert set(references(rows)["algorithm"]) == {"random", "pixels"}


def test_what_is_written_is_read_back_bit_by_bit(sweep: Sweep, tmp_path: Path) -> None:
    rows = load(sweep())
    rows.loc[0, "mixture"] = "NA"
    rows.to_csv(tmp_path / "observations.csv", index=False)
    pd.testing.assert_frame_equal(load(tmp_path / "observations.csv"), rows, check_exact=True)


def test_a_size_and_a_metric_are_enough() -> None:
    rows = load(pd.DataFrame({"n_params": [5e6, 5e6, 2e7], "error": [0.3, 0.31, 0.2]}))
    assert list(rows) == [*COLUMNS, *EXTRA, "excluded"]
    assert rows["run"].tolist() == rows["trunk"].tolist() == ["1", "2", "3"]
    assert rows["seed"].tolist() == [0, 1, 0]
    assert rows["model"].tolist() == ["5M", "5M", "20M"]
    assert rows[["status", "algorithm", "mixture", "task", "probe"]].drop_duplicates().to_numpy().tolist() == [
        ["done", "unnamed", "all", "unnamed", "linear"]
    ]
    assert not rows["holdout"].any()
    assert (rows["excluded"] == Exclusion.KEPT).all()
    assert rows[["auc", "auc_se", "n_images"]].isna().all(axis=None)


def test_rows_of_one_training_are_one_run_though_the_table_names_none() -> None:
    cells = [(a, n, t) for a in ("mae", "dino") for n in (1e6, 2e6) for t in ("skin", "eyes")]
    table = pd.DataFrame(cells, columns=["algorithm", "n_params", "task"]).assign(auc=0.9)
    rows = load(pd.concat([table, table]))
    assert rows["run"].nunique() == 8
    assert rows["seed"].tolist() == [0.0] * 8 + [1.0] * 8
    assert rows["run"].tolist()[:8] == ["1", "1", "3", "3", "5", "5", "7", "7"]
    assert shared_tasks(kept(rows)) == ["eyes", "skin"]
    assert len(mean_over_tasks(kept(rows))) == 8


def test_runs_without_seeds_are_counted_within_their_cell() -> None:
    table = pd.DataFrame({"run": list("aabbc"), "task": list("xyxyx"), "n_params": [1, 1, 1, 1, 2], "auc": 0.5})
    assert load(table)["seed"].tolist() == [0, 0, 1, 1, 0]


def test_sizes_that_differ_have_models_that_differ() -> None:
    sizes = [1e6, 1.0000001e6, 31.2e6, 2.5e9, 12, 3.1e12, 4500, 31.21e6]
    models = load(pd.DataFrame({"n_params": sizes, "auc": 0.5}))["model"]
    assert models.tolist() == ["1M", "1.0000001M", "31.2M", "2.5B", "12", "3.1T", "4.5k", "31.21M"]


def test_whole_columns_that_are_absent_can_be_given_a_value() -> None:
    table = pd.DataFrame({"n_params": [1e6], "auc": [0.9]})
    rows = load(table, defaults={"algorithm": "mae", "n_images": 21e6})
    assert rows[["algorithm", "n_images"]].to_numpy().tolist() == [["mae", 21e6]]
    with pytest.raises(InputError, match="defaults: unknown name 'algoritm'; did you mean 'algorithm'"):
        load(table, defaults={"algoritm": "mae"})


def test_names_and_units_of_other_people(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text('dataset,"Size, M",Err (%)\nskin,5,30\nskin,20,25\n')
    rows = load(path, mapping='task=dataset,n_params="Size, M"*1e6,error=Err (%)/100')
    assert rows["n_params"].tolist() == [5e6, 2e7]
    assert rows["error"].tolist() == [0.3, 0.25]
    assert rows["task"].tolist() == ["skin", "skin"]
    with pytest.raises(InputError) as error:
        load(path, mapping="taks=dataset,n_params=Size,error=dataset*2")
    assert error.value.problems == (
        f"--map: unknown name 'taks'; did you mean 'task'? known: {', '.join([*COLUMNS, *EXTRA])}",
        "--map: n_params: unknown column 'Size'; did you mean 'Size, M'? known: dataset, Size, M, Err (%)",
        "--map: 'dataset' holds 'skin', which cannot be multiplied; leave a missing value empty, or map it plainly",
    )


def test_a_table_in_parquet_is_the_table(sweep: Sweep, tmp_path: Path) -> None:
    sweep().to_parquet(tmp_path / "sweep.parquet")
    pd.testing.assert_frame_equal(load(tmp_path / "sweep.parquet"), load(sweep()), check_exact=True)


def test_a_table_of_an_earlier_version_knows_of_nothing_held_out(sweep: Sweep) -> None:
    rows = load(sweep().drop(columns="holdout"))
    assert not rows["holdout"].any()
    pd.testing.assert_frame_equal(rows, load(sweep()))


@pytest.mark.parametrize("mark", [True, "true", "True", 1, "1", "yes"])
def test_a_row_held_out_is_kept_apart_whatever_the_file_says_for_true(sweep: Sweep, mark: object) -> None:
    table = sweep().assign(holdout=None)
    table.loc[table["model"] == "vit_l", "holdout"] = mark
    rows = load(table)
    held = held_out(rows)
    assert set(held["model"]) == {"vit_l"}
    assert "vit_l" not in set(kept(rows)["model"])
    assert set(held["algorithm"]) == {"dinov2", "mae"}, "a baseline is never fitted, so never held out"
    assert accounting(rows)["number"].sum() == len(rows)


def test_what_is_neither_true_nor_false_is_named(sweep: Sweep) -> None:
    table = sweep().assign(holdout="False")
    table.loc[2, "holdout"] = "maybe"
    with pytest.raises(InputError, match=r"neither true nor false in holdout \(row 3: 'maybe'\)"):
        load(table)


def test_rows_can_be_left_out_and_held_out_by_words_in_either_name(sweep: Sweep) -> None:
    table = sweep().rename(columns={"mixture": "mix"})
    rules = Rules(exclude=["mix == ct_only", "task == skin and n_images > 4000"], holdout=["model == vit_l"])
    rows = load(table, mapping="mixture=mix", rules=rules)
    by_hand = rows[rows["excluded"] == Exclusion.BY_HAND]
    assert set(by_hand["mixture"]) == {"all", "ct_only"}
    assert set(by_hand.loc[by_hand["mixture"] == "all", "task"]) == {"skin"}
    assert set(held_out(rows)["mixture"]) == {"all"}
    assert rules.words() == [
        "left out by hand: mix == ct_only",
        "left out by hand: task == skin and n_images > 4000",
        "held out by hand: model == vit_l",
    ]
    with pytest.raises(InputError, match="--exclude: unknown column 'modle'; did you mean 'model'"):
        load(table, rules=Rules(exclude=["modle == vit_l"]))


def test_a_run_that_saw_less_than_others_of_its_data_size_is_under_trained(sweep: Sweep) -> None:
    table = sweep(broken=False)
    run = table["run"].iloc[0]
    table.loc[table["run"] == run, "images_seen"] = 0.5e5
    rows = load(table, rules=Rules(under_trained=0.9))
    assert set(rows.loc[rows["excluded"] == Exclusion.UNDER_TRAINED, "run"]) == {run}
    assert set(load(table)["excluded"]) == {Exclusion.KEPT, Exclusion.BASELINE}
    by_flops = table.assign(images_seen=np.nan)
    by_flops.loc[by_flops["run"] == run, "train_flops"] *= 0.5
    assert (load(by_flops, rules=Rules(under_trained=0.9))["excluded"] == rows["excluded"]).all()
    assert (load(table, rules=Rules(under_trained=0.4))["excluded"] != Exclusion.UNDER_TRAINED).all()


def test_a_seed_far_from_the_others_of_its_cell_is_an_outlier_by_the_rule(sweep: Sweep) -> None:
    table = sweep(seeds=(0, 1, 2, 3), broken=False, baselines=False, algorithms=("mae",), mixtures=("all",))
    table.loc[0, "auc"] = 1 - 3 * (1 - table.loc[0, "auc"])
    rows = load(table, rules=Rules(outlier=6))
    assert rows.index[rows["excluded"] == Exclusion.OUTLIER].tolist() == [0]
    few = load(table[table["seed"] < 2], rules=Rules(outlier=6))
    assert (few["excluded"] == Exclusion.KEPT).all(), "two seeds cannot say which of them is wrong"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(under_trained=1.5), "--under-trained: 1.5 is no share between 0 and 1"),
        (Rules(outlier=0), "--outlier: 0 is no positive number of median absolute deviations"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(sweep: Sweep, rules: Rules, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(sweep(), rules=rules)


def test_what_rules_left_out_stays_out_when_the_table_is_read_again(sweep: Sweep, tmp_path: Path) -> None:
    rows = load(sweep(), rules=Rules(exclude=["task == skin"], holdout=["model == vit_l"]))
    rows.to_csv(tmp_path / "observations.csv", index=False)
    pd.testing.assert_frame_equal(load(tmp_path / "observations.csv"), rows, check_exact=True)


def test_a_table_without_data_sizes_has_sizes_all_the_same(sweep: Sweep) -> None:
    rows = load(sweep().drop(columns="n_images"))
    assert Exclusion.NO_SIZE not in set(rows["excluded"])
    assert len(mean_over_tasks(kept(rows))) == kept(rows)["run"].nunique()


def test_one_of_error_and_auc_is_enough_and_both_must_agree(sweep: Sweep) -> None:
    table = sweep()
    both = load(table.assign(error=1 - table["auc"]))
    pd.testing.assert_frame_equal(both, load(table))
    only = load(table.assign(error=1 - table["auc"]).drop(columns="auc"))
    pd.testing.assert_series_equal(only["error"], both["error"])
    assert only["auc"].isna().all()
    pd.testing.assert_series_equal(only["excluded"], both["excluded"])
    with pytest.raises(InputError, match=r"error is not 1 - auc \(row 1: '0.5', .* more\); give one of the two"):
        load(table.assign(error=0.5))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("auc_se", -0.1, r"a standard error below zero in auc_se \(row 1: '-0.1'\)"),
        ("auc", 93.5, r"auc outside 0-1 \(.* to 93.5\); give shares, not percentages"),
    ],
)
def test_a_number_that_cannot_be_is_refused(sweep: Sweep, column: str, value: float, message: str) -> None:
    table = sweep()
    table.loc[0, column] = value
    with pytest.raises(InputError, match=message):
        load(table)


def test_an_infinite_error_is_refused() -> None:
    with pytest.raises(InputError, match=r"no finite number in error \(row 2: 'inf'\); leave a missing value empty"):
        load(pd.DataFrame({"n_params": [1, 2], "error": [0.5, np.inf]}))


def test_durations_of_one_trunk_stay_together_and_other_runs_are_their_own_trunk() -> None:
    table = pd.DataFrame({"n_params": 1e6, "images_seen": [1e5, 2e5, 2e5], "error": 0.5, "trunk": ["t", "t", ""]})
    rows = load(table)
    assert rows["trunk"].tolist() == ["t", "t", "3"]
    assert rows["run"].nunique() == 3
    assert mean_over_tasks(kept(rows))["trunk"].tolist() == ["t", "t", "3"]


def test_runs_without_a_result_are_listed_with_their_reason(sweep: Sweep) -> None:
    lost = without_result(load(sweep()))
    assert lost["status"].tolist() == ["failed", "diverged"]
    assert lost["reason"].tolist() == ["it failed <b>here</b>", "it diverged <b>here</b>"]


def test_means_are_over_the_tasks_that_every_run_has(sweep: Sweep) -> None:
    rows = kept(load(sweep()))
    rows = rows.drop(index=rows[(rows["task"] == "skin")].index[0])
    assert shared_tasks(rows) == ["blood", "chest", "organ", "retina"]
    means = mean_over_tasks(rows)
    run = rows[(rows["run"] == means["run"].iloc[0]) & (rows["task"] != "skin")]
    assert means["error"].iloc[0] == pytest.approx(run["error"].mean(), rel=1e-12)
    assert (means["n_tasks"] == 4).all()


def test_the_standard_error_of_a_mean_adds_variances_of_independent_tasks(sweep: Sweep) -> None:
    rows = kept(load(sweep()))
    means = mean_over_tasks(rows).set_index("run")
    for name, run in rows.groupby("run"):
        assert means.loc[name, "error_se"] == pytest.approx(np.sqrt((run["auc_se"] ** 2).sum()) / len(run), rel=1e-12)


def test_a_missing_standard_error_is_missing_and_not_zero(sweep: Sweep) -> None:
    table = sweep()
    table.loc[0, "auc_se"] = np.nan
    means = mean_over_tasks(kept(load(table))).set_index("run")["error_se"]
    assert np.isnan(means[table.loc[0, "run"]])
    assert means.isna().sum() == 1


def test_an_empty_table_is_no_mistake() -> None:
    rows = load(pd.DataFrame(columns=list(COLUMNS)))
    assert mean_over_tasks(kept(rows)).empty


def test_names_that_are_no_text_and_an_index_of_any_kind_are_no_matter() -> None:
    rows = load(pd.DataFrame({0: [1e6, 2e6], 1: [0.5, 0.4]}, index=["x", "x"]), mapping="n_params=0,error=1")
    assert rows["run"].tolist() == ["1", "2"]
    assert rows["error"].tolist() == [0.5, 0.4]


def test_two_columns_of_one_name_are_refused() -> None:
    table = pd.DataFrame([[1e6, 0.5, 0.6]], columns=["n_params", "error", "error"])
    with pytest.raises(InputError, match="several columns are called 'error'; a name must mean one column"):
        load(table)
