"""Any table of benefits against any table of features: every pair has a row, with an answer or with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.association import benjamini_hochberg
from analysis.correlate import FEWEST, NUMBERS, correlate, numeric_columns

NAMES = ("samples", "classes", "imbalance", "entropy")


def tables(n_tasks: int, *, seed: int = 0, effect: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Benefits of one algorithm and features of standard normal noise; `samples` drives the benefit by `effect`."""
    rng = np.random.default_rng(seed)
    names = [f"task{i}" for i in range(n_tasks)]
    features = {name: rng.standard_normal(n_tasks) for name in NAMES}
    exponent = effect * features["samples"] + rng.standard_normal(n_tasks)
    benefit = pd.DataFrame({"task": names, "algorithm": "mae", "exponent": exponent})
    return benefit, pd.DataFrame({"task": names, **features})


def test_the_numbers_of_a_pair_are_scipys() -> None:
    benefit, features = tables(12, effect=0.5)
    row = correlate(benefit, features).set_index("feature").loc["classes"]
    x, y, c = features["classes"], benefit["exponent"], features["samples"]
    for name, expected in (
        ("pearson", stats.pearsonr(x, y)),
        ("spearman", stats.spearmanr(x, y)),
        ("kendall", stats.kendalltau(x, y)),
    ):
        assert row[name] == pytest.approx(expected.statistic, abs=1e-12)
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert row["p_kendall"] == pytest.approx(stats.kendalltau(x, y).pvalue, rel=1e-12)
    xy, xc, yc = (np.corrcoef(*both)[0, 1] for both in ((x, y), (x, c), (y, c)))
    assert row["partial"] == pytest.approx((xy - xc * yc) / np.sqrt((1 - xc**2) * (1 - yc**2)), rel=1e-12)
    t = row["partial"] * np.sqrt(9 / (1 - row["partial"] ** 2))
    assert row["partial_p"] == pytest.approx(2 * stats.t.sf(abs(t), 9), rel=1e-9)
    assert row["n_tasks"] == 12
    assert row["detectable"] == pytest.approx(0.576, abs=5e-4)


def test_discoveries_are_corrected_over_all_features_and_algorithms() -> None:
    benefit, features = tables(12)
    both = pd.concat([benefit, benefit.assign(algorithm="dinov2", exponent=benefit["exponent"][::-1].to_numpy())])
    table = correlate(both, features)
    assert len(table) == 2 * len(NAMES)
    np.testing.assert_allclose(table["q"], benjamini_hochberg(table["p"].to_numpy()))
    assert (table["p_family"] >= table["p"] - 0.02).all()  # from other random permutations: three times .005


def test_a_planted_correlation_is_found_and_no_other() -> None:
    table = correlate(*tables(20, effect=3.0)).set_index("feature")
    assert table.loc["samples", "q"] < 0.05
    assert table.loc["samples", "p_family"] < 0.05
    assert table.loc["samples", "pearson_low"] > 0.6
    assert (table.drop(index="samples")["q"] > 0.05).all()


def test_the_order_of_rows_changes_nothing_but_the_order() -> None:
    benefit, features = tables(10)
    one = correlate(benefit, features)
    other = correlate(benefit[::-1], features.sample(frac=1, random_state=0))
    random = ["p", "p_spearman", "p_family", "q"]  # other random permutations
    pd.testing.assert_frame_equal(one.drop(columns=random), other.drop(columns=random))
    np.testing.assert_allclose(one[random], other[random], atol=0.04)
    pd.testing.assert_frame_equal(one, correlate(benefit, features))


# --- the benefits' own errors ---


def test_errors_of_the_benefits_weaken_what_is_measured_and_the_correction_says_by_how_much() -> None:
    benefit, features = tables(30, effect=1.0)
    variance = benefit["exponent"].var()
    table = correlate(benefit.assign(exponent_se=np.sqrt(0.36 * variance)), features).set_index("feature")
    row = table.loc["samples"]
    assert row["reliability"] == pytest.approx(0.64, rel=1e-9)
    for end in ("", "_low", "_high"):
        assert row[f"corrected{end}"] == pytest.approx(min(1.0, row[f"pearson{end}"] / 0.8), rel=1e-9)
    assert (table["corrected_status"] == "").all()


def test_benefits_known_exactly_need_no_correction() -> None:
    benefit, features = tables(12)
    table = correlate(benefit.assign(exponent_se=0.0), features)
    np.testing.assert_allclose(table["corrected"], table["pearson"])
    np.testing.assert_allclose(table["reliability"], 1.0)


def test_where_errors_are_all_there_is_no_corrected_number_but_the_reason() -> None:
    benefit, features = tables(12)
    unknown = correlate(benefit, features)
    assert (unknown["corrected_status"] == "benefits without a standard error: 12 of 12").all()
    lost = correlate(benefit.assign(exponent_se=5 * benefit["exponent"].std()), features)
    assert (lost["corrected_status"] == "the benefits' own errors explain 100% of their spread over tasks").all()
    for table in (unknown, lost):
        assert table[["corrected", "corrected_low", "corrected_high"]].isna().all(axis=None)
        assert table["pearson"].notna().all()


def test_standard_errors_are_taken_from_a_named_column_or_from_the_ends_of_intervals() -> None:
    benefit, features = tables(12)
    half = 1.959963984540054 * 0.3
    named = correlate(benefit.assign(error=0.3), features, se="error")
    ends = benefit.assign(exponent_low=benefit["exponent"] - half, exponent_high=benefit["exponent"] + half)
    np.testing.assert_allclose(correlate(ends, features)["reliability"], named["reliability"])
    assert named["reliability"].notna().all()


# --- any table ---


def test_without_a_list_every_numeric_column_is_a_feature_and_texts_are_not() -> None:
    benefit, features = tables(8)
    features = features.assign(kind="binary", empty=np.nan, written=[str(i) for i in range(8)], flag=[True, False] * 4)
    assert numeric_columns(features, without=["task"]) == [*NAMES, "written", "flag"]
    assert set(correlate(benefit, features)["feature"]) == {*NAMES, "written", "flag"}


def test_a_table_without_algorithms_is_one_series_and_other_columns_may_tell_series_apart() -> None:
    benefit, features = tables(8)
    alone = correlate(benefit.drop(columns="algorithm"), features)
    assert list(alone.columns[:2]) == ["feature", "n_tasks"]
    np.testing.assert_array_equal(alone["pearson"], correlate(benefit, features)["pearson"])
    two = pd.concat([benefit.assign(mixture=name) for name in ("all", "ct")])
    table = correlate(two, features, by=("algorithm", "mixture"))
    assert table[["algorithm", "mixture"]].drop_duplicates().to_numpy().tolist() == [["mae", "all"], ["mae", "ct"]]


def test_other_names_of_columns_are_taken() -> None:
    benefit, features = tables(9)
    renamed = correlate(
        benefit.rename(columns={"task": "dataset", "exponent": "slope"}),
        features.rename(columns={"task": "dataset"}),
        column="slope",
        key="dataset",
    )
    pd.testing.assert_frame_equal(renamed, correlate(benefit, features))


def test_names_of_tasks_may_be_numbers_in_one_table_and_words_in_the_other() -> None:
    benefit, features = tables(6)
    numbered = correlate(benefit.assign(task=range(6)), features.assign(task=[str(i) for i in range(6)]))
    assert (numbered["n_tasks"] == 6).all()


def test_the_logarithm_of_a_feature_may_be_named() -> None:
    benefit, features = tables(8)
    features["samples"] = 10.0 ** features["samples"]
    features.loc[0, "samples"] = 0.0
    row = correlate(benefit, features, features=["log10 samples"], control=None).iloc[0]
    expected = np.corrcoef(np.log10(features["samples"][1:]), benefit["exponent"][1:])[0, 1]
    assert row["pearson"] == pytest.approx(expected, rel=1e-12)
    assert row["n_tasks"] == 7  # none of nothing


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"column": "gain"}, "benefits: no column gain; the table has task, algorithm, exponent"),
        ({"key": "dataset"}, "features: no column dataset"),
        ({"by": ["mixture"]}, "benefits: no column mixture"),
        ({"se": "gain_se"}, "benefits: no column gain_se"),
    ],
)
def test_a_missing_column_is_named_with_those_there_are(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        correlate(*tables(6), **change)  # type: ignore[arg-type]


def test_a_task_given_twice_is_refused_rather_than_counted_twice() -> None:
    benefit, features = tables(6)
    with pytest.raises(ValueError, match=r"several rows of a task in one series \(task0\).* told apart by algorithm"):
        correlate(pd.concat([benefit, benefit.iloc[:1]]), features)
    with pytest.raises(ValueError, match=r"features: several rows of a task \(task0\)"):
        correlate(benefit, pd.concat([features, features.iloc[:1]]))


# --- what has no answer ---


@pytest.mark.parametrize("n", range(FEWEST))
def test_too_few_tasks_give_a_reason_and_no_number(n: int) -> None:
    benefit, features = tables(FEWEST)
    table = correlate(benefit.assign(exponent=benefit["exponent"].where(benefit.index < n)), features)
    assert table[NUMBERS].isna().all(axis=None)
    assert (table["status"] == f"tasks with both numbers: {n}; at least {FEWEST} are needed").all()
    assert (table["n_tasks"] == n).all()


def test_missing_features_constant_features_and_constant_benefits_have_a_reason() -> None:
    benefit, features = tables(8)
    flat = features.drop(columns="classes").assign(samples=5.0)
    table = correlate(benefit, flat, features=NAMES).set_index("feature")
    assert table.loc["classes", "status"] == "the task table has no such column"
    assert table.loc["samples", "status"] == "no spread: the feature is the same for all tasks"
    assert table.loc["imbalance", "status"] == ""
    alike = correlate(benefit.assign(exponent=1e-17 * benefit["exponent"]), features)
    assert (alike["status"] == "no spread: the benefit is the same for all tasks").all()
    assert alike["p"].isna().all()


def test_a_task_without_a_feature_is_left_out_of_that_pair_alone() -> None:
    benefit, features = tables(8)
    features.loc[2, "entropy"] = np.nan
    features.loc[3, "entropy"] = np.inf
    n = correlate(benefit, features).set_index("feature")["n_tasks"]
    assert n["entropy"] == 6
    assert (n.drop("entropy") == 8).all()


def test_tables_without_a_common_task_or_without_rows_are_answered_with_reasons() -> None:
    benefit, features = tables(6)
    table = correlate(benefit.assign(task=[f"other{i}" for i in range(6)]), features)
    assert (table["status"] == f"tasks with both numbers: 0; at least {FEWEST} are needed").all()
    assert correlate(benefit.iloc[:0], features).empty
    assert correlate(benefit, features[["task"]]).empty


def test_a_control_that_is_missing_or_the_feature_itself_gives_no_partial_correlation() -> None:
    benefit, features = tables(8)
    table = correlate(benefit, features).set_index("feature")
    assert (table["control"] == "samples").all()
    assert np.isnan(table.loc["samples", "partial"])
    assert table["partial"].drop("samples").notna().all()
    for control in ("nothing", None):
        without = correlate(benefit, features, control=control)
        assert (without["control"] == "").all()
        assert without[["partial", "partial_low", "partial_p"]].isna().all(axis=None)


def test_the_task_that_a_correlation_hangs_on_is_named() -> None:
    benefit, features = tables(12)
    features.loc[5, "classes"] = benefit.loc[5, "exponent"] = 30.0
    row = correlate(benefit, features).set_index("feature").loc["classes"]
    assert row["pearson"] > 0.9
    assert row["influential"] == "task5"
    assert row["without_low"] < 0.6 < row["without_high"]
    # Its interval knows, and ranks do not care.
    assert row["pearson_low"] < 0
    assert abs(row["spearman"]) < 0.6


# --- BioVFM-21M (arXiv 2505.09329) ---


@pytest.mark.parametrize(
    ("feature", "algorithm", "printed", "p"),
    [
        ("num_samples", "dinov2", 0.51, 0.09),
        ("num_samples", "mae", 0.33, 0.30),
        ("num_classes", "dinov2", 0.05, 0.87),
        ("num_classes", "mae", -0.24, 0.47),
    ],
)
def test_published_correlations_are_reproduced_and_none_is_significant(
    shared: Path, feature: str, algorithm: str, printed: float, p: float
) -> None:
    """Pearson's r of task features with the slopes of log AUC, 12 tasks.

    The features that need the images (Davies-Bouldin, gzip) are not reproduced here.
    """
    folder = shared / "reference" / "biovfm"
    slopes = pd.read_csv(folder / "slopes.csv")
    benefit = slopes[(slopes["algorithm"] == algorithm) & (slopes["dataset"] != "mean")]
    features = pd.read_csv(folder / "features.csv")
    table = correlate(benefit, features, column="digitised_slope", key="dataset", control="num_samples")
    pair = table.set_index("feature").loc[feature]
    assert pair["n_tasks"] == 12
    assert pair["pearson"] == pytest.approx(printed, abs=0.00501)  # two printed digits
    # The source prints neither p nor an interval.
    assert pair["p"] == pytest.approx(p, abs=0.02)
    assert pair["pearson_low"] < 0 < pair["pearson_high"]
    assert (table["q"] > 0.05).all()
