"""Coefficients by SciPy, p-values exact for few tasks and uniform without effect, intervals that cover as stated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from analysis import association as a

PLANTED = [(rho, n) for rho in (0.0, 0.5, 0.8) for n in (8, 12, 30)]
SEEDS = 400
LEAST, MOST = 366, 393
"""Binomial(400, .95) lies between them in 99.9 % of cases."""


def pairs(n: int, rho: float, *, shape: tuple[int, ...] = (SEEDS,), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Jointly normal numbers of correlation rho."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*shape, n))
    return x, rho * x + np.sqrt(1 - rho**2) * rng.standard_normal((*shape, n))


def covered(ends: tuple[np.ndarray, np.ndarray], truth: float) -> int:
    return int(((ends[0] <= truth) & (truth <= ends[1])).sum())


# --- coefficients ---


@pytest.mark.parametrize("ties", [False, True])
def test_coefficients_are_scipys(ties: bool) -> None:
    x, y = pairs(11, 0.4, shape=(6,))
    if ties:
        x, y = np.round(x), np.round(y)
    for i in range(len(x)):
        assert a.pearson(x, y)[i] == pytest.approx(stats.pearsonr(x[i], y[i]).statistic, abs=1e-14)
        assert a.pearson(a.ranks(x), a.ranks(y))[i] == pytest.approx(stats.spearmanr(x[i], y[i]).statistic, abs=1e-14)
        assert a.kendall(x, y)[i] == pytest.approx(stats.kendalltau(x[i], y[i]).statistic, abs=1e-14)


def test_leaving_one_out_is_what_it_says() -> None:
    x, y = pairs(7, 0.5, shape=(5,))
    found = a.leave_one_out(1e9 + x, 1e-3 * y)
    for i in range(7):
        # The sums of squares lose the digits by which 1e9 exceeds the spread: 1e-16 x 1e9 twice.
        np.testing.assert_allclose(found[:, i], a.pearson(np.delete(x, i, 1), np.delete(y, i, 1)), atol=1e-6)


def test_a_correlation_that_rests_on_one_task_is_none_without_it() -> None:
    x, y = np.array([2.0, 2, 2, 2, 14]), np.array([0.1, 0.3, 0.2, 0.1, 0.9])
    without = a.leave_one_out(x, y)
    assert without[4] == 0.0
    assert (without[:4] > 0.8).all()
    low, high = a.pearson_interval(a.pearson(x, y), without)
    assert low < 0 < high


def test_the_partial_correlation_is_that_of_the_residuals_of_lines() -> None:
    rng = np.random.default_rng(0)
    x, y, c = rng.standard_normal((3, 20))
    left = [v - np.polyval(np.polyfit(c, v, 1), c) for v in (x, y)]
    assert a.partial(x, y, c) == pytest.approx(np.corrcoef(*left)[0, 1], rel=1e-12)
    assert np.isnan(a.partial(3 * c + 1, y, c))


# --- p-values ---


@pytest.mark.parametrize("n", [4, 5, 6, 7, 8])
def test_the_p_value_of_few_tasks_is_that_of_all_permutations(n: int) -> None:
    x, y = pairs(n, 0.5, shape=())
    all_r = [abs(np.corrcoef(x, y[list(order)])[0, 1]) for order in itertools.permutations(range(n))]
    expected = np.mean(np.array(all_r) >= abs(np.corrcoef(x, y)[0, 1]) - 1e-12)
    assert a.permutation_p(x[None], y[None])[0, 0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [5, 6])
def test_the_exact_p_of_ranks_is_scipys(n: int) -> None:
    x, y = pairs(n, 0.5, shape=())
    reference = stats.permutation_test(
        (y,), lambda v: stats.spearmanr(x, v).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    null = np.abs(reference.null_distribution)
    expected = np.mean(null >= abs(reference.statistic) - 1e-12)
    assert a.permutation_p(a.ranks(x)[None], a.ranks(y)[None])[0, 0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [4, 6, 8])
def test_the_p_of_kendalls_tau_is_scipys_without_ties_and_that_of_all_permutations_with_them(n: int) -> None:
    x, y = pairs(n, 0.5, shape=(3,))
    expected = [stats.kendalltau(values, y[0], method="exact").pvalue for values in x]
    np.testing.assert_allclose(a.kendall_p(x, y[0]), expected, rtol=1e-12)
    tied = np.round(x)[:1]
    if n < 8:
        all_tau = [abs(a.kendall(tied[0], y[0][list(order)])) for order in itertools.permutations(range(n))]
        share = np.mean(np.array(all_tau) >= abs(a.kendall(tied[0], y[0])) - 1e-12)
        assert a.kendall_p(tied, y[0])[0] == pytest.approx(share, rel=1e-12)


def test_the_p_of_kendalls_tau_of_many_tasks_is_scipys() -> None:
    x, y = pairs(12, 0.5, shape=(2,))
    tied = np.round(x)
    expected = [stats.kendalltau(values, y[0]).pvalue for values in tied]
    np.testing.assert_allclose(a.kendall_p(tied, y[0]), expected)


def test_the_p_value_of_many_tasks_is_close_to_students() -> None:
    x, y = pairs(30, 0.0, shape=(5,))
    found = a.permutation_p(x, y)
    for f, b in np.ndindex(found.shape):
        # 9,999 permutations know a p to .005 at most (standard error at .5), and t is itself approximate: .02.
        assert found[f, b] == pytest.approx(stats.pearsonr(x[f], y[b]).pvalue, abs=0.02)


def test_a_p_value_is_never_zero_and_one_where_nothing_goes_together() -> None:
    x = np.arange(20.0)[None]
    assert a.permutation_p(x, x)[0, 0] == pytest.approx(1 / 10_000)
    assert a.permutation_p(np.array([[1.0, 2, 3, 4]]), np.array([[1.0, -1, -1, 1]]))[0, 0] == 1.0


@pytest.mark.parametrize("n", [7, 12])
def test_p_values_are_uniform_when_nothing_goes_together(n: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(1, n))  # as skewed as numbers of samples are
    p = a.permutation_p(x, rng.standard_normal((200, n)))[0]
    # Kolmogorov and Smirnov's distance of 200 uniform numbers exceeds .115 in 1 % of cases; the seed is fixed.
    assert stats.kstest(p, "uniform").statistic < 0.115


def test_rescaling_either_side_leaves_the_p_value_unchanged() -> None:
    x, y = pairs(6, 0.3, shape=(1,))
    p = a.permutation_p(x, y)
    assert a.permutation_p(1e9 * x + 5, y) == p
    assert a.permutation_p(x, -1e-6 * y) == p


def test_one_of_many_pairs_is_called_significant_as_often_as_stated_when_nothing_goes_together() -> None:
    rng = np.random.default_rng(1)
    least = []
    for seed in range(200):
        common = rng.standard_normal(6)
        x, y = rng.standard_normal((6, 6)) + common, rng.standard_normal((2, 6))
        least.append(a.family_p(x, y, np.ones((6, 2), bool), seed=seed).min())
    # Binomial(200, .05) lies below 21 in 99.9 % of cases; twelve tests uncorrected would give about 60.
    assert sum(p <= 0.05 for p in least) <= 20
    assert stats.kstest(least, "uniform").statistic < 0.138  # 0.1 %


def test_the_familys_p_of_a_single_pair_is_its_own_and_of_more_pairs_no_less() -> None:
    x, y = pairs(7, 0.6, shape=(3,))
    one = np.zeros((3, 3), bool)
    one[1, 1] = True
    alone = a.family_p(x, y, one)
    assert alone[1, 1] == pytest.approx(a.permutation_p(x, y)[1, 1], rel=1e-12)
    assert np.isnan(alone[~one]).all()
    assert (a.family_p(x, y, np.ones((3, 3), bool)) >= a.permutation_p(x, y) - 1e-12).all()


def test_false_discoveries_are_controlled_as_by_hand() -> None:
    # Sorted .01 .02 .03 .04 .5: p m / rank = .05 .05 .05 .05 .5; given in another order.
    p = np.array([0.04, 0.5, 0.01, 0.03, 0.02])
    np.testing.assert_allclose(a.benjamini_hochberg(p), [0.05, 0.5, 0.05, 0.05, 0.05])
    # A larger p with a smaller p m / rank pulls those before it down: .03 x 2 / 1 = .06, .031 x 2 / 2 = .031.
    np.testing.assert_allclose(a.benjamini_hochberg(np.array([0.03, 0.031])), [0.031, 0.031])
    assert a.benjamini_hochberg(np.array([])).size == 0


# --- intervals ---


@pytest.mark.parametrize(("rho", "n"), PLANTED)
def test_the_interval_of_a_correlation_covers_as_often_as_stated(rho: float, n: int) -> None:
    x, y = pairs(n, rho)
    assert LEAST <= covered(a.pearson_interval(a.pearson(x, y), a.leave_one_out(x, y)), rho) <= MOST


@pytest.mark.parametrize(("rho", "n"), PLANTED)
def test_it_covers_for_skewed_benefits_too_where_fishers_does_less(rho: float, n: int) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((SEEDS, n))
    y = rho * x + np.sqrt(1 - rho**2) * (rng.exponential(size=(SEEDS, n)) - 1)
    r = a.pearson(x, y)
    found = covered(a.pearson_interval(r, a.leave_one_out(x, y)), rho)
    assert found >= 0.88 * SEEDS  # measured 89-96 %
    if rho == 0.8:
        assert found > covered(a.normal_interval(r, n), rho)


@pytest.mark.parametrize(("rho", "n"), PLANTED)
def test_intervals_of_ranks_cover_as_often_as_stated(rho: float, n: int) -> None:
    x, y = pairs(n, rho)
    spearman, kendall = a.pearson(a.ranks(x), a.ranks(y)), a.kendall(x, y)
    ends = a.normal_interval(spearman, n, kind="spearman"), a.normal_interval(kendall, n, kind="kendall")
    # What the coefficients of jointly normal numbers estimate (Kendall and Gibbons 1990, chapter 9).
    truths = 6 / np.pi * np.arcsin(rho / 2), 2 / np.pi * np.arcsin(rho)
    for interval, truth in zip(ends, truths, strict=True):
        assert covered(interval, truth) >= 364  # measured 93-97 %; of 400, 91 % is 99.9 % off 93 %


def measured(rho: float, n: int, share: float, free: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y measured with errors that differ from task to task, and standard errors from `free` degrees of freedom."""
    rng = np.random.default_rng(3)
    x, y = pairs(n, rho)
    variance = (1 - share) / share * rng.chisquare(3, (SEEDS, n)) / 3
    y = y + np.sqrt(variance) * rng.standard_normal((SEEDS, n))
    return x, y, np.sqrt(variance * rng.chisquare(free, (SEEDS, n)) / free)


def test_reliability_is_the_share_of_variance_that_is_no_error() -> None:
    _, y, se = measured(0.0, 400, 0.6, 2)
    # Per sample of 400 it scatters by about .1; the mean of 400 samples by .005.
    assert a.reliability(y, se).mean() == pytest.approx(0.6, abs=0.015)


@pytest.mark.parametrize(("share", "free"), [(0.8, 1), (0.6, 2), (0.4, 2)])
@pytest.mark.parametrize(("rho", "n"), PLANTED)
def test_the_interval_of_a_correlation_corrected_for_errors_covers_the_true_one(
    rho: float, n: int, share: float, free: int
) -> None:
    x, y, se = measured(rho, n, share, free)
    r = a.pearson(x, y)
    low, high = a.pearson_interval(r, a.leave_one_out(x, y))
    known = a.reliability(y, se) >= a.MIN_RELIABILITY
    scale = 1 / np.sqrt(np.where(known, a.reliability(y, se), np.nan))
    inside = (np.maximum(low * scale, -1) <= rho) & (rho <= np.minimum(high * scale, 1))
    # Refusals count as covering, as an interval from -1 to 1 would. Measured over 2,000 samples: 94-98 %.
    assert LEAST <= (inside | ~known).sum() <= 398
    if rho == 0.8 and n == 30 and share < 0.8:
        # The interval for the benefits as measured misses the true correlation far too often.
        assert covered((low, high), rho) < 0.75 * SEEDS


def test_the_interval_of_a_perfect_correlation_is_a_number() -> None:
    x = np.array([1.0, 2, 4, 5, 9])
    for ends in (
        a.pearson_interval(a.pearson(x, 2 * x), a.leave_one_out(x, 2 * x)),
        a.normal_interval(np.ones(1), 5),
    ):
        assert (ends[0] > 0.9) & (ends[0] <= ends[1]) & (ends[1] <= 1.0)


# --- power ---


def test_what_can_be_detected_is_where_students_p_is_five_percent() -> None:
    r, n = a.detectable(12), 12
    assert a.t_p(np.array(r), n - 2) == pytest.approx(0.05, rel=1e-9)
    assert r == pytest.approx(0.576, abs=5e-4)  # of any table of critical correlations
    assert a.detectable(2) == 1.0
    assert a.detectable(3, power=0.8) == 1.0


@pytest.mark.parametrize("n", [8, 12, 30])
def test_a_correlation_said_to_be_detected_four_times_in_five_is(n: int) -> None:
    x, y = pairs(n, a.detectable(n, power=0.8), shape=(4000,))
    # 4,000 samples know the power to .006, three standard errors of it .02; the approximation to .01.
    assert np.mean(a.t_p(a.pearson(x, y), n - 2) < 0.05) == pytest.approx(0.8, abs=0.03)
