"""What a sweep's runs say about a run that it has not: `scaling predict`, on the laws of `analysis`. Imports no torch.

Not `forecast.py`, which foretells when a sweep will be over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from analysis.extrapolate import Held, Prediction, Predictor, Target, multiple
from analysis.fitter import AUTO, law_named
from analysis.observations import MAIN_PROBE, held_out, kept, load
from analysis.series import Series, series
from scaling.budgeting import run_at
from scaling.catalog import MODELS
from scaling.cost import RunCost, cost_of
from scaling.errors import Problem, SpecError, unknown
from scaling.grid import Point, RunSpec
from scaling.options import Options
from scaling.plan import Plan
from scaling.report import observations

__all__ = ["Answers", "Asked", "multiple", "options_of", "plain", "predict", "probe_of", "problems_of"]

ALL = "all"
TURN = "at equal FLOPs a larger model sees fewer images, so its error may turn up again, which no falling law foretells"
"""What to hold against a model larger than all that were run."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A run that may never have been made, and whose word on it is wanted; None leaves a choice open."""

    model: str | None = None
    """A name of the catalog; None: the largest model of each series."""
    n_images: float | None = None
    """None: the largest data size of each series."""
    algorithm: str | None = None
    """None: every one, as for the mixture."""
    mixture: str | None = None
    tasks: Sequence[str] = ()
    """Empty: the mean over tasks; `all`: each of them."""
    probe: str | None = None
    """None: linear, or what there is."""
    law: str = AUTO


@dataclass(frozen=True, kw_only=True)
class Answers:
    sweep: str
    probe: str
    predictions: Sequence[Prediction]
    """One a series."""
    held: Sequence[Held]
    """Runs that the YAML holds out, by series."""

    def to_json(self) -> dict[str, Any]:
        return {
            "sweep": self.sweep,
            "probe": self.probe,
            "metric": "error, 1 - AUC",
            "predictions": [plain(asdict(p)) for p in self.predictions],
            "held_out": [_held(h) for h in self.held],
        }


def _held(held: Held) -> dict[str, Any]:
    p = held.prediction
    sizes = {"algorithm": p.algorithm, "mixture": p.mixture, "task": p.task, "model": p.model, "n_images": p.n_images}
    numbers = {"predicted": p.value, "run_low": p.run_low, "run_high": p.run_high, "off": held.off, "beyond": p.beyond}
    known = {"run": held.run, "seed": held.seed, **sizes, "measured": held.measured, **numbers, "inside": held.inside}
    return plain({**known, "law": p.law, "status": p.status, "reason": p.reason})


def plain(value: Any) -> Any:
    """JSON has no NaN: a number that is none is null."""
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def predict(plan: Plan, asked: Asked) -> Answers:
    """Raises SpecError for names that mean nothing and for a sweep without a result."""
    rows = load(observations(plan))
    probe = probe_of(rows, asked.probe)
    fitted, held = kept(rows, probe), held_out(rows, probe)
    problems = list(problems_of(asked, plan, fitted, probe))
    if problems:
        raise SpecError(problems)
    tasks = sorted(set(fitted["task"])) if ALL in asked.tasks else asked.tasks
    predictions, against = list[Prediction](), list[Held]()
    for of in series(fitted, held, tasks=tasks):
        if asked.algorithm in (None, of.algorithm) and asked.mixture in (None, of.mixture):
            predictor = Predictor(of, law=asked.law)
            (answer,) = predictor.predict([_target(plan, of, asked)])
            predictions.append(_with_budget(plan, answer))
            against += predictor.against()
    return Answers(sweep=plan.sweep.name, probe=probe, predictions=predictions, held=against)


def probe_of(rows: pd.DataFrame, asked: str | None) -> str:
    there = sorted({str(probe) for probe in rows["probe"][rows["error"].notna()]})
    if asked is not None and asked not in there:
        raise SpecError([Problem(where="--probe", what=unknown("probe", asked, there))])
    return asked or (MAIN_PROBE if MAIN_PROBE in there or not there else there[0])


def problems_of(
    asked: Asked,
    plan: Plan,
    fitted: pd.DataFrame,
    probe: str,
    *,
    model: str = "--model",
    n_images: str = "--n-images",
) -> list[Problem]:
    """What means nothing; `model` and `n_images` are the options' names."""
    if fitted.empty:
        what = f"no run has a result of the {probe} probe to fit; `scaling run {plan.document.path}` first"
        return [Problem(where=plan.sweep.name, what=what)]
    found = []
    names = {
        model: ("model", [asked.model], MODELS),
        "--algorithm": ("algorithm", [asked.algorithm], set(fitted["algorithm"])),
        "--mixture": ("mixture", [asked.mixture], set(fitted["mixture"])),
        "--task": ("task", asked.tasks, {*fitted["task"], ALL}),
    }
    for option, (kind, given, known) in names.items():
        found += [
            Problem(where=option, what=unknown(kind, name, known)) for name in given if name not in (None, *known)
        ]
    if asked.n_images is not None and not 0 < asked.n_images < math.inf:
        found.append(Problem(where=n_images, what=f"{asked.n_images:g} is no number of images; give one above 0"))
    try:
        if asked.law != AUTO:
            law_named(asked.law)
    except ValueError as error:
        found.append(Problem(where="--law", what=str(error)))
    return found


def _target(plan: Plan, of: Series, asked: Asked) -> Target:
    """With the parameters and FLOPs that the model would have in this sweep."""
    largest = of.rows.sort_values("n_params", kind="stable").iloc[-1]
    model = asked.model or str(largest["model"])
    n_images = asked.n_images or float(of.rows["n_images"].max())
    cost = cost_at(plan, of.algorithm, of.mixture, model, n_images)
    return Target(
        n_params=float(cost.n_params) if asked.model else None,
        n_images=asked.n_images,
        train_flops=cost.train_flops,
        model=model,
    )


def cost_at(plan: Plan, algorithm: str, mixture: str, model: str, n_images: float) -> RunCost:
    """Of a run as the sweep would make it, and at least as long as one pass over its images takes."""
    run = _asked_run(plan, algorithm, mixture, model, n_images)
    return cost_of(run.model_copy(update={"images_seen": max(run.images_seen, run.n_images)}))


def _asked_run(plan: Plan, algorithm: str, mixture: str, model: str, n_images: float) -> RunSpec:
    """By the sweep's budget, whether or not that is one pass."""
    point = Point(model=model, algorithm=algorithm, n_images=math.ceil(n_images), mixture=mixture, seed=0)
    return run_at(plan.sweep, point, "", options_of(plan, algorithm, model))


def options_of(plan: Plan, algorithm: str, model: str) -> Options | None:
    """The options that the sweep's runs have; what tuning chooses moves no FLOPs, so another size's will do. None for a
    recipe, whose values may be others at another size."""
    runs = [run for run in plan.runs if run.point.algorithm == algorithm]
    same = [run for run in runs if run.point.model == model]
    options = (same or runs)[0].spec.options if runs else None
    return None if getattr(options, "recipe", None) else options


def _with_budget(plan: Plan, answer: Prediction) -> Prediction:
    """A longer training is one more thing in which the target differs from all runs, a shorter one too."""
    if not answer.answered:
        return answer
    flops = plan.sweep.pretrain.flops
    if flops is not None and answer.beyond.get("n_params", 0) > 1:
        answer = replace(answer, warnings=(TURN, *answer.warnings))
    seen = _asked_run(plan, answer.algorithm, answer.mixture, answer.model, answer.n_images).images_seen
    if answer.n_images <= seen:
        return answer
    who = "all runs saw" if flops is None else f"{flops:g} FLOPs, as all runs had, pay {answer.model} for"
    words = (
        f"{who} {seen:,} images, too few to see {answer.n_images:,.0f} once: what a longer training does "
        "is not in the data"
    )
    return replace(answer, warnings=(words, *answer.warnings))
