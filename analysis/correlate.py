"""Does a property of a task go with what the task gains from scale? Correlations with the doubt they deserve.

Tasks are few (12 in the reference study), so p-values come from permutations, and the false-discovery rate is held over
all features x algorithms tried. Intervals are Fisher's: resampling so few tasks covers 85-92 % where it says 95 %. A
task's benefit counts as one number; its own interval is not carried into the correlation.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.features import FEATURES
from analysis.laws.law import Vector

ALL_PERMUTATIONS = 7
"""Up to so many tasks every permutation is tried (7! = 5,040); beyond, PERMUTATIONS random ones."""
PERMUTATIONS = 9_999
FEWEST = 4
"""Tasks below which no correlation is computed: three points correlate with anything."""


@dataclass(frozen=True, kw_only=True)
class Correlation:
    feature: str
    algorithm: str
    n_tasks: int
    pearson: float
    pearson_low: float
    pearson_high: float
    """95 %, Fisher's z: right for numbers that are jointly normal, a guide for others."""
    spearman: float
    p: float
    """Of Pearson's r, two-sided permutation test."""
    q: float
    """Benjamini-Hochberg over all features x algorithms; below .05 the pair survives."""
    status: str
    """Empty, or why there is no number."""


def detectable(n: int, *, level: float = 0.05) -> float:
    """Smallest |r| that n tasks can call significant two-sided, by Student's t; 1 with too few tasks."""
    if n < 3:
        return 1.0
    t = stats.t.ppf(1 - level / 2, n - 2)
    return float(t / math.sqrt(n - 2 + t**2))


def permutation_p(x: Vector, y: Vector, rng: np.random.Generator) -> float:
    """Share of reorderings of y that correlate at least as strongly; exact for few tasks, never 0."""
    n = len(x)
    if n <= ALL_PERMUTATIONS:
        orders, extra = np.array(list(itertools.permutations(range(n)))), 0
    else:
        orders, extra = rng.permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1), 1
    z, w = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    r = np.abs(w[orders] @ z)
    observed = abs(w @ z) - n * 1e-12  # sums of the same numbers in another order differ in their last digits
    return float(((r >= observed).sum() + extra) / (len(orders) + extra))


def fisher_interval(r: float, n: int) -> tuple[float, float]:
    """95 % interval of a correlation of n > 3 pairs, by the normal approximation to arctanh r (Fisher 1915)."""
    z = math.atanh(min(max(r, -1 + 1e-15), 1 - 1e-15))
    half = float(stats.norm.ppf(0.975)) / math.sqrt(n - 3)
    return math.tanh(z - half), math.tanh(z + half)


def benjamini_hochberg(p: Vector) -> Vector:
    """q-values, in the order given (Benjamini and Hochberg 1995)."""
    return np.asarray(stats.false_discovery_control(p, method="bh"), np.float64) if len(p) else p


def correlate(benefit: pd.DataFrame, tasks: pd.DataFrame, *, column: str = "exponent", seed: int = 0) -> pd.DataFrame:
    """Every feature against every algorithm's benefit; one row a pair, those without an answer included.

    `benefit` has one row per task and algorithm (`benefit.headline`), `tasks` one per task with the features' columns.
    Tasks without a benefit or without the feature are in no pair; `n_tasks` counts the rest.
    """
    rng = np.random.default_rng(seed)
    found = [
        _pair(feature, str(algorithm), mine.merge(tasks, on="task", how="left"), column, rng)
        for algorithm, mine in benefit.groupby("algorithm")
        for feature in FEATURES
    ]
    table = pd.DataFrame([asdict(pair) for pair in found], columns=list(Correlation.__dataclass_fields__))
    answered = table["p"].notna()
    table.loc[answered, "q"] = benjamini_hochberg(table.loc[answered, "p"].to_numpy(float))
    return table


def _pair(feature: str, algorithm: str, joined: pd.DataFrame, column: str, rng: np.random.Generator) -> Correlation:
    def answer(
        status: str = "",
        n: int = 0,
        r: float = np.nan,
        ends: tuple[float, float] = (np.nan, np.nan),
        rho: float = np.nan,
        p: float = np.nan,
    ) -> Correlation:
        return Correlation(
            feature=feature,
            algorithm=algorithm,
            n_tasks=n,
            pearson=r,
            pearson_low=ends[0],
            pearson_high=ends[1],
            spearman=rho,
            p=p,
            q=np.nan,
            status=status,
        )

    if feature not in joined:
        return answer("the task table has no such column")
    pairs = joined[[feature, column]].apply(pd.to_numeric, errors="coerce").dropna()
    x, y = pairs[feature].to_numpy(float), pairs[column].to_numpy(float)
    if len(x) < FEWEST:
        return answer(f"tasks with both numbers: {len(x)}; at least {FEWEST} are needed", len(x))
    for values, what in ((x, "feature"), (y, "benefit")):
        if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):  # rounding is no spread
            return answer(f"no spread: the {what} is the same for all tasks", len(x))
    r, rho = float(stats.pearsonr(x, y).statistic), float(stats.spearmanr(x, y).statistic)
    return answer("", len(x), r, fisher_interval(r, len(x)), rho, permutation_p(x, y, rng))
