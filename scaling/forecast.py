"""When a sweep will be over, by what its runs have taken so far and by how wrong that was."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scaling.cost import Evidence, Measured
from scaling.planned import PlannedRun
from scaling.sizing import Allotment

REMEMBERED, FEWEST = 50, 3
"""Forecasts whose errors make the spread, and how many there must be before one is given."""


@dataclass(frozen=True, kw_only=True)
class Eta:
    seconds: float
    spread: float | None
    """The forecast is off by about so many seconds, either way: the scatter of earlier forecasts of single runs, which
    err together. None until some runs were foretold and finished."""


class Forecast:
    """Cheap to ask about thousands of runs: those of a kind share the answer until there is new evidence."""

    def __init__(self, measured: Sequence[Measured]) -> None:
        self._measured = list(measured)
        self._evidence: Evidence | None = None
        self._rates: dict[str, float] = {}
        self._recomputed = set[str]()
        self._kinds: dict[tuple[str, str, float, float | None, bool], float | None] = {}
        self._errors: deque[float] = deque(maxlen=REMEMBERED)

    def allot(self, run: PlannedRun, given: Allotment) -> None:
        """What was calibrated of the run's shape, for as long as no run of its kind is finished, and what its step does
        beside."""
        if given.recomputed:
            self._recomputed.add(run.dir.run)
        if given.calibrated:
            self._rates[run.dir.run] = given.calibrated.images_per_second * given.n_ranks

    def seconds(self, run: PlannedRun, *, probes_only: bool = False) -> float | None:
        """Of a whole run; None while nothing of the kind was timed or calibrated."""
        flops = 0.0 if probes_only else run.cost.train_flops
        point, rate = run.point, self._rates.get(run.dir.run)
        recomputed = run.dir.run in self._recomputed
        kind = (point.model, point.algorithm, flops, rate, recomputed)
        if kind not in self._kinds:
            self._evidence = self._evidence or Evidence(self._measured)
            images = run.spec.n_steps * run.spec.batch_size
            found = self._evidence.estimate(*kind[:4], images, recomputed=recomputed)
            self._kinds[kind] = found.seconds if found else None
        return self._kinds[kind]

    def learn(self, run: PlannedRun, seconds: float, *, probes_only: bool = False) -> None:
        """A run took so long."""
        foretold = self.seconds(run, probes_only=probes_only)
        if foretold and seconds:
            self._errors.append(math.log(seconds / foretold))
        self._measured.append(run.measured(seconds, probes_only=probes_only))
        self._evidence = None
        self._kinds.clear()

    def eta(self, left: Iterable[float | None], slots: int) -> Eta | None:
        """For the seconds left of each run, shared among slots; None while one of them is unknown."""
        seconds = list(left)
        known = [s for s in seconds if s is not None]
        if len(known) < len(seconds):
            return None
        total = max([sum(known) / max(1, min(slots, len(known))), *known], default=0.0)
        if len(self._errors) < FEWEST:
            return Eta(seconds=total, spread=None)
        scatter = math.sqrt(sum(error**2 for error in self._errors) / len(self._errors))
        return Eta(seconds=total, spread=total * min(1.0, math.expm1(scatter)))
