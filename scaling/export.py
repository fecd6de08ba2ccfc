"""A sweep's numbers as one file, for whoever has tools of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from scaling.errors import Problem, SpecError
from scaling.plan import Plan
from scaling.report import observations
from scaling.rundir import beside
from scaling.trajectories import trajectories

SUFFIXES = (".csv", ".parquet")
What = Literal["observations", "trajectories", "curves"]


def export(plan: Plan, path: Path, what: What = "observations") -> int:
    """Writes the observations, the trajectories or the curves, every logged value of every run; the number of rows.

    CSV or Parquet by the suffix; raises SpecError for any other. The table of curves has a row per run, step and key.
    """
    if path.suffix not in SUFFIXES:
        wrong = f"has the suffix {path.suffix or 'none'!r}; give one of {', '.join(SUFFIXES)}"
        raise SpecError([Problem(where=str(path), what=wrong)])
    tables = {"observations": observations, "trajectories": trajectories, "curves": curve_table}
    table = tables[what](plan)
    with beside(path) as draft:
        if path.suffix == ".csv":
            table.to_csv(draft, index=False)
        else:
            table.to_parquet(draft, index=False)
    return len(table)


def curve_table(plan: Plan) -> pd.DataFrame:
    """Columns run, step, key, value; lines that a resumed run wrote twice stand once."""
    rows: list[tuple[str, int, str, float]] = []
    for run in {run.dir.run: run for run in plan.runs}.values():
        lines = {line["step"]: line for line in run.dir.metrics()}
        rows += [
            (run.dir.run, step, key, float(value))
            for step, line in sorted(lines.items())
            for key, value in line.items()
            if key != "step" and isinstance(value, int | float)
        ]
    return pd.DataFrame(rows, columns=["run", "step", "key", "value"])
