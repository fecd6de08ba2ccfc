"""What encoders of one study learnt, as Markdown tables, a CSV and curves; `learning.py` makes the results."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

BASELINES = ("random", "pixels")
Implementation = Literal["ours", "lightly", "ours-xavier", "lightly-timm"]
"""The last two are our MAE from first weights as lightly's, the reference's, and lightly's from timm's, as ours."""


@dataclass(frozen=True, kw_only=True)
class Result:
    algorithm: str
    implementation: Implementation
    seed: int
    images_seen: list[int]
    auc: list[dict[str, float]]
    """Test AUC of each task, at each of `images_seen`; the last is the end."""
    losses: list[float]
    images_per_second: float | None = None
    """Of one core, augmentation included; None without training."""
    view_share: float | None = None
    """Share of the time that augmentation took, where it is known."""

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.auc[-1].values())))


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """NaN for the error of less than two."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


Which = tuple[str, str]
Table = dict[Which, dict[int, Result]]
"""Algorithm and implementation -> seed -> result."""


def difference(first: dict[int, Result], second: dict[int, Result]) -> tuple[int, float, float, float]:
    """Seeds both have, mean of first - second, its standard error over seeds and that over tasks, of paired gaps."""
    seeds = [seed for seed in first if seed in second]
    tasks = list(first[seeds[0]].auc[-1])
    gaps_ST = np.array([[first[s].auc[-1][t] - second[s].auc[-1][t] for t in tasks] for s in seeds])
    mean, over_seeds = mean_and_error(gaps_ST.mean(axis=1))
    return len(seeds), mean, over_seeds, mean_and_error(gaps_ST.mean(axis=0))[1]


def tables(table: Table) -> Iterator[str]:
    tasks = list(next(iter(next(iter(table.values())).values())).auc[-1])
    yield f"| encoder | by | seeds | mean AUC | error over seeds | {' | '.join(tasks)} | images/s | in views |"
    yield "|---|---|---|---|---|" + "---|" * (len(tasks) + 2)
    for (algorithm, how), of_seeds in table.items():
        mean, error = mean_and_error(np.array([result.mean for result in of_seeds.values()]))
        each = [np.mean([result.auc[-1][task] for result in of_seeds.values()]) for task in tasks]
        speeds = [result.images_per_second for result in of_seeds.values() if result.images_per_second]
        shares = [result.view_share for result in of_seeds.values() if result.view_share]
        cells = [algorithm, how, len(of_seeds), f"{mean:.4f}", f"{error:.4f}", *(f"{value:.4f}" for value in each)]
        cells += [f"{np.median(speeds):.0f}" if speeds else "", f"{np.median(shares):.0%}" if shares else ""]
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""
    yield "| first | second | seeds | first - second | error over seeds | error over tasks | verdict |"
    yield "|---|---|---|---|---|---|---|"
    trained = [which for which in table if which[0] not in BASELINES]
    for first in trained:
        seconds: list[Which] = [("random", "ours"), ("random", "lightly"), ("pixels", "ours")]
        theirs = [how for how in get_args(Implementation) if how.startswith("lightly")]
        seconds += [(first[0], how) for how in theirs if first[1].startswith("ours")]
        for second in seconds:
            of_second = table.get(second, {})
            if second[0] == "pixels":  # the same for every seed
                of_second = {seed: pixels for seed in table[first] for pixels in of_second.values()}
            if set(table[first]) & set(of_second):
                n, gap, seed_error, task_error = difference(table[first], of_second)
                cells = [" ".join(first), " ".join(second), n, f"{gap:+.4f}", f"{seed_error:.4f}", f"{task_error:.4f}"]
                yield f"| {' | '.join(map(str, cells))} | {verdict_of(gap, seed_error)} |"


def verdict_of(gap: float, error: float) -> str:
    if math.isnan(error):
        return "one seed"
    if abs(gap) <= 2 * error:
        return "not told apart"
    return "better" if gap > 0 else "worse"


def write_csv(path: Path, table: Table) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["algorithm", "implementation", "seed", "images_seen", "task", "auc"])
        for (algorithm, how), of_seeds in table.items():
            for seed, result in of_seeds.items():
                for seen, aucs in zip(result.images_seen, result.auc, strict=True):
                    for task, value in aucs.items():
                        writer.writerow([algorithm, how, seed, seen, task, f"{value:.6f}"])


def draw(path: Path, table: Table) -> None:
    """Mean AUC over tasks against images seen, one panel an algorithm, standard errors over seeds as bars."""
    algorithms = list(dict.fromkeys(algorithm for algorithm, _ in table if algorithm not in BASELINES))
    figure = Figure(figsize=(4.5 * len(algorithms), 3.5), layout="constrained")
    panels = figure.subplots(1, len(algorithms), sharey=True, squeeze=False)[0]
    for panel, algorithm in zip(panels, algorithms, strict=True):
        colours = ("tab:blue", "tab:orange", "tab:cyan", "tab:green")
        for how, colour in zip(get_args(Implementation), colours, strict=True):
            of_seeds = list(table.get((algorithm, how), {}).values())
            if of_seeds:
                at_start = table.get(("random", how), {})
                start = [at_start[r.seed].mean for r in of_seeds if r.seed in at_start]
                curves = [[np.mean(list(aucs.values())) for aucs in r.auc] for r in of_seeds]
                columns = [start] * bool(start) + list(map(list, zip(*curves, strict=True)))
                x = [0] * bool(start) + of_seeds[0].images_seen
                y, error = zip(*(mean_and_error(np.array(column)) for column in columns), strict=True)
                panel.errorbar(x, y, np.nan_to_num(error), label=how, color=colour, marker="o", capsize=3)
        if pixels := table.get(("pixels", "ours")):
            panel.axhline(next(iter(pixels.values())).mean, color="grey", linestyle="--", label="pixels")
        panel.set(title=algorithm, xlabel="images seen")
        panel.legend()
    panels[0].set_ylabel("mean test AUC over tasks")
    figure.savefig(path, metadata={"Date": None})
