"""How to fit and how sure to be, as a user says it: checked against what there is, all at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from analysis.objective import OBJECTIVES, Objective
from analysis.tables.problems import unknown
from analysis.uncertainty import Method

METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True)
class How:
    """Names are those of `OBJECTIVES` and of methods of intervals."""

    objective: str = "log_huber"
    huber_delta: float | None = None
    """In the objective's unit; None: the objective's own."""
    intervals: str = "auto"
    resamples: int = 1000
    """Where intervals come from resampling; 0 for none."""
    seed: int = 0
    level: float = 0.95

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong with it, whatever the table."""
        found = []
        if self.objective not in OBJECTIVES:
            found.append(f"--objective: {unknown('objective', self.objective, OBJECTIVES)}")
        elif self.huber_delta is not None and OBJECTIVES[self.objective].delta is None:
            found.append(f"--huber-delta: {self.objective} has no corner; use it with log_huber or huber")
        if self.huber_delta is not None and not 0 < self.huber_delta < np.inf:
            found.append(f"--huber-delta: {self.huber_delta:g} is no corner; a positive number, as 1e-3")
        if self.intervals not in METHODS:
            found.append(f"--intervals: {unknown('method', self.intervals, METHODS)}")
        if self.resamples < 0:
            found.append(f"--bootstrap: {self.resamples} resamples; 0 for none, or better 1000")
        if self.seed < 0:
            found.append(f"--seed: {self.seed} is below 0; any whole number from 0 on")
        if not 0 < self.level < 1:
            found.append(f"--level: {self.level:g} is no confidence; a number between 0 and 1, as .95")
        return found

    @property
    def measure(self) -> Objective:
        """What is made small."""
        objective = OBJECTIVES[self.objective]
        return objective if self.huber_delta is None else objective.with_delta(self.huber_delta)

    @property
    def relative(self) -> bool:
        """Whether residuals are of logarithms; True for an objective that there is not."""
        return self.objective not in OBJECTIVES or OBJECTIVES[self.objective].logs
