"""What was seen along each run - the online read-outs and the loss - as one table, thinned for thousands of runs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pandas as pd

from scaling.plan import Plan
from scaling.planned import PlannedRun
from scaling.records import ONLINE, TRAJECTORY_COLUMNS

POINTS = 25
"""Of a run and task, and of a run's loss, at most; a read-out is made at ten points unless a YAML says more."""


def trajectories(plan: Plan) -> pd.DataFrame:
    """One row per run x point x task, and one per run x point of the loss, of all runs that have logged steps.

    `TRAJECTORY_COLUMNS` says what each is. Each metrics.jsonl is read once; of lines that a resumed run wrote twice the
    later one counts.
    """
    rows = [row for run in plan.unique().values() for row in _rows(run)]
    return pd.DataFrame(rows, columns=list(TRAJECTORY_COLUMNS))


def _rows(run: PlannedRun) -> Iterator[dict[str, Any]]:
    lines = {line["step"]: line for line in run.dir.metrics()}
    common = {"run": run.dir.run, **vars(run.point), "n_images": run.spec.n_unique, "n_params": run.cost.n_params}

    def at(step: int, **values: Any) -> dict[str, Any]:
        seen, whole = step * run.spec.batch_size, run.spec.n_steps * run.spec.batch_size
        return {**common, "images_seen": seen, "progress": seen / whole, **values}

    for task in sorted({key for line in lines.values() for key in line if key.startswith(ONLINE)}):
        read = sorted(step for step, line in lines.items() if task in line)
        for part in _parts(read):
            yield at(part[-1], task=task.removeprefix(ONLINE), auc=lines[part[-1]][task])
    logged = sorted(step for step, line in lines.items() if "loss" in line)
    for part in _parts(logged):
        yield at(part[-1], task="", loss=sum(lines[step]["loss"] for step in part) / len(part))


def _parts(steps: list[int]) -> Iterator[list[int]]:
    """At most `POINTS` even parts in order; the last ends with the last step."""
    n = min(len(steps), POINTS)
    ends = [len(steps) * i // n for i in range(n + 1)] if n else []
    for first, after in pairwise(ends):
        yield steps[first:after]
