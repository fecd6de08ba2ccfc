"""What a run that nobody has made would give: predictions with intervals, how far beyond the data, and what is unknown.

One answer per series (algorithm, mixture, task). Where both sizes vary a law of both is fitted; where one varies, a law
of that one, and the other must be asked for as it is in the data. What cannot be known is a reason, never a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.fitter import AUTO, AXES, SAME, WORDS, Choice, Fitter, Unknowable, law_named
from analysis.points import Matrix
from analysis.select import Candidate
from analysis.series import Series
from analysis.uncertainty import Band

FEW = 3
"""Degrees of freedom below which Student's t is more than 1.6 times its limit."""
FAR = 10.0
"""Times beyond the largest size from which on nobody should believe an interval without a run in between."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The run asked for; a size that is not given is the largest in the data."""

    n_params: float | None = None
    n_images: float | None = None
    train_flops: float | None = None
    """Of its training, to say how far beyond the data it is; no law uses it here."""
    model: str = ""
    """Its name, if it has one."""


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One law that was tried."""

    law: str
    score: float
    """Root mean squared log error in foretelling the larger sizes from the smaller; NaN without one."""
    weight: float
    """Of its word in the prediction, 0-1."""
    value: float
    """What it alone predicts; NaN without a usable fit."""
    reason: str
    """What is wrong with it; empty where all is well."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a series says about a target."""

    name: str
    """Of the series."""
    algorithm: str
    mixture: str
    task: str
    n_tasks: int
    model: str
    n_params: float
    """Of the run predicted; NaN where neither asked for nor known."""
    n_images: float
    value: float
    """Error, the weighted geometric mean of the laws that foretell well; NaN unless answered, as all numbers below."""
    low: float
    """95 % interval of the curve there: what each law leaves open, and what all judged laws disagree on."""
    high: float
    run_low: float
    """95 % interval of one more run there: the curve's and the scatter of runs."""
    run_high: float
    beyond: dict[str, float]
    """Size asked for over the largest fitted, by axis; 1 or less is within the data."""
    law: str
    """The best one."""
    formula: str
    parameters: dict[str, float]
    why: str
    """The choice of the law."""
    candidates: tuple[Rival, ...]
    """All that were tried, the best first."""
    status: str
    """Of the fit, `Status.key`, or `refused`."""
    reason: str
    """Why there is no answer, or what is weak about the fit."""
    warnings: tuple[str, ...]
    n_cells: int
    """Distinct sizes fitted."""
    runs: tuple[str, ...]
    """Fitted, in the table's order."""

    @property
    def answered(self) -> bool:
        return bool(np.isfinite(self.value))


@dataclass(frozen=True, kw_only=True)
class Held:
    """A run that was held out, beside what the others say of it."""

    run: str
    seed: int | None
    """None where the table does not say."""
    measured: float
    prediction: Prediction

    @property
    def inside(self) -> bool | None:
        """Whether the interval of a new run has it; None where there is no interval."""
        p = self.prediction
        return bool(p.run_low <= self.measured <= p.run_high) if np.isfinite(p.run_low + p.run_high) else None

    @property
    def off(self) -> float:
        """Predicted over measured, minus 1."""
        return self.prediction.value / self.measured - 1


class Predictor:
    """Of one series; every law is fitted once, however many targets are asked for."""

    def __init__(self, of: Series, *, law: str = AUTO) -> None:
        """`law`: a name of `LAWS`, or auto. Raises ValueError for a name that is none."""
        self.of = of
        self.fitter = Fitter(of.rows, None if law == AUTO else law_named(law))

    def predict(self, targets: Sequence[Target]) -> list[Prediction]:
        """Never raises for data: what cannot be known is refused with a reason."""
        found: list[Prediction | None] = [None] * len(targets)
        by_choice: dict[int, tuple[Choice, list[int]]] = {}
        at = [{axis: _at(self.of.rows, axis, getattr(target, axis)) for axis in AXES} for target in targets]
        for i, target in enumerate(targets):
            try:
                chosen = self.fitter.choose(at[i], {axis: getattr(target, axis) for axis in AXES})
            except Unknowable as error:
                found[i] = _answer(self.of, target, at[i], status="refused", reason=str(error))
            else:
                by_choice.setdefault(id(chosen), (chosen, []))[1].append(i)
        for chosen, places in by_choice.values():
            answers = self._answers(chosen, [targets[i] for i in places], [at[i] for i in places])
            for i, answer in zip(places, answers, strict=True):
                found[i] = answer
        return [answer for answer in found if answer is not None]

    def against(self) -> list[Held]:
        """The series' held-out runs, each predicted from those fitted; runs of equal sizes share one prediction."""
        held = self.of.held
        cells = held.drop_duplicates(list(AXES))
        targets = [
            Target(
                n_params=_given(row["n_params"]),
                n_images=_given(row["n_images"]),
                train_flops=_given(row["train_flops"]),
                model=str(row["model"]),
            )
            for row in cells.to_dict("records")
        ]
        made = {(t.n_params, t.n_images): p for t, p in zip(targets, self.predict(targets), strict=True)}
        return [
            Held(
                run=str(row["run"]),
                seed=int(row["seed"]) if np.isfinite(row["seed"]) else None,
                measured=float(row["error"]),
                prediction=made[_given(row["n_params"]), _given(row["n_images"])],
            )
            for row in held.to_dict("records")
        ]

    def _answers(
        self, chosen: Choice, targets: Sequence[Target], at: Sequence[dict[str, float]]
    ) -> Iterator[Prediction]:
        selection, best, n = chosen.selection, chosen.best, len(targets)
        x = np.array([[sizes[axis] for axis in chosen.axes] for sizes in at])
        usable = selection.winner is not None
        nothing = Band(*[np.full(n, np.nan)] * 3)
        curve, runs = (selection.curve(x), selection.new_runs(x)) if usable else (nothing, nothing)
        for i, target in enumerate(targets):
            beyond = _beyond(chosen.rows, at[i], target)
            yield replace(
                _answer(self.of, target, at[i], status=best.fit.status.key, reason=best.fit.reason),
                value=float(curve.value[i]),
                low=float(curve.low[i]),
                high=float(curve.high[i]),
                run_low=float(runs.low[i]),
                run_high=float(runs.high[i]),
                beyond=beyond,
                law=best.law.name,
                formula=best.law.formula,
                parameters=best.fit.parameters,
                why=chosen.why,
                candidates=tuple(_rival(candidate, x[i : i + 1]) for candidate in selection.candidates),
                n_cells=_n_cells(chosen),
                runs=tuple(chosen.rows["run"]),
                warnings=(*_far(chosen, at[i], beyond), *_thin(chosen)) if usable else (),
            )


def _rival(candidate: Candidate, x: Matrix) -> Rival:
    usable = candidate.fit.status.usable
    return Rival(
        law=candidate.law.name,
        score=candidate.score,
        weight=candidate.weight,
        value=float(candidate.fit.predict(x)[0]) if usable else np.nan,
        reason=candidate.reason,
    )


def _n_cells(chosen: Choice) -> int:
    return len(np.unique(chosen.best.fit.points.x, axis=0))


def _given(size: float) -> float | None:
    return float(size) if np.isfinite(size) else None


def _beyond(rows: pd.DataFrame, at: dict[str, float], target: Target) -> dict[str, float]:
    sizes = {**at, "train_flops": target.train_flops or np.nan}
    largest = {axis: rows[axis].max() for axis in sizes}
    return {axis: float(sizes[axis] / largest[axis]) for axis in sizes if sizes[axis] > 0 and largest[axis] > 0}


def _at(rows: pd.DataFrame, axis: str, asked: float | None) -> float:
    return float(rows[axis].max()) if asked is None else float(asked)


# --- what to say ---------------------------------------------------------------------------------------------------


def _answer(of: Series, target: Target, at: dict[str, float], *, status: str, reason: str) -> Prediction:
    """Without numbers."""
    names = of.rows.loc[np.isclose(of.rows["n_params"], at["n_params"], rtol=SAME, atol=0), "model"]
    return Prediction(
        name=of.name,
        algorithm=of.algorithm,
        mixture=of.mixture,
        task=of.task,
        n_tasks=of.n_tasks,
        model=target.model or of.model or (str(names.iloc[0]) if len(names) else ""),
        n_params=at["n_params"],
        n_images=at["n_images"],
        value=np.nan,
        low=np.nan,
        high=np.nan,
        run_low=np.nan,
        run_high=np.nan,
        beyond={},
        law="",
        formula="",
        parameters={},
        why="",
        candidates=(),
        status=status,
        reason=reason,
        warnings=(),
        n_cells=0,
        runs=(),
    )


def _far(chosen: Choice, at: dict[str, float], beyond: dict[str, float]) -> Iterator[str]:
    """Doubts about one target."""
    for axis in chosen.axes:
        smallest = float(chosen.rows[axis].min())
        reach, times = float(chosen.rows[axis].max()) / smallest, beyond[axis]
        if times > max(FAR, reach):
            yield (
                f"{multiple(times)} times beyond the largest {WORDS[axis]}, while those fitted span a factor of "
                f"{multiple(reach)}: the data say little about so long a way"
            )
        elif times > FAR:
            yield f"{multiple(times)} times beyond the largest {WORDS[axis]}"
        if at[axis] < smallest * (1 - SAME):
            yield f"below the smallest {WORDS[axis]}, {smallest:,.0f}"


def multiple(times: float) -> str:
    """Three digits in words that people read: 0.5, 2.67, 1,004."""
    return f"{times:,.0f}" if times >= 1000 else f"{times:.3g}"


def _thin(chosen: Choice) -> Iterator[str]:
    """Doubts about the data."""
    cells = chosen.rows.groupby(list(AXES), dropna=False)["run"].nunique()
    if (single := int((cells == 1).sum())) == len(cells):
        yield "one seed a size: what seeds do shows only as distance from the law"
    elif single:
        yield f"{single} of {len(cells)} sizes have one seed"
    seen = chosen.rows.groupby(list(AXES), dropna=False)["images_seen"].agg(["min", "max"])
    if (seen["max"] > (1 + SAME) * seen["min"]).any():
        yield "runs of equal sizes saw different numbers of images, which the law takes for scatter"
    free = _n_cells(chosen) - len(chosen.best.fit.theta)
    if free < FEW:
        how = "no interval" if free < 1 else "the interval is wide for that reason alone"
        yield f"{free} degree{'s' * (free != 1)} of freedom: {how}"
