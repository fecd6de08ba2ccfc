"""Which runs a sweep should do next: `scaling suggest`, on the design of `analysis` and the costs of `plan`.

The candidates are runs as the sweep would make them: every model of the catalog at the sweep's data sizes and at those
between and beyond by factors of two, as far as its runs see all their images; and one more seed where one was run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.fitter import AUTO, Choice, Fitter, Unknowable, law_named
from analysis.observations import held_out, kept, load
from analysis.series import Series, series
from analysis.suggest import Advice, Candidate, Suggestion, suggest
from scaling.budgeting import overpays, run_at
from scaling.calibration import load_calibrations
from scaling.catalog import MODELS
from scaling.cost import Evidence, cost_of
from scaling.errors import Problem, SpecError
from scaling.forecasting import ALL, TURN, Asked, options_of, plain, probe_of, problems_of
from scaling.grid import Point
from scaling.launch.launcher import Node
from scaling.plan import Plan
from scaling.planned import PlannedRun
from scaling.report import observations
from scaling.rundir import RunDir
from scaling.sizing import Sizer

Unit = Literal["GPU-hours", "CPU-hours", "FLOPs"]
LITTLE = 0.02
"""Share of today's interval that is not worth a run."""
STEPS_BEYOND = 3
"""Doublings of the largest data size that are candidates."""
ABOVE = 10.0
"""A target that is not named has about so many times the parameters of the largest model."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    amount: float
    unit: Unit


@dataclass(frozen=True, kw_only=True)
class Next:
    """Of one series."""

    name: str
    algorithm: str
    mixture: str
    model: str
    """Of the target."""
    n_params: float
    n_images: float
    law: str
    why: str
    n_candidates: int
    suggestion: Suggestion | None
    """None where there is no law to sharpen; `reason` says why."""
    points: Sequence[Point]
    """Of the steps, in their order."""
    reason: str
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        found = self.suggestion
        sizes = {"model": self.model, "n_params": self.n_params, "n_images": self.n_images}
        known = {"series": self.name, "algorithm": self.algorithm, "mixture": self.mixture, "target": sizes}
        status = found.status.key if found else "refused"
        answer = {"law": self.law, "why": self.why, "candidates": self.n_candidates, "status": status}
        told: dict[str, Any] = {"reason": self.reason or (found.reason if found else ""), "warnings": list(self.notes)}
        if found and found.status is Advice.GIVEN:
            steps = zip(found.steps, self.points, strict=True)
            told["runs"] = [
                {**vars(point), "cost": s.candidate.cost, "spent": s.spent, "interval_over_todays": s.shrinks}
                for s, point in steps
            ]
            told |= {"spent": found.cost, "interval_today": found.interval, "interval_expected": found.expected}
        return dict(plain({**known, **answer, **told}))


@dataclass(frozen=True, kw_only=True)
class Suggestions:
    sweep: str
    budget: Budget
    """Of each series by itself."""
    nexts: Sequence[Next]

    def to_json(self) -> dict[str, Any]:
        budget = {"amount": self.budget.amount, "unit": self.budget.unit}
        return {"sweep": self.sweep, "budget": budget, "series": [n.to_json() for n in self.nexts]}


REPEATS = (
    "mixture {} repeats images: laws are of its unique ones, which are not the n_images that a grid asks for, so no "
    "point of a grid follows from them; add points by hand"
)
Pricer = Callable[[PlannedRun], float | None]


def suggest_runs(plan: Plan, asked: Asked, budget: Budget, nodes: Sequence[Node]) -> Suggestions:
    """`asked` is the target. Raises SpecError for what means nothing, and where no run of the kind was timed."""
    rows = load(observations(plan))
    probe = probe_of(rows, asked.probe)
    fitted = kept(rows, probe)
    problems = list(problems_of(asked, plan, fitted, probe, model="--target-model", n_images="--target-n-images"))
    if not 0 < budget.amount < math.inf:
        option = {"GPU-hours": "--gpu-hours", "CPU-hours": "--cpu-hours", "FLOPs": "--flops"}[budget.unit]
        problems.append(Problem(where=option, what=f"{budget.amount:g} buys no run; give a number above 0"))
    if problems:
        raise SpecError(problems)
    price, notes = _pricer(plan, budget.unit, nodes)
    tasks = sorted(set(fitted["task"])) if ALL in asked.tasks else asked.tasks
    nexts = [
        _next(plan, of, asked, budget, price, notes)
        for of in series(fitted, held_out(rows, probe), tasks=tasks)
        if asked.algorithm in (None, of.algorithm) and asked.mixture in (None, of.mixture)
    ]
    return Suggestions(sweep=plan.sweep.name, budget=budget, nexts=nexts)


def _next(plan: Plan, of: Series, asked: Asked, budget: Budget, price: Pricer, notes: Sequence[str]) -> Next:
    model = asked.model or _above(plan, of)
    target = _run(plan, of, model, int(asked.n_images or of.rows["n_images"].max()), 0)
    at = {"n_params": float(target.cost.n_params), "n_images": float(target.point.n_images)}
    nothing = Next(
        name=of.name,
        algorithm=of.algorithm,
        mixture=of.mixture,
        model=model,
        n_params=at["n_params"],
        n_images=at["n_images"],
        law="",
        why="",
        n_candidates=0,
        suggestion=None,
        points=(),
        reason="",
        notes=(),
    )
    if any(run.spec.repeated_from for run in plan.runs if run.point.mixture == of.mixture):
        return replace(nothing, reason=REPEATS.format(of.mixture))
    fitter = Fitter(of.rows, None if asked.law == AUTO else law_named(asked.law))
    try:
        chosen = fitter.choose(at, {"n_params": at["n_params"], "n_images": asked.n_images})
    except Unknowable as error:
        return replace(nothing, reason=str(error))
    priced = [(run, cost) for run in _candidates(plan, of, chosen) if (cost := price(run))]
    if not priced:
        what = f"nothing of the kind was timed; `scaling calibrate {plan.document.path}` measures it, or give --flops"
        raise SpecError([Problem(where=of.name, what=what)])
    candidates = [Candidate(name=str(run.point), x=_x(run, chosen), cost=cost) for run, cost in priced]
    goal = np.array([at[axis] for axis in chosen.axes])
    found = suggest(chosen.best.fit, candidates, goal, budget=budget.amount)
    found, spared = _worthwhile(chosen, found, goal, budget)
    points = {str(run.point): run.point for run, _ in priced}
    return replace(
        nothing,
        law=chosen.best.law.name,
        why=chosen.why,
        n_candidates=len(candidates),
        suggestion=found,
        points=tuple(points[step.candidate.name] for step in found.steps),
        reason=found.reason,
        notes=(*spared, *_shortfall(plan, of, target), *notes, *found.warnings),
    )


def _worthwhile(
    chosen: Choice, found: Suggestion, goal: NDArray[np.float64], budget: Budget
) -> tuple[Suggestion, Sequence[str]]:
    """Without the runs at the end that leave the interval as it is; money left is no reason to spend it."""
    if not found.steps:
        return found, ()
    all_of_it = found.steps[-1]
    n = next(i for i, step in enumerate(found.steps) if step.shrinks <= all_of_it.shrinks + LITTLE) + 1
    if n == len(found.steps):
        return found, ()
    kept, saved = found.steps[:n], all_of_it.spent - found.steps[n - 1].spent
    again = suggest(chosen.best.fit, [step.candidate for step in kept], goal, budget=kept[-1].spent)
    if again.status is not Advice.GIVEN:
        return found, ()
    more = f"{len(found.steps) - n} more runs for {saved:.3g} {budget.unit}"
    return again, (f"{more} would take less than {LITTLE:.0%} of today's interval away, so they are left out",)


def _shortfall(plan: Plan, of: Series, target: PlannedRun) -> Iterator[str]:
    """What the sweep's budget means for the target, above all where it is less than one pass over its images."""
    seen, n_images, flops = target.spec.images_seen, target.point.n_images, plan.sweep.pretrain.flops
    if flops is not None and target.cost.n_params > of.rows["n_params"].max():
        yield TURN
    if n_images <= seen:
        return
    if flops is None:
        where, key = f"candidates end at {seen:,} images, which is what a run of this sweep sees", "images_seen"
    else:
        where, key = f"{flops:g} FLOPs pay the target for {seen:,} images, fewer than its {n_images:,}", "flops"
    yield f"{where}; raise pretrain.{key} to come nearer to the target"


def _above(plan: Plan, of: Series) -> str:
    """The model of the catalog nearest to ten times the largest that was run."""
    wanted = ABOVE * of.rows["n_params"].max()
    sizes = {name: _run(plan, of, name, 1, 0).cost.n_params for name in MODELS}
    return min(sizes, key=lambda name: abs(math.log(sizes[name] / wanted)))


def _x(run: PlannedRun, chosen: Choice) -> tuple[float, ...]:
    sizes = {"n_params": float(run.cost.n_params), "n_images": float(run.point.n_images)}
    return tuple(sizes[axis] for axis in chosen.axes)


def _candidates(plan: Plan, of: Series, chosen: Choice) -> list[PlannedRun]:
    """Of a law of one size only runs with the other as it was fitted."""
    known = zip(of.rows["model"], of.rows["n_images"].astype(int), of.rows["seed"].astype(int), strict=True)
    seeds: dict[tuple[str, int], int] = {}
    for model, n, seed in known:
        seeds[model, n] = max(seeds.get((model, n), 0), seed + 1)
    images = _images(sorted({int(n) for n in of.rows["n_images"]}))
    models: Sequence[str] = list(MODELS)
    if "n_images" not in chosen.axes:
        images = sorted({int(n) for n in chosen.rows["n_images"]})
    if "n_params" not in chosen.axes:
        models = sorted(set(chosen.rows["model"]))
    runs = [_run(plan, of, model, n, seeds.get((model, n), 0)) for model, n in itertools.product(models, images)]
    return [run for run in runs if run.point.n_images <= run.spec.images_seen and not overpays(plan.sweep, run.spec)]


def _images(run: Sequence[int]) -> list[int]:
    """Data sizes of the sweep, the middle of wide gaps, and doublings beyond."""
    between = [round(math.sqrt(a * b)) for a, b in itertools.pairwise(run) if b >= 3 * a]
    beyond = [run[-1] * 2**k for k in range(1, STEPS_BEYOND + 1)]
    return sorted({*run, *between, *beyond})


def _run(plan: Plan, of: Series, model: str, n_images: int, seed: int) -> PlannedRun:
    """As the sweep would make it. Without the identity of its images, so it is never looked up."""
    point = Point(model=model, algorithm=of.algorithm, n_images=n_images, mixture=of.mixture, seed=seed)
    run = run_at(plan.sweep, point, "", options_of(plan, of.algorithm, model))
    nowhere = RunDir(plan.root / "runs" / run.fingerprint)
    return PlannedRun(point=point, spec=run, cost=cost_of(run), dir=nowhere, tasks={}, n_by_modality={})


def _pricer(plan: Plan, unit: Unit, nodes: Sequence[Node]) -> tuple[Pricer, Sequence[str]]:
    """What a run costs in the budget's unit, None where nobody knows; and what that rests on."""
    if unit == "FLOPs":
        return lambda run: run.cost.train_flops, ()
    sizer, evidence = Sizer(plan, nodes, load_calibrations(plan.root)), Evidence(plan.measured())
    of_slot = unit == "GPU-hours" and sizer.gpus == 0
    notes = ("runs take no GPU on this machine, so hours of one run's slot are counted",) if of_slot else ()

    def price(run: PlannedRun) -> float | None:
        given = sizer.size(run)
        rate = given.calibrated.images_per_second * given.n_ranks if given.calibrated else None
        images = run.spec.n_steps * run.spec.batch_size
        point, flops, recomputed = run.point, run.cost.train_flops, given.recomputed
        found = evidence.estimate(point.model, point.algorithm, flops, rate, images, recomputed=recomputed)
        if found is None:
            return None
        share = given.resources.gpus if unit == "GPU-hours" else given.resources.cpus
        return found.seconds / 3600 * (1.0 if of_slot else share)

    return price, notes
