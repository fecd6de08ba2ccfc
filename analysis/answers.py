"""The report's opening: what the numbers say, in words, with their doubt. Every sentence is computed."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.correlate import ALL_PERMUTATIONS, detectable
from analysis.figures.correlation import DISCOVERIES
from analysis.figures.error import FIXED, Curve
from analysis.figures.style import quantity
from analysis.observations import shared_tasks
from analysis.uncertainty import mean_interval

SATURATED = 0.01
"""Error below which a task has no room left to show a benefit."""
FEW_SIZES = 4
"""Sizes below which a law's interval rests on one degree of freedom."""
FEW_TASKS = 10
SAME_LENGTH = 0.01
"""Relative difference below which two trainings are of one length."""


def best_run(means: pd.DataFrame, measure: str = "1 - AUC") -> list[str]:
    if means.empty:
        return ["No run has a result that could be compared."]
    best = means.sort_values("error").iloc[0]
    doubt = f"; standard error of the test images {best.error_se:.4f}" if np.isfinite(best.error_se) else ""
    cell = f"{best.model} / {best.algorithm} / {best.mixture}{_images(best.n_images, ' on ')}"
    over = _count(int(best.n_tasks), "task")
    found = f"The lowest mean error over {over}, {best.error:.4f} ({measure}{doubt}), is {cell}"
    return [f"{found}. It is the best of {_count(len(means), 'run')} on the same test images, which flatters it."]


def paired(rows: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Per algorithm: the cell with the best mean error over the shared tasks against a reference, task by task.

    The reference is matched by model where it has models (`random`). Difference = reference error - error, so positive
    means that pretraining helps; its interval is Student's t over tasks. `status` says why there is no comparison.
    """
    found: list[dict[str, object]] = []
    shared = rows[rows["task"].isin(shared_tasks(rows))]
    for algorithm, mine in shared.groupby("algorithm"):
        errors = mine.groupby(["model", "mixture", "n_images"], dropna=False)["error"].mean().reset_index()
        best = errors.sort_values("error", kind="stable").iloc[0]
        cell = ["model", "mixture", "n_images"]
        chosen = mine.merge(
            best[cell].to_frame().T.astype(mine[cell].dtypes), on=cell
        )  # a missing size is equal to one
        for name, others in reference.groupby("algorithm"):
            same = others[others["model"] == best["model"]] if name == "random" else others
            ours, theirs = chosen.groupby("task")["error"].mean(), same.groupby("task")["error"].mean()
            tasks = ours.index.intersection(theirs.index)
            difference = mean_interval((theirs[tasks] - ours[tasks]).to_numpy(float))
            found.append(
                {
                    "algorithm": algorithm,
                    "best_cell": f"{best['model']} / {best['mixture']}{_images(best['n_images'], ' / ')}",
                    "reference": name,
                    "n_tasks": len(tasks),
                    "error": ours[tasks].mean(),
                    "reference_error": theirs[tasks].mean(),
                    "difference": difference.value,
                    "low": difference.low,
                    "high": difference.high,
                    "tasks_better": int((ours[tasks] < theirs[tasks]).sum()),
                    "status": ""
                    if len(tasks)
                    else "the reference was read out on none of the tasks, or not this model",
                }
            )
    return pd.DataFrame(found)


def references(pairs: pd.DataFrame) -> list[str]:
    """Whether pretraining helped at all."""
    names = {"random": "the same encoder at initialisation", "pixels": "the bare pixels"}
    said = []
    for pair in pairs.to_dict("records"):
        who = f"{pair['algorithm']} at its best ({pair['best_cell']})"
        if pair["status"]:
            said.append(f"{who} cannot be compared with {names[pair['reference']]}: {pair['status']}.")
            continue
        low, high = pair["low"], pair["high"]
        verdict = "has a lower error than" if low > 0 else "has a higher error than" if high < 0 else ""
        doubt = f"[{low:+.4f}, {high:+.4f}]" if np.isfinite(low) else "[no interval from one task]"
        said.append(
            f"{who} {verdict or 'is not told apart from'} {names[pair['reference']]}: mean error {pair['error']:.4f} "
            f"against {pair['reference_error']:.4f}, difference {pair['difference']:+.4f} {doubt} over "
            f"{_count(pair['n_tasks'], 'task')}, better on {pair['tasks_better']}."
        )
    return said or ["No untrained reference was compared, so nothing here shows that pretraining helped at all."]


def _fitted(curve: Curve) -> pd.DataFrame:
    """Its runs without those held out."""
    return curve.runs[~curve.runs["held_out"]]


def longest(curves: list[Curve]) -> list[Curve]:
    """Per algorithm the curve with the most sizes, then the largest fixed size, then the most runs: the one quoted.

    Among equals the first by name. The rule of `benefit.headline`; results have no say in it.
    """
    chosen: dict[str, Curve] = {}
    by_name = sorted(curves, key=lambda c: c.name)
    for curve in sorted(by_name, key=lambda c: (-len(_fitted(c)["x"].unique()), -c.fixed_size, -len(_fitted(c)))):
        chosen.setdefault(curve.fixed["algorithm"], curve)
    return [chosen[name] for name in sorted(chosen)]


def tenfold(curves: list[Curve], what: str) -> list[str]:
    """What ten times more of `what` does to the error."""
    if not curves:
        return [f"No series has two numbers of {what}, so nothing is known about scaling along them."]
    said = []
    for curve in longest(curves):
        interval = curve.uncertainty.parameters().get("b")
        if interval is None:
            said.append(f"{curve.name}: no law along {what}: {curve.fit.status}.")
            continue
        smallest, largest = _fitted(curve)["x"].min(), _fitted(curve)["x"].max()
        reach = f"{quantity(smallest)} to {quantity(largest)}"
        reach += ", less than tenfold: an extrapolation" if largest < 10 * smallest else ""
        doubt = f"[{_factor(interval.high)}, {_factor(interval.low)}]"
        if not np.isfinite(interval.low):
            doubt = f"[no interval: {curve.fit.status}]"
        verdict = "" if interval.significant else "; an effect is not shown"
        said.append(
            f"{curve.name}: ten times the {what} multiply the error by {_factor(interval.value)} {doubt} "
            f"({reach}){verdict}."
        )
    return said


def _factor(exponent: float) -> str:
    """10^-exponent; an interval of few sizes may reach where digits mean nothing."""
    if exponent < -3:
        return "> 1000"
    return "< 0.001" if exponent > 3 else f"{10**-exponent:.3f}" if exponent > 1 else f"{10**-exponent:.2f}"


def gaining(headline: pd.DataFrame) -> list[str]:
    """How many tasks gain from model size, one test each."""
    said = []
    for algorithm, mine in headline.groupby("algorithm"):
        tested = mine[mine["exponent_low"].notna()]
        up = tested[tested["exponent_low"] > 0]["task"].tolist()
        down = tested[tested["exponent_high"] < 0]["task"].tolist()
        if len(tested):
            rest = len(tested) - len(up) - len(down)
            words = f"{algorithm}: the error falls with model size on {len(up)} of {_count(len(tested), 'task')}"
            words += f" ({', '.join(up)})" if up else ""
            words += f", rises on {len(down)}" + (f" ({', '.join(down)})" if down else "")
            words += f", shows neither on {rest}. One 95 % interval a task, so that chance alone gives "
            said.append(words + f"{0.025 * len(tested):.2g} each way on average.")
        untested = mine[mine["exponent_low"].isna()]
        for status, tasks in untested.groupby("status")["task"]:
            said.append(f"{algorithm}: no answer along model size for {', '.join(tasks)}: {status}.")
    return said


def correlated(table: pd.DataFrame) -> list[str]:
    answered = table[table["p"].notna()]
    if answered.empty:
        reasons = "; ".join(table["status"].unique()) if len(table) else "no benefit was measured"
        return [f"Which task features go with the benefit cannot be answered: {reasons}."]
    surviving = answered[answered["q"] < DISCOVERIES]
    which = ", ".join(
        f"{p['feature']} with {p['algorithm']} (r = {p['pearson']:+.2f})" for p in surviving.to_dict("records")
    )
    found = f"{len(surviving)} of {len(answered)} feature-benefit correlations survive a false-discovery rate of 5 %"
    silent = len(table) - len(answered)
    n = int(answered["n_tasks"].max())
    power = f"With {n} tasks only |r| > {detectable(n):.2f} could be called significant at 5 % even for a single test"
    if n <= ALL_PERMUTATIONS:
        power += f", and no permutation p can be below 1/{math.factorial(n)}"
    return [
        found + (f": {which}" if which else "") + (f"; {silent} more have no answer." if silent else "."),
        power + ".",
    ]


def weaknesses(rows: pd.DataFrame, lost: pd.DataFrame, curves: list[Curve]) -> list[str]:
    """What a reader has to know before believing the rest: `rows` fitted, runs `lost`, curves along model size."""
    said = []
    if len(lost):
        counts = ", ".join(f"{n} {status}" for status, n in lost["status"].value_counts().items())
        said.append(f"Runs without a result are in no fit: {counts}.")
    if rows.empty:
        return said
    sizes = max((_fitted(curve)["x"].nunique() for curve in curves), default=1)
    if sizes < 3:
        said.append(f"No series has more than {_count(sizes, 'model size')}: no law, no interval.")
    elif sizes < FEW_SIZES:
        said.append(f"No series has more than {sizes} model sizes: intervals rest on one degree of freedom.")
    seeds = rows.groupby(["algorithm", "mixture", "model", "n_images"], dropna=False)["seed"].nunique()
    single = int((seeds == 1).sum())
    if single:
        said.append(
            f"{single} of {_count(len(seeds), 'cell')} have a single seed: seeds' scatter shows only in the fits."
        )
    shared, tasks = shared_tasks(rows), set(rows["task"])
    if len(shared) < len(tasks):
        left = ", ".join(sorted(tasks - set(shared)))
        said.append(f"Means are over {_count(len(shared), 'task')}; not every run has a result on {left}.")
    easiest = rows.groupby("task")["error"].min()
    solved = easiest[easiest < SATURATED].index.tolist()
    if solved:
        said.append(f"Nearly solved, with little room to gain (error below {SATURATED}): {', '.join(solved)}.")
    if len(tasks) < FEW_TASKS:
        few = "1 task is" if len(tasks) == 1 else f"{len(tasks)} tasks are"
        said.append(f"{few} few: means over tasks and correlations speak of these tasks alone.")
    return [*said, *_mixed(rows, "n_params", "model size"), *_mixed(rows, "n_images", "data size")]


def _mixed(rows: pd.DataFrame, axis: str, words: str) -> list[str]:
    """Where runs that should differ in one axis alone trained for different lengths too."""
    runs = rows[rows["images_seen"] > 0].drop_duplicates("run")
    n_series, rises = 0, list[float]()
    for _, series in runs.groupby(FIXED[axis], dropna=False):
        seen = series.groupby(axis)["images_seen"].mean()
        n_series += len(seen) > 1
        if len(seen) > 1 and seen.max() > (1 + SAME_LENGTH) * seen.min():
            rises.append(float(seen.iloc[-1] - seen.iloc[0]))
    if not rises:
        return []
    how = "more" if min(rises) > 0 else "fewer" if max(rises) < 0 else "more or fewer"
    beyond = ", and the error may turn up again beyond" if axis == "n_params" and how == "fewer" else ""
    where = f"In {len(rises)} of {n_series} series along {words} runs at the larger end saw {how} images in training"
    return [f"{where}, so that these laws mix both{beyond}."]


def _images(n: float, before: str) -> str:
    """Nothing where a table has no such size."""
    return f"{before}{n:,.0f} images" if np.isfinite(n) else ""


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
