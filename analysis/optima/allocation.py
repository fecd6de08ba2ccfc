"""How a budget is best split between model and data: what an approach answers, and the line that some answer by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from analysis.fit import Fit
from analysis.optima.flops import Flops, measured
from analysis.optima.isoflop import Minimum
from analysis.points import Index, Vector
from analysis.uncertainty import Estimate

FAR = 10.0
"""Times the costliest run from which an answer is said to lean on the form alone."""
VAGUE = 30.0
"""High over low end of an interval of model sizes from which it is said to be no answer to plan with."""


class Answer(StrEnum):
    """What came of an approach; the value is the explanation."""

    ANSWERED = "answered"
    TOO_FEW = "too few runs"
    NO_MINIMUM = "no interior minimum"
    UNIDENTIFIED = "this design cannot tell"
    NO_FIT = "the law could not be fitted"
    BAD_INPUT = "a size, a cost or a loss is missing or not positive"

    @property
    def key(self) -> str:
        """Short and fit for machines: answered, too_few, ..."""
        return self.name.lower()


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best use of one budget."""

    budget: float
    """FLOPs."""
    n_params: Estimate
    n_images: Estimate
    y: Estimate | None
    """Loss that the law predicts there; None for approaches without a law."""
    beyond: float
    """Times the costliest run's FLOPs; up to 1 is inside the data."""
    notes: tuple[str, ...]
    """Why to doubt this one: far beyond the budgets seen, a model larger than any trained."""
    shares: dict[str, Estimate] = field(default_factory=dict)
    """Of each modality, where the law has a mixture."""
    gain: Estimate | None = None
    """y over that of the best one mixture run at its own best sizes for this budget; None without a mixture."""
    unique: float | None = None
    """Images there are, where the law knows of repeats; n_images is then images seen."""
    epochs: Estimate | None = None
    """Images seen over those there are; up to 1 they do not limit the answer."""
    over_unlimited: Estimate | None = None
    """y over what the budget would reach if images never ran out."""


@dataclass(frozen=True, kw_only=True)
class Approach:
    """One way to the frontier, N_opt = c C^a and D_opt ~ C^b."""

    name: str
    """envelope, parabola, cubic, or the law's name."""
    number: int
    """Of Hoffmann et al. 2022: 1, 2 or 3."""
    status: Answer
    reason: str
    """The status in the words of these runs; empty when answered."""
    a: Estimate | None = None
    b: Estimate | None = None
    coefficient: float | None = None
    """c, parameters at C = 1 FLOP; None unless answered."""
    optima: tuple[Optimum, ...] = ()
    """One a budget asked for; empty unless answered."""
    warnings: tuple[str, ...] = ()
    minima: tuple[Minimum, ...] = ()
    """Approach 2: every budget in the data, with its minimum or why it has none."""
    rows: Index = field(default_factory=lambda: np.empty(0, np.int64))
    """Approach 1: the runs of the line, as rows of what was given."""
    fit: Fit | None = None
    """Approach 3."""

    @property
    def answered(self) -> bool:
        return self.status is Answer.ANSWERED


@dataclass(frozen=True, kw_only=True)
class Frontier:
    approaches: tuple[Approach, ...]
    """Envelope, parabola, cubic, law."""
    flops: Flops
    """How FLOPs follow from N and D."""
    largest: float
    """FLOPs of the costliest run."""
    warnings: tuple[str, ...]

    def __getitem__(self, name: str) -> Approach:
        return next(approach for approach in self.approaches if approach.name == name)


@dataclass(frozen=True, kw_only=True)
class Runs:
    n_params: Vector
    n_images: Vector
    flops: Vector
    y: Vector
    weights: Vector
    clusters: Index | None
    cost: Flops


def runs_of(n_params: Vector, n_images: Vector, flops: Vector | None, y: Vector, flops_per: float | None) -> Runs:
    """FLOPs as mapped, and how they follow from sizes measured from them; else k N D, k = `flops_per` or 6."""
    cost = Flops() if flops_per is None else Flops(k=flops_per)
    if flops is not None and flops_per is None and len(flops):
        cost = measured(n_params, n_images, flops)
    return Runs(
        n_params=n_params,
        n_images=n_images,
        flops=flops if flops is not None else cost.of(n_params, n_images),
        y=y,
        weights=np.ones(len(y)),
        clusters=None,
        cost=cost,
    )


def estimate(value: float, draws: Vector, *, level: float) -> Estimate:
    """Percentiles of draws; NaN ends without any. The error is half the middle 68 %, which no far draw moves."""
    if not len(draws):
        return Estimate(value=value, se=np.nan, low=np.nan, high=np.nan)
    tail = 50 * (1 - level)
    low, left, right, high = np.percentile(draws, [tail, 15.87, 84.13, 100 - tail])
    return Estimate(value=value, se=float(right - left) / 2, low=float(low), high=float(high))


def natural(log: Estimate) -> Estimate:
    with np.errstate(over="ignore"):
        value, low, high = (float(np.exp(number)) for number in (log.value, log.low, log.high))
    return Estimate(value=value, se=value * log.se, low=low, high=high)


def notes(runs: Runs, budget: float, n_params: Estimate, n_images: Estimate) -> tuple[str, ...]:
    """Why to doubt an optimum."""
    found = []
    if (width := n_params.high / max(n_params.low, np.finfo(float).tiny)) > VAGUE:
        found.append(f"the data place the model size only within a factor of {width:.2g}")
    if (times := budget / runs.flops.max()) > FAR:
        found.append(f"{times:.3g} times the FLOPs of the costliest run: the answer leans on its form alone")
    for name, size, seen in (("model", n_params, runs.n_params), ("data", n_images, runs.n_images)):
        value = size.value
        if value > seen.max():
            found.append(f"{value / seen.max():.3g} times the largest {name} size in the runs")
        if value < seen.min():
            found.append(f"{value / seen.min():.3g} times the smallest {name} size in the runs")
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Line:
    """ln N = level + slope (ln C - centre)."""

    centre: float
    level: float
    slope: float
    levels: Vector
    """(B,) draws."""
    slopes: Vector

    def answered(self, runs: Runs, budgets: Sequence[float], confidence: float, blank: Approach) -> Approach:
        power = runs.cost.power
        optima = []
        for budget in budgets:
            ahead = np.log(budget) - self.centre
            value, draws = self.level + self.slope * ahead, self.levels + self.slopes * ahead
            images = (
                float(runs.cost.log_n_images(np.log(budget), np.asarray(value))),
                runs.cost.log_n_images(np.log(budget), draws),
            )
            n_params, n_images = (natural(estimate(*pair, level=confidence)) for pair in ((value, draws), images))
            optima.append(
                Optimum(
                    budget=budget,
                    n_params=n_params,
                    n_images=n_images,
                    y=None,
                    beyond=float(budget / runs.flops.max()),
                    notes=notes(runs, budget, n_params, n_images),
                )
            )
        return replace(
            blank,
            a=estimate(self.slope, self.slopes, level=confidence),
            b=estimate(1 - power * self.slope, 1 - power * self.slopes, level=confidence),
            coefficient=float(np.exp(self.level - self.slope * self.centre)),
            optima=tuple(optima),
        )
