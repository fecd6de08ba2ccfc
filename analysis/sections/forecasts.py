"""What ten times more would give, by series; and runs held out of every fit, predicted against measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.extrapolate import Held, Prediction, Predictor, Target
from analysis.figures import candidates as candidates_figure
from analysis.figures import holdout as figure
from analysis.figures.style import quantity
from analysis.page.blocks import Block, Fold, Note, Numbers, Section, Words
from analysis.sections.drawing import Pen
from analysis.series import Series, series
from analysis.study import Study

TIMES = 10.0
"""How far beyond the largest run is asked for."""


def _words(axis: str, unit: str) -> str:
    return {"n_params": unit, "n_images": "images", "": f"{unit} and images"}[axis]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    axis: str
    """What grows: n_params, n_images, or empty for both."""
    prediction: Prediction


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    forecasts: list[Forecast]
    held: list[Held]
    candidates: pd.DataFrame
    """Every law that was tried of every series, with the score of its rolling extrapolation."""


def forecasts(study: Study) -> Forecasts:
    """Per series (mean over tasks) ten times the parameters, the images, and both; every held-out run."""
    found, held, candidates = list[Forecast](), list[Held](), list[dict[str, object]]()
    for of in series(study.fitted, study.held):
        predictor = Predictor(of)
        asked = list(_targets(of))
        answers = predictor.predict([target for _, target in asked])
        found += [Forecast(axis=axis, prediction=p) for (axis, _), p in zip(asked, answers, strict=True)]
        held += predictor.against()
        candidates += _candidates(of, predictor)
    return Forecasts(forecasts=found, held=held, candidates=pd.DataFrame(candidates))


def _candidates(of: Series, predictor: Predictor) -> Iterator[dict[str, object]]:
    """Of every selection that a prediction was made with, best first."""
    for choice in predictor.fitter.choices():
        for candidate in choice.selection.candidates:
            yield {
                "series": f"{of.algorithm} / {of.mixture}, along {' and '.join(choice.axes)}",
                "law": candidate.law.name,
                "score": candidate.score,
                "weight": candidate.weight,
                "chosen": candidate is choice.selection.winner,
                "status": candidate.fit.status.key,
                "reason": candidate.reason,
            }


def _targets(of: Series) -> Iterator[tuple[str, Target]]:
    largest = {axis: float(of.rows[axis].max()) for axis in ("n_params", "n_images")}
    n_params, n_images = (TIMES * size if np.isfinite(size) else None for size in largest.values())
    if n_params:
        yield "n_params", Target(n_params=n_params)
    if n_images:
        yield "n_images", Target(n_images=n_images)
    if n_params and n_images:
        yield "", Target(n_params=n_params, n_images=n_images)


def section(study: Study, found: Forecasts, pen: Pen) -> Section:
    title = "Beyond the data"
    caption = (
        f"Mean error over tasks predicted for {TIMES:.0f} times the largest fitted size: the law's curve with its 95 % "
        "interval, and the interval of one more run there (run_low, run_high). beyond: times the largest size fitted."
    )
    blocks: list[Block] = []
    if found.forecasts:
        rows = forecast_table(found.forecasts, study.size.unit)
        blocks.append(Numbers(name="forecasts", caption=caption, rows=rows))
    else:
        blocks.append(Words(lines=["There is no series of runs to go on from."]))
    if len(found.candidates):
        blocks.append(Fold(title="Which law: rolling extrapolation", blocks=list(_choice(found.candidates, pen))))
    rows = held_table(found.held)
    if len(rows):
        answered = rows[np.isfinite(rows["predicted"])]
        if len(answered):
            drawn = figure.table(answered)
            score = figure.score(drawn)
            words = (
                f"{score['n_inside']:.0f} of {score['n_intervals']:.0f} held-out runs lie inside the 95 % interval "
                "that was predicted for a new run there; root mean square of ln(predicted / measured) "
                f"{score['rmsle']:.3g}."
            )
            good = score["n_intervals"] and score["n_inside"] >= 0.8 * score["n_intervals"]
            blocks.append(Note(text=words, severity="info" if good else "warning"))
            picture = (
                "Runs held out of every fit: predicted with the 95 % interval of a new run, and measured. Trained like "
                "any other, so this is what the predictions above are worth."
            )
            blocks.append(pen.picture("holdout", picture, figure.draw(drawn, label=study.mean_error)))
        blocks.append(Numbers(name="holdout", caption="Held-out runs, predicted against measured.", rows=rows))
    elif len(study.held):
        blocks.append(Words(lines=["Held-out runs have none of the tasks that all fitted runs have."]))
    else:
        words = "No run was held out, so these predictions were not put to the test; `holdout:` in the YAML does it."
        blocks.append(Words(lines=[words]))
    return Section(title=title, blocks=blocks)


def _choice(rows: pd.DataFrame, pen: Pen) -> Iterator[Block]:
    caption = (
        "Each law fitted to the smaller sizes and judged by the larger ones at several cuts: score is the mean RMSLE. "
        "Laws with a weight make the prediction, as a weighted geometric mean; the disagreement of all laws with a "
        "score is part of its interval. Judged within the fitted sizes alone: beyond them a single law may foretell "
        "better. With three or four sizes one held-out point decides."
    )
    first = str(rows["series"].iloc[0])
    mine = rows[rows["series"] == first]
    if mine["score"].notna().any():
        drawn = candidates_figure.draw(candidates_figure.table(mine), label="RMSLE on larger sizes")
        yield pen.picture("candidates", f"{first}. {caption}", drawn)
    yield Numbers(name="candidates", caption=caption, rows=rows)


def forecast_table(found: list[Forecast], unit: str = "parameters") -> pd.DataFrame:
    rows = []
    for forecast in found:
        p = forecast.prediction
        rows.append(
            {
                "algorithm": p.algorithm,
                "mixture": p.mixture,
                "ten times": _words(forecast.axis, unit),
                "n_params": p.n_params,
                "n_images": p.n_images,
                "error": p.value,
                "error_low": p.low,
                "error_high": p.high,
                "run_low": p.run_low,
                "run_high": p.run_high,
                "beyond": ", ".join(f"{axis} {times:.3g}" for axis, times in p.beyond.items()),
                "law": p.law,
                "why": p.why,
                "status": p.status,
                "reason": p.reason,
                "warnings": "; ".join(p.warnings),
                "runs": " ".join(p.runs),
            }
        )
    return pd.DataFrame(rows)


def held_table(held: list[Held]) -> pd.DataFrame:
    """As `figures.holdout.table` wants it, with the status of each prediction."""
    rows = [
        {
            "name": f"{h.prediction.algorithm} / {h.prediction.mixture} / {h.prediction.model}"
            + (f", {h.prediction.n_images:,.0f} images" if np.isfinite(h.prediction.n_images) else ""),
            "run": h.run,
            "seed": h.seed,
            "predicted": h.prediction.value,
            "low": h.prediction.run_low,
            "high": h.prediction.run_high,
            "measured": h.measured,
            "times_beyond": max(h.prediction.beyond.values(), default=np.nan),
            "law": h.prediction.law,
            "status": h.prediction.status,
            "reason": h.prediction.reason,
        }
        for h in held
    ]
    return pd.DataFrame(rows)


@dataclass(frozen=True, kw_only=True)
class Said:
    text: str
    runs: tuple[str, ...]
    """Behind the number."""
    series: tuple[str, str]
    """Algorithm and mixture; empty texts for held-out runs."""
    axis: str


def sentences(found: Forecasts, unit: str = "parameters") -> list[Said]:
    """One a series and axis, and one on the runs held out; `unit` of model sizes."""
    said = []
    if found.held and (inside := [h.inside for h in found.held if h.inside is not None]):
        text = f"{sum(inside)} of {len(inside)} held-out runs lie inside the interval that was predicted for them."
        said.append(Said(text=text, runs=tuple(h.run for h in found.held), series=("", ""), axis=""))
    for forecast in found.forecasts:
        p = forecast.prediction
        if not p.answered or forecast.axis == "":
            continue
        interval = f"[{p.low:.4f}, {p.high:.4f}]" if np.isfinite(p.low + p.high) else "[no interval]"
        size = f"{quantity(p.n_params)} {unit}" if forecast.axis == "n_params" else f"{p.n_images:,.0f} images"
        text = (
            f"{p.algorithm} / {p.mixture} with ten times the {_words(forecast.axis, unit)} ({size}) is predicted to "
            f"have a mean error of {p.value:.4f} {interval} by the {p.law} law"
        )
        far = [w for w in p.warnings if "beyond" in w]
        text += f"; {far[0]}." if far else "."
        said.append(Said(text=text, runs=p.runs, series=(p.algorithm, p.mixture), axis=forecast.axis))
    return said
