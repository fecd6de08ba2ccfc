"""Every row of a table is kept or excluded with a reason, and a table that is none says all that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.observations import (
    REQUIRED,
    Exclusion,
    accounting,
    kept,
    load,
    mean_over_tasks,
    references,
    shared_tasks,
    without_result,
)
from scaling.records import COLUMNS

Sweep = Callable[..., pd.DataFrame]


def test_a_table_without_needed_columns_names_all_of_them(sweep: Sweep) -> None:
    with pytest.raises(ValueError, match=r"observations: no column model, auc; the table has run, status"):
        load(sweep().drop(columns=["model", "auc"]))


def test_all_wrong_values_are_named_at_once(sweep: Sweep) -> None:
    table = sweep().astype({"n_images": object})
    table.loc[0, "n_images"] = "many"
    table.loc[1, "auc"] = 93.5
    table.loc[2, "status"] = "finished"
    with pytest.raises(ValueError) as error:
        load(table)
    assert "no numbers in n_images; leave a missing value empty" in str(error.value)
    assert "auc outside 0-1" in str(error.value)
    assert "unknown status 'finished'; known: done, diverged, failed" in str(error.value)


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


def test_only_required_columns_are_needed(sweep: Sweep) -> None:
    rows = load(sweep()[list(REQUIRED)])
    assert set(COLUMNS) <= set(rows)
    assert rows["auc_se"].isna().all()


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
