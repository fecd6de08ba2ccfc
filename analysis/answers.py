"""The report's opening: what the numbers say, in words, with their doubt. Every sentence is computed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.correlate import detectable
from analysis.figures.error import Curve
from analysis.figures.style import quantity
from analysis.uncertainty import Interval, mean_interval, parameter_intervals

SATURATED = 0.01
"""Error below which a task has no room left to show a benefit."""
FEW_SIZES = 4
"""Sizes below which a law's interval rests on one or two degrees of freedom."""


def best_run(means: pd.DataFrame) -> list[str]:
    if means.empty:
        return ["No run has a result that could be compared."]
    best = means.sort_values("error").iloc[0]
    return [
        f"The lowest mean error over {int(best.n_tasks)} tasks, {best.error:.4f} (1 - AUC; standard error of the test "
        f"images {best.error_se:.4f}), is {best.model} / {best.algorithm} / {best.mixture} on {int(best.n_images):,} images."
    ]


def paired(rows: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Per algorithm: the best mean error's cell against a reference, task by task.

    The reference is matched by model where it has models (`random`). Difference = reference error - error, so positive
    means that pretraining helps; its interval is Student's t over tasks.
    """
    found = []
    for algorithm, mine in rows.groupby("algorithm"):
        cell = mine.groupby(["model", "mixture", "n_images"])["error"].mean().idxmin()
        chosen = mine[(mine[["model", "mixture", "n_images"]] == list(cell)).all(axis=1)]
        for name, others in reference.groupby("algorithm"):
            same = others[others["model"] == cell[0]] if name == "random" else others
            ours, theirs = chosen.groupby("task")["error"].mean(), same.groupby("task")["error"].mean()
            tasks = ours.index.intersection(theirs.index)
            difference = mean_interval((theirs[tasks] - ours[tasks]).to_numpy())
            found.append(
                {
                    "algorithm": algorithm,
                    "best_cell": f"{cell[0]} / {cell[1]} / {int(cell[2]):,} images",
                    "reference": name,
                    "n_tasks": len(tasks),
                    "error": ours[tasks].mean(),
                    "reference_error": theirs[tasks].mean(),
                    "difference": difference.value,
                    "low": difference.low,
                    "high": difference.high,
                    "tasks_better": int((ours[tasks] < theirs[tasks]).sum()),
                }
            )
    return pd.DataFrame(found)


def references(pairs: pd.DataFrame) -> list[str]:
    names = {"random": "the same encoder at initialisation", "pixels": "the bare pixels"}
    said = []
    for pair in pairs.itertuples():
        interval = Interval(value=float(pair.difference), low=float(pair.low), high=float(pair.high))  # type: ignore[arg-type]
        verdict = "beats" if interval.low > 0 else "loses to" if interval.high < 0 else "is not told apart from"
        said.append(
            f"{pair.algorithm} at its best ({pair.best_cell}) {verdict} {names[str(pair.reference)]}: mean error "
            f"{pair.error:.4f} against {pair.reference_error:.4f}, difference {interval.value:+.4f} "
            f"[{interval.low:+.4f}, {interval.high:+.4f}] over {pair.n_tasks} tasks, better on {pair.tasks_better}."
        )
    return said


def longest(curves: list[Curve]) -> list[Curve]:
    """Per algorithm the curve with the most sizes, then the most images: the one quoted."""
    chosen: dict[str, Curve] = {}
    for curve in sorted(curves, key=lambda c: (c.runs["x"].nunique(), len(c.runs), -float(c.runs["error"].min()))):
        chosen[curve.fixed["algorithm"]] = curve
    return [chosen[name] for name in sorted(chosen)]


def tenfold(curves: list[Curve], what: str) -> list[str]:
    """What ten times more of `what` does to the error."""
    said = []
    for curve in longest(curves):
        interval = parameter_intervals(curve.fit).get("b")
        if interval is None:
            said.append(f"{curve.name}: no law along {what}: {curve.fit.status}.")
            continue
        factor, low, high = (10**-b for b in (interval.value, interval.high, interval.low))
        doubt = f"[{low:.2f}, {high:.2f}]" if np.isfinite(low) else "[no interval from so few sizes]"
        reach = f"{quantity(curve.runs['x'].min())} to {quantity(curve.runs['x'].max())}"
        verdict = "" if interval.significant else "; an effect is not shown"
        said.append(
            f"{curve.name}: ten times the {what} multiply the error by {factor:.2f} {doubt} ({reach}){verdict}."
        )
    return said


def gaining(headline: pd.DataFrame) -> list[str]:
    said = []
    for algorithm, mine in headline.groupby("algorithm"):
        up = mine[mine["exponent_low"] > 0]["task"].tolist()
        down = mine[mine["exponent_high"] < 0]["task"].tolist()
        unknown = int(mine["exponent_low"].isna().sum())
        words = f"{algorithm}: {len(up)} of {len(mine)} tasks gain from model size beyond doubt"
        words += f" ({', '.join(up)})" if up else ""
        words += f", {len(down)} lose ({', '.join(down)})" if down else ""
        words += f"; {unknown} have too few sizes for an interval" if unknown else ""
        said.append(words + ".")
    return said


def correlated(table: pd.DataFrame) -> list[str]:
    answered = table[table["p"].notna()]
    if answered.empty:
        reason = table["status"].iloc[0] if len(table) else "no benefit was measured"
        return [f"Which task features go with the benefit cannot be answered: {reason}."]
    n = int(answered["n_tasks"].max())
    surviving = answered[answered["q"] < 0.05]
    which = ", ".join(f"{p.feature} with {p.algorithm} (r = {p.pearson:+.2f})" for p in surviving.itertuples())
    found = f"{len(surviving)} of {len(answered)} feature-benefit correlations survive a false-discovery rate of 5 %"
    return [
        found + (f": {which}." if which else "."),
        f"With {n} tasks only |r| > {detectable(n):.2f} could be called significant at 5 % even for a single test.",
    ]


def weaknesses(rows: pd.DataFrame, curves: list[Curve], n_tasks: int) -> list[str]:
    """What a reader has to know before believing the rest."""
    said = []
    sizes = max((curve.runs["x"].nunique() for curve in curves), default=0)
    if sizes < FEW_SIZES:
        said.append(
            f"No series has more than {sizes} sizes, so intervals rest on {max(0, sizes - 2)} degree of freedom."
        )
    seeds = rows.groupby(["algorithm", "mixture", "model", "n_images"])["seed"].nunique()
    single = int((seeds == 1).sum())
    if single:
        said.append(f"{single} of {len(seeds)} cells have a single seed: their scatter shows only through the fits.")
    easiest = rows.groupby("task")["error"].min()
    solved = easiest[easiest < SATURATED].index.tolist()
    if solved:
        said.append(f"Nearly solved, with little room to gain (error below {SATURATED}): {', '.join(solved)}.")
    if n_tasks < 10:
        said.append(f"{n_tasks} tasks are few: means over tasks and correlations speak of these tasks alone.")
    return said
