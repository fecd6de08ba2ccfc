"""What laws are fitted to: the runs of one algorithm and mixture, one error each; those held out lie beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.observations import UNNAMED, mean_over_tasks, shared_tasks


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
    model: str = ""
    """Where no size tells models apart: the one that all runs are of."""

    @property
    def name(self) -> str:
        over = self.task or f"mean of {self.n_tasks} task{'s' * (self.n_tasks != 1)}"
        return " / ".join([self.algorithm, self.mixture, *([self.model] if self.model else []), over])


def series(fitted: pd.DataFrame, held: pd.DataFrame, *, tasks: Sequence[str] = ()) -> list[Series]:
    """Of checked rows of one read-out (`kept` and `held_out`): means over the tasks that all fitted runs have, or with
    `tasks` one series each; none where no task is common to all runs. Where the table knows no n_params, models are
    series of their own. Sorted by algorithm, mixture, model and task."""
    found = []
    sized = fitted["n_params"].notna().any()
    key = ["algorithm", "mixture"] if sized else ["algorithm", "mixture", "model"]
    by_size = ["n_params", "n_images", "seed"]
    for task in tasks or [""]:
        mine = fitted[fitted["task"] == task] if task else fitted
        shared = shared_tasks(mine)
        away = held[held["task"].isin(shared)]
        away = away[away.groupby("run")["task"].transform("nunique") == len(shared)]
        means, others = mean_over_tasks(mine), mean_over_tasks(away)
        for names, rows in means.groupby(key):
            there = (others[key] == list(names)).all(axis=1)
            algorithm, mixture, *model = map(str, names)
            found.append(
                Series(
                    algorithm=algorithm,
                    mixture=mixture,
                    task=task,
                    n_tasks=len(shared),
                    rows=rows.sort_values(by_size, kind="stable"),
                    held=others[there].sort_values(by_size, kind="stable"),
                    model="".join(model).replace(UNNAMED, ""),
                )
            )
    return sorted(found, key=lambda s: (s.algorithm, s.mixture, s.model, s.task))
