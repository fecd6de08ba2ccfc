"""Correlations of task features with benefits: exact for few tasks, honest without effect, corrected for many looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.correlate import (
    FEWEST,
    benjamini_hochberg,
    correlate,
    detectable,
    fisher_interval,
    permutation_p,
)
from analysis.features import FEATURES


def tables(n_tasks: int, *, seed: int = 0, effect: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Benefits of one algorithm and features of standard normal noise; `samples` drives the benefit by `effect`."""
    rng = np.random.default_rng(seed)
    names = [f"task{i}" for i in range(n_tasks)]
    features = {name: rng.standard_normal(n_tasks) for name in FEATURES}
    exponent = effect * features["samples"] + rng.standard_normal(n_tasks)
    benefit = pd.DataFrame({"task": names, "algorithm": "mae", "exponent": exponent})
    return benefit, pd.DataFrame({"task": names, **features})


@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_the_p_value_of_few_tasks_is_that_of_all_permutations(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal(n), rng.standard_normal(n)

    def r(values: np.ndarray) -> float:
        return float(np.corrcoef(x, values)[0, 1])

    reference = stats.permutation_test((y,), r, permutation_type="pairings", n_resamples=np.inf)
    orders = np.abs(reference.null_distribution)
    # scipy's two-sided p doubles the smaller tail; ours counts |r|, from the same null distribution.
    assert permutation_p(x, y, rng) == pytest.approx(np.mean(orders >= abs(r(y)) - 1e-12), rel=1e-12)


def test_the_p_value_of_many_tasks_is_close_to_students() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, y = rng.standard_normal(30), rng.standard_normal(30)
        expected = float(stats.pearsonr(x, y).pvalue)
        # 9,999 permutations know a p to .005 at most (standard error at .5), and t is itself approximate: .02.
        assert permutation_p(x, y, rng) == pytest.approx(expected, abs=0.02)


def test_a_p_value_is_never_zero_and_one_where_nothing_goes_together() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(20.0)
    assert permutation_p(x, x, rng) == pytest.approx(1 / 10_000)
    assert permutation_p(np.array([1.0, 2, 3, 4]), np.array([1.0, -1, -1, 1]), rng) == 1.0


@pytest.mark.parametrize("n", [7, 12])
def test_p_values_are_uniform_when_nothing_goes_together(n: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.exponential(size=n)  # as skewed as numbers of samples are
    p = [permutation_p(x, rng.standard_normal(n), rng) for _ in range(200)]
    # Kolmogorov and Smirnov's distance of 200 uniform numbers exceeds .115 in 1 % of cases; the seed is fixed.
    assert stats.kstest(p, "uniform").statistic < 0.115


def test_rescaling_either_side_leaves_the_p_value_unchanged() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(6), rng.standard_normal(6)
    p = permutation_p(x, y, rng)
    assert permutation_p(1e9 * x + 5, y, rng) == p
    assert permutation_p(x, -1e-6 * y, rng) == p


def test_false_discoveries_are_controlled_as_by_hand() -> None:
    # Sorted .01 .02 .03 .04 .5: p m / rank = .05 .05 .05 .05 .5; given in another order.
    p = np.array([0.04, 0.5, 0.01, 0.03, 0.02])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.05, 0.5, 0.05, 0.05, 0.05])
    # A larger p with a smaller p m / rank pulls those before it down: .03 x 2 / 1 = .06, .031 x 2 / 2 = .031.
    np.testing.assert_allclose(benjamini_hochberg(np.array([0.03, 0.031])), [0.031, 0.031])
    assert benjamini_hochberg(np.array([])).size == 0


def test_discoveries_are_corrected_over_all_features_and_algorithms() -> None:
    benefit, features = tables(12)
    both = pd.concat([benefit, benefit.assign(algorithm="dinov2", exponent=benefit["exponent"][::-1].to_numpy())])
    table = correlate(both, features)
    assert len(table) == 2 * len(FEATURES)
    np.testing.assert_allclose(table["q"], benjamini_hochberg(table["p"].to_numpy()))


@pytest.mark.parametrize("rho", [0.0, 0.6])
@pytest.mark.parametrize("n", [4, 6, 12])
def test_the_interval_of_a_correlation_covers_as_often_as_stated(n: int, rho: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, n))
    y = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal((400, n))
    intervals = [fisher_interval(float(np.corrcoef(a, b)[0, 1]), n) for a, b in zip(x, y, strict=True)]
    # Binomial(400, .95) lies between 366 and 393 in 99.9 % of cases; Fisher's z is approximate by less than that.
    assert 366 <= sum(low <= rho <= high for low, high in intervals) <= 393


def test_the_interval_of_a_perfect_correlation_is_a_number() -> None:
    low, high = fisher_interval(1.0, 5)
    assert 0.9 < low <= high <= 1.0


def test_what_can_be_detected_is_where_students_p_is_five_percent() -> None:
    r, n = detectable(12), 12
    t = r * np.sqrt((n - 2) / (1 - r**2))
    assert 2 * stats.t.sf(t, n - 2) == pytest.approx(0.05, rel=1e-9)
    assert detectable(12) == pytest.approx(0.576, abs=5e-4)  # of any table of critical correlations
    assert detectable(2) == 1.0


def test_a_planted_correlation_is_found_and_no_other() -> None:
    table = correlate(*tables(20, effect=3.0)).set_index("feature")
    assert table.loc["samples", "q"] < 0.05
    assert table.loc["samples", "pearson"] > 0.8
    assert (table.drop(index="samples")["q"] > 0.05).all()


@pytest.mark.parametrize("n", range(FEWEST))
def test_too_few_tasks_give_a_reason_and_no_number(n: int) -> None:
    benefit, features = tables(FEWEST)
    table = correlate(benefit.assign(exponent=benefit["exponent"].where(benefit.index < n)), features)
    assert table[["pearson", "pearson_low", "spearman", "p", "q"]].isna().all(axis=None)
    assert (table["status"] == f"tasks with both numbers: {n}; at least {FEWEST} are needed").all()
    assert (table["n_tasks"] == n).all()


def test_missing_features_constant_features_and_constant_benefits_have_a_reason() -> None:
    benefit, features = tables(8)
    table = correlate(benefit, features.drop(columns="classes").assign(samples=5.0)).set_index("feature")
    assert table.loc["classes", "status"] == "the task table has no such column"
    assert table.loc["samples", "status"] == "no spread: the feature is the same for all tasks"
    assert table.loc["imbalance", "status"] == ""
    flat = correlate(benefit.assign(exponent=1e-17 * benefit["exponent"]), features)
    assert (flat["status"] == "no spread: the benefit is the same for all tasks").all()
    assert flat["p"].isna().all()


def test_a_task_without_a_feature_is_left_out_of_that_pair_alone() -> None:
    benefit, features = tables(8)
    features.loc[2, "davies_bouldin"] = np.nan
    n = correlate(benefit, features).set_index("feature")["n_tasks"]
    assert n["davies_bouldin"] == 7
    assert (n.drop("davies_bouldin") == 8).all()


def test_the_same_tables_give_the_same_answers() -> None:
    pd.testing.assert_frame_equal(correlate(*tables(10)), correlate(*tables(10)))


@pytest.mark.parametrize(
    ("feature", "column", "algorithm", "printed"),
    [
        ("samples", "num_samples", "dinov2", 0.51),
        ("samples", "num_samples", "mae", 0.33),
        ("classes", "num_classes", "dinov2", 0.05),
        ("classes", "num_classes", "mae", -0.24),
    ],
)
def test_published_correlations_are_reproduced_and_none_is_significant(
    shared: Path, feature: str, column: str, algorithm: str, printed: float
) -> None:
    """BioVFM-21M (arXiv 2505.09329): Pearson's r of task features with the slopes of log AUC, 12 tasks.

    The features that need the images (Davies-Bouldin, gzip) are not reproduced here.
    """
    folder = shared / "reference" / "biovfm"
    slopes = pd.read_csv(folder / "slopes.csv").rename(columns={"dataset": "task", "digitised_slope": "exponent"})
    features = pd.read_csv(folder / "features.csv")[["dataset", column]]
    features = features.rename(columns={"dataset": "task", column: feature})
    benefit = slopes[(slopes["algorithm"] == algorithm) & (slopes["task"] != "mean")]
    pair = correlate(benefit, features).set_index("feature").loc[feature]
    assert pair["n_tasks"] == 12
    assert pair["pearson"] == pytest.approx(printed, abs=0.00501)  # two printed digits
    # The source prints neither p nor an interval. By permutation p = .09 and .30 for samples, more for classes.
    assert pair["p"] > 0.05
    assert pair["pearson_low"] < 0 < pair["pearson_high"]
