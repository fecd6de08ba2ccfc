"""What laws are fitted to: the runs of one algorithm and mixture, one error each; those held out lie beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.observations import mean_over_tasks, shared_tasks


@dataclass(frozen=True, kw_only=True)
class Series:
    """Runs that differ in their sizes and seeds alone, with one error each."""

    algorithm: str
    mixture: str
    task: str
    """Empty: the mean over tasks."""
    n_tasks: int
    rows: pd.DataFrame
    """run, trunk, model, n_params, n_images, train_flops, seed, error; one row a run."""
    held: pd.DataFrame
    """The same for runs that no fit may use."""

    @property
    def name(self) -> str:
        over = self.task or f"mean of {self.n_tasks} task{'s' * (self.n_tasks != 1)}"
        return f"{self.algorithm} / {self.mixture} / {over}"


def series(fitted: pd.DataFrame, held: pd.DataFrame, *, tasks: Sequence[str] = ()) -> list[Series]:
    """Of checked rows of one read-out (`kept` and `held_out`): means over the tasks that all fitted runs have, or with
    `tasks` one series each. Sorted by algorithm, mixture and task."""
    found = []
    for task in tasks or [""]:
        mine = fitted[fitted["task"] == task] if task else fitted
        shared = shared_tasks(mine)
        away = held[held["task"].isin(shared)]
        away = away[away.groupby("run")["task"].transform("nunique") == len(shared)]
        means, others = mean_over_tasks(mine), mean_over_tasks(away)
        for (algorithm, mixture), rows in means.groupby(["algorithm", "mixture"]):
            there = (others["algorithm"] == algorithm) & (others["mixture"] == mixture)
            found.append(
                Series(
                    algorithm=str(algorithm),
                    mixture=str(mixture),
                    task=task,
                    n_tasks=len(shared),
                    rows=rows.sort_values(["n_params", "n_images", "seed"], kind="stable"),
                    held=others[there].sort_values(["n_params", "n_images", "seed"], kind="stable"),
                )
            )
    return sorted(found, key=lambda s: (s.algorithm, s.mixture, s.task))
