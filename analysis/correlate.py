"""Does a property of a task go with what the task gains from scale? Correlations with the doubt they deserve.

Tasks are few (12 in the reference study), so p-values come from permutations, intervals from resampled tasks, and the
false-discovery rate is held over all features x algorithms tried.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.features import FEATURES

ALL_PERMUTATIONS = 7
"""Up to so many tasks every permutation is tried (7! = 5,040); beyond, PERMUTATIONS random ones."""
PERMUTATIONS = 9_999
RESAMPLES = 2_000
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
    """95 %, percentile bootstrap over tasks."""
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


def permutation_p(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> float:
    """Share of reorderings of y that correlate at least as strongly; exact for few tasks, never 0."""
    n = len(x)
    if n <= ALL_PERMUTATIONS:
        orders, extra = np.array(list(itertools.permutations(range(n)))), 0
    else:
        orders, extra = np.array([rng.permutation(n) for _ in range(PERMUTATIONS)]), 1
    z = (x - x.mean()) / x.std()
    r = np.abs((y[orders] - y.mean()) @ z)
    observed = abs((y - y.mean()) @ z)
    return float(((r >= observed * (1 - 1e-12)).sum() + extra) / (len(orders) + extra))


def bootstrap_r(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval over resampled tasks; resamples without spread say nothing and are left out."""
    drawn = rng.integers(0, len(x), (RESAMPLES, len(x)))
    a, b = x[drawn] - x[drawn].mean(axis=1, keepdims=True), y[drawn] - y[drawn].mean(axis=1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    varied = scale > 1e-12 * max(1.0, float(np.abs(x).max() * np.abs(y).max()))
    r = (a * b).sum(axis=1)[varied] / scale[varied]
    return float(np.quantile(r, 0.025)), float(np.quantile(r, 0.975))


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """q-values, in the order given (Benjamini and Hochberg 1995)."""
    return np.asarray(stats.false_discovery_control(p, method="bh")) if len(p) else p


def correlate(benefit: pd.DataFrame, tasks: pd.DataFrame, *, column: str = "exponent", seed: int = 0) -> pd.DataFrame:
    """Every feature against every algorithm's benefit; one row a pair, those without an answer included.

    `benefit` has one row per task and algorithm (`benefit.headline`), `tasks` one per task with the features' columns.
    """
    rng = np.random.default_rng(seed)
    found = [
        _pair(feature, str(algorithm), mine.merge(tasks, on="task"), column, rng)
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
        return answer(f"{len(x)} tasks have both numbers; at least {FEWEST} are needed", len(x))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return answer("no spread: all tasks have the same value", len(x))
    r, rho = float(stats.pearsonr(x, y).statistic), float(stats.spearmanr(x, y).statistic)
    return answer("", len(x), r, bootstrap_r(x, y, rng), rho, permutation_p(x, y, rng))
