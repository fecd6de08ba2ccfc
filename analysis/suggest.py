"""Which runs to do next: those that shrink the prediction interval at a target most per unit of cost.

c-optimal design (Silvey 1980, Optimal Design, chapter 5) for the law linearised at its fit: with information M of the
runs so far, ln y at the target has variance g' M^-1 g, and a run with gradient c and variance v adds c c' / v to M.
Good at: comparing candidates. Bad at: laws far from linear on the scale of the noise. It never asks whether the law is
true: where that is the doubt, runs near the target tell most, whatever the variance says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.fit import AT_BOUND, Fit, Status
from analysis.points import Matrix, Vector

WORTH = 0.01
"""Least share of the target's variance that a suggested run removes when its turn comes."""
ROUNDING = 1e-9
"""Share of the budget by which costs may exceed it: ten runs of a tenth cost it all."""
SILENT = 1e-12
"""Least scatter believed: errors equal to the last digit are no proof that the next run is without noise."""
SINGULAR = 1e-13
"""Smallest over largest eigenvalue of the information in units of equal length below which it is singular."""
FEW = 4
"""Degrees of freedom below which Student's t is more than 1.4 times the normal one."""


class Advice(StrEnum):
    """What came of asking; the value is the explanation."""

    GIVEN = "given"
    NO_FIT = "there is no fitted law whose prediction could be sharpened"
    NO_NOISE = "no degree of freedom is left, so nobody knows how noisy runs are"
    NO_TARGET = "the target is no size the law can be asked for"
    NOTHING_AFFORDABLE = "every candidate costs more than the budget"
    NOTHING_HELPS = "no affordable candidate would sharpen the prediction at the target"

    @property
    def key(self) -> str:
        """Short and fit for machines: given, no_fit, ..."""
        return self.name.lower()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run that could be done; the same one twice means two seeds."""

    name: str
    x: tuple[float, ...]
    """The law's inputs, in its order."""
    cost: float
    """GPU-hours or FLOPs, as the budget; positive."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One suggested run, in the order in which they pay best."""

    index: int
    """Of the candidate."""
    candidate: Candidate
    spent: float
    """Cost of this and of all runs before it."""
    log_se: float
    """Of ln y at the target, after it."""
    shrinks: float
    """Length of the new run's interval at the target after it, over today's: 0.8 is a fifth shorter."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    status: Advice
    reason: str
    """The status in the words of this fit; empty when given."""
    steps: tuple[Step, ...] = ()
    log_se: float = np.nan
    """Of ln y at the target today: of the curve, without the scatter of a single run."""
    scatter: float = np.nan
    """Standard deviation of ln y of one new run about the curve."""
    interval: tuple[float, float] = (np.nan, np.nan)
    """Of y of a new run at the target, today."""
    expected: tuple[float, float] = (np.nan, np.nan)
    """The same after all steps, if the prediction itself stays."""
    alone: Vector | None = None
    """(n_candidates,) share of the target's variance that each would remove on its own; None unless given."""
    warnings: tuple[str, ...] = ()

    @property
    def cost(self) -> float:
        return self.steps[-1].spent if self.steps else 0.0


def suggest(
    found: Fit, candidates: Sequence[Candidate], target: Vector, *, budget: float, level: float = 0.95
) -> Suggestion:
    """The runs to buy for `budget`, best first; never raises for data.

    target (n_inputs,). Greedy: at each step the affordable candidate that removes most variance per cost; the same by
    variance alone, and the better end of the two, which guards against many cheap runs that teach little. Each
    candidate is bought at most once. Seeds of one size share its luck, so a second seed teaches less than a first run
    elsewhere.
    Raises ValueError for a candidate or target of the wrong length and for costs or a budget that are not positive.
    """
    _refuse_misuse(found, candidates, target, budget)
    if not found.status.usable or found.status is Status.FLAT:
        return Suggestion(status=Advice.NO_FIT, reason=found.reason)
    goal = np.asarray(target, np.float64)[None]
    if not (np.isfinite(goal) & (goal > 0)).all():
        return Suggestion(status=Advice.NO_TARGET, reason=Advice.NO_TARGET.value)
    state = _State.of(found, candidates)
    if state.free < 1:
        n, p = len(state.seeds), len(found.theta)
        reason = f"{n} distinct sizes for {p} parameters: {Advice.NO_NOISE.value}"
        return Suggestion(status=Advice.NO_NOISE, reason=reason)
    if not state.determined:
        reason = "the runs so far do not tell the law's parameters apart, so none of its predictions has a finite error"
        return Suggestion(status=Advice.NO_FIT, reason=reason)
    costs = np.array([candidate.cost for candidate in candidates])
    if not (costs <= budget).any():
        cheapest = f"; the cheapest costs {costs.min():.3g}" if len(costs) else ""
        return Suggestion(status=Advice.NOTHING_AFFORDABLE, reason=f"nothing for {budget:.3g}{cheapest}")
    gradient = state.rows(goal)[0]
    now = state.variance(gradient)
    alone = state.gains(gradient) / now
    if (most := alone[costs <= budget].max()) < WORTH:
        reason = (
            f"no affordable candidate removes {WORTH:.0%} of the prediction's variance; the best removes {most:.1g}"
        )
        return Suggestion(status=Advice.NOTHING_HELPS, reason=reason)
    plans = [_greedy(state.copy(), gradient, costs, budget, per_cost=per_cost) for per_cost in (True, False)]
    bought = min(plans, key=lambda plan: plan[-1][1])
    return _described(found, candidates, goal, state, bought, now, alone, level)


def _refuse_misuse(found: Fit, candidates: Sequence[Candidate], target: Vector, budget: float) -> None:
    inputs = found.law.inputs
    for name, x in [("target", target), *((f"candidate {c.name}", c.x) for c in candidates)]:
        if len(x) != len(inputs):
            takes = f"{len(inputs)}: {', '.join(inputs)}"
            raise ValueError(f"{name}: {len(x)} sizes; the law {found.law.name} takes {takes}")
    for candidate in candidates:
        if not (np.isfinite([*candidate.x, candidate.cost]).all() and min(*candidate.x, candidate.cost) > 0):
            raise ValueError(f"candidate {candidate.name}: sizes and cost must be positive numbers")
    if not budget > 0:
        raise ValueError(f"budget: {budget!r} is not positive")


@dataclass(kw_only=True)
class _State:
    """What the runs so far tell of the parameters, in units of equal length."""

    found: Fit
    scale: Vector
    """(p,) one over the lengths of the Jacobian's columns; 0 for a parameter that is held where it is."""
    information: Matrix
    free: int
    seeds: dict[tuple[float, ...], int]
    """Runs a size."""
    luck: float
    """Variance that all seeds of a size share."""
    noise: float
    """Variance of a seed about its size."""
    contents: Matrix
    """(n_candidates, p) gradients."""
    keys: list[tuple[float, ...]]
    """Sizes of the candidates."""
    left: NDArray[np.bool_]
    """Candidates not bought."""

    @classmethod
    def of(cls, found: Fit, candidates: Sequence[Candidate]) -> _State:
        seen = found.points.weights > 0
        points, residuals = found.points.chosen(seen), found.residuals[seen]
        cells, index, runs = np.unique(points.x, axis=0, return_inverse=True, return_counts=True)
        index = index.ravel()
        total = np.bincount(index, points.weights)
        means = np.bincount(index, points.weights * residuals) / total
        each = total / runs / points.weights.mean()

        low, high = found.law.bounds(found.points.x, found.points.y)
        held = np.minimum(found.theta - low, high - found.theta) <= AT_BOUND * np.maximum(1.0, np.abs(found.theta))
        free, repeats = len(cells) - int((~held).sum()), len(points) - len(cells)
        between = max(float(each @ means**2) / free, SILENT**2) if free > 0 else np.nan
        within = between
        if repeats:
            squares = float(points.weights @ (residuals - means[index]) ** 2) / points.weights.mean()
            within = max(squares / repeats, SILENT**2)
        luck = max(between - within * float(np.mean(1 / runs)), 0.0)

        jacobian = _gradients(found, cells)
        length = np.linalg.norm(jacobian, axis=0)
        scale = np.where(held | (length == 0), 0.0, 1 / np.where(length > 0, length, 1.0))
        rows = jacobian * scale * np.sqrt(each / (luck + within / runs))[:, None]
        keys = [tuple(map(float, candidate.x)) for candidate in candidates]
        return cls(
            found=found,
            scale=scale,
            information=rows.T @ rows,
            free=free,
            seeds={tuple(map(float, cell)): int(n) for cell, n in zip(cells, runs, strict=True)},
            luck=luck,
            noise=within,
            contents=_gradients(found, np.array(keys)) * scale if keys else np.empty((0, len(scale))),
            keys=keys,
            left=np.ones(len(keys), bool),
        )

    def copy(self) -> _State:
        return replace(self, seeds=dict(self.seeds), left=self.left.copy(), information=self.information.copy())

    def rows(self, x: Matrix) -> Matrix:
        """Gradients of ln y."""
        return self.found.law.evaluate(x, self.found.theta[None])[1][0] * self.scale

    def solved(self, right: Matrix) -> Matrix:
        held = np.diag((self.scale == 0).astype(np.float64))
        return np.asarray(np.linalg.solve(self.information + held, right), np.float64)

    @property
    def determined(self) -> bool:
        """Whether the information has full rank, far enough from rounding to be inverted."""
        free = self.scale > 0
        if not (np.isfinite(self.information).all() and np.isfinite(self.contents).all() and free.any()):
            return False
        values = np.linalg.eigvalsh(self.information[np.ix_(free, free)])
        return bool(values[0] > SINGULAR * values[-1])

    def variance(self, gradient: Vector) -> float:
        return float(gradient @ self.solved(gradient))

    def weight(self, key: tuple[float, ...]) -> float:
        """Of one more run at a size: what it adds to the precision of that size's mean."""
        n = self.seeds.get(key, 0)
        return 1 / (self.luck + self.noise / (n + 1)) - (1 / (self.luck + self.noise / n) if n else 0.0)

    def gains(self, gradient: Vector) -> Vector:
        """(n_candidates,) variance at the target that each removes: the rank-one update of Sherman and Morrison."""
        solved = self.solved(self.contents.T).T
        weights = np.array([self.weight(key) for key in self.keys])
        return weights * (solved @ gradient) ** 2 / (1 + weights * np.einsum("cp,cp->c", solved, self.contents))

    def buy(self, index: int) -> None:
        key = self.keys[index]
        content = self.contents[index]
        self.information += self.weight(key) * np.outer(content, content)
        if key not in self.seeds:
            self.free += 1
        self.seeds[key] = self.seeds.get(key, 0) + 1
        self.left[index] = False


def _gradients(found: Fit, x: Matrix) -> Matrix:
    """(n, p) of what the objective's residuals follow: ln y, or y."""
    curves, gradient = found.law.evaluate(x, found.theta[None])
    return gradient[0] if found.objective.logs else gradient[0] * np.exp(curves[0])[:, None]


def _greedy(
    state: _State, gradient: Vector, costs: Vector, budget: float, *, per_cost: bool
) -> list[tuple[int, float, int]]:
    """(candidate, variance at the target after it, degrees of freedom then), in order."""
    spent = 0.0
    bought: list[tuple[int, float, int]] = []
    while True:
        gains = state.gains(gradient)
        worth = state.left & (spent + costs <= budget * (1 + ROUNDING)) & (gains >= WORTH * state.variance(gradient))
        if not worth.any():
            return bought
        score = np.where(worth, gains / costs if per_cost else gains, -np.inf)
        best = int(np.lexsort((costs, -score))[0])
        state.buy(best)
        spent += costs[best]
        bought.append((best, state.variance(gradient), state.free))


def _described(
    found: Fit,
    candidates: Sequence[Candidate],
    goal: Matrix,
    state: _State,
    bought: list[tuple[int, float, int]],
    now: float,
    alone: Vector,
    level: float,
) -> Suggestion:
    prediction = float(found.predict(goal)[0])
    one_run = state.luck + state.noise
    if not found.objective.logs:
        one_run /= prediction**2

    def half(variance: float, free: int) -> float:
        return float(stats.t.ppf((1 + level) / 2, free) * np.sqrt(variance + one_run))

    def interval(variance: float, free: int) -> tuple[float, float]:
        return prediction * float(np.exp(-half(variance, free))), prediction * float(np.exp(half(variance, free)))

    steps, spent = [], 0.0
    for index, variance, free in bought:
        spent += candidates[index].cost
        steps.append(
            Step(
                index=index,
                candidate=candidates[index],
                spent=spent,
                log_se=float(np.sqrt(variance)),
                shrinks=half(variance, free) / half(now, state.free),
            )
        )
    _, last, free = bought[-1]
    return Suggestion(
        status=Advice.GIVEN,
        reason="",
        steps=tuple(steps),
        log_se=float(np.sqrt(now)),
        scatter=float(np.sqrt(one_run)),
        interval=interval(now, state.free),
        expected=interval(last, free),
        alone=alone,
        warnings=_warnings(found, state),
    )


def _warnings(found: Fit, state: _State) -> tuple[str, ...]:
    warnings = []
    if held := [name for name, scale in zip(found.law.names, state.scale, strict=True) if scale == 0]:
        warnings.append(f"{', '.join(held)} held where the data put it, at a bound: the intervals leave it out")
    if state.free < FEW:
        warnings.append(f"{state.free} degrees of freedom: how noisy runs are is itself hardly known")
    return tuple(warnings)
