"""`fit TABLE.csv`: a law fitted to each group of anybody's table, as one document. A failed group stops no other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import cast, get_args

import numpy as np

from analysis import documents
from analysis.documents import Document
from analysis.fit import Fit, fit
from analysis.laws import ALIASES, LAWS
from analysis.laws.law import Law
from analysis.objective import OBJECTIVES, Objective
from analysis.points import Points
from analysis.problems import InputError, unknown
from analysis.sheet import Group, Sheet, groups, sheet
from analysis.table import Question, Table, open_table
from analysis.uncertainty import Method, Uncertainty, uncertainty
from analysis.wanted import Wanted, held_out, key_of, read_wanted, unmatched

AUTO = "auto"
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What to fit to the table of a question, and how."""

    question: Question
    law: str
    """A name or alias of `LAWS`, or auto."""
    objective: str = "log_huber"
    huber_delta: float | None = None
    """In the objective's unit; None: the objective's own."""
    intervals: str = "auto"
    resamples: int = 1000
    seed: int = 0
    level: float = 0.95
    predict: Path | None = None
    """A table with the same columns, or with our names, whose rows are to be predicted."""


def fit_document(ask: Ask) -> Document:
    """Raises InputError with everything that is wrong with the question; what the data cannot answer is a status."""
    started = perf_counter()
    objective, problems = _checked(ask)
    try:
        table = open_table(ask.question, inputs=[name for law in LAWS.values() for name in law.inputs])
    except InputError as error:
        raise InputError([*problems, *error.problems]) from None
    if problems:
        raise InputError(problems)
    law = LAWS[ALIASES.get(ask.law, ask.law)]
    numbers = sheet(table, law.inputs, relative=objective.logs, law=law.name, may_be_zero=law.may_be_zero)
    found = groups(table, numbers)
    wanted = read_wanted(ask.predict, table, numbers, law) if ask.predict else None
    by_group = wanted.by_group() if wanted and wanted.keys is not None else None
    answers = []
    for group in found:
        mine = wanted if by_group is None else by_group.get(key_of(group))
        answers.append(_answered(group, law, objective, ask, mine))
    return {
        "command": "fit",
        "table": str(ask.question.path),
        "settings": _settings(ask, table, numbers, objective, law),
        "rows": documents.rows(found),
        "notes": list(numbers.notes),
        "statuses": dict(Counter(answer["status"] for answer in answers)),
        "groups": answers,
        **({"predicted_by_no_group": unmatched(wanted, found)} if wanted else {}),
        "seconds": perf_counter() - started,
    }


def _checked(ask: Ask) -> tuple[Objective, list[str]]:
    """The objective, and all that is wrong with the numbers and names of a question whatever the table."""
    problems = []
    if ask.law != AUTO and ask.law not in LAWS and ask.law not in ALIASES:
        problems.append(f"--law: {unknown('law', ask.law, (*LAWS, *ALIASES, AUTO))}")
    if ask.objective not in OBJECTIVES:
        problems.append(f"--objective: {unknown('objective', ask.objective, OBJECTIVES)}")
    if ask.intervals not in METHODS:
        problems.append(f"--intervals: {unknown('method', ask.intervals, METHODS)}")
    if ask.resamples < 0:
        problems.append(f"--bootstrap: {ask.resamples} resamples; 0 for intervals without resampling, or 100 and more")
    if ask.seed < 0:
        problems.append(f"--seed: {ask.seed} is below 0; any whole number from 0 on")
    if not 0 < ask.level < 1:
        problems.append(f"--level: {ask.level:g} is no confidence; a number between 0 and 1, as .95")
    objective = OBJECTIVES.get(ask.objective, OBJECTIVES["log_huber"])
    if ask.huber_delta is not None:
        if objective.delta is None:
            problems.append(f"--huber-delta: {objective.name} has no corner; use it with log_huber or huber")
        elif not 0 < ask.huber_delta < np.inf:
            problems.append(f"--huber-delta: {ask.huber_delta:g} is no corner; a positive number, as 1e-3")
        objective = objective.with_delta(ask.huber_delta)
    return objective, problems


def _settings(ask: Ask, table: Table, numbers: Sheet, objective: Objective, law: Law) -> Document:
    """What was asked, as it was understood."""
    question = ask.question
    return {
        "law": law.name,
        "inputs": {name: str(numbers.sources[name]) for name in numbers.sources},
        "target": {"name": table.target, "column": str(table.mapped[table.target])},
        "by": list(question.by),
        "train": question.train or None,
        "exclude": question.exclude or None,
        "objective": objective.name,
        "weights": question.weights or (f"1 / {question.se}^2" if question.se else None),
        "cluster": question.cluster,
        "intervals": ask.intervals,
        "resamples": ask.resamples,
        "seed": ask.seed,
        "level": ask.level,
        "predict": str(ask.predict) if ask.predict else None,
    }


def _answered(group: Group, law: Law, objective: Objective, ask: Ask, wanted: Wanted | None) -> Document:
    started = perf_counter()
    found = fit(law, group.fitted, objective=objective)
    bounds = _bounds(found, ask) if found.status.usable else None
    failed = "" if bounds else f"no fit: {found.reason}"
    others = held_out(group, law.inputs)
    answer: Document = {
        "group": group.key,
        "law": law.name,
        "formula": law.formula,
        "source": law.source,
        "status": found.status.key,
        "reason": found.reason,
        "warnings": list(bounds.warnings) if bounds else [],
        "rows": documents.rows([group]),
        "objective": documents.objective(found),
        "intervals": _intervals(bounds, ask, failed),
        "parameters": documents.parameters(found, bounds),
        "derived": documents.derived(found, bounds),
        "fitted": _score(found, group.fitted),
        "held_out": {
            **_score(found, group.held_out),
            "reason": failed or ("" if len(group.held_out) else "no rows are held out"),
            "predictions": documents.predictions(bounds, others, failed),
        },
    }
    if ask.predict:
        answer["predictions"] = documents.predictions(bounds, wanted, failed) if wanted else []
    return {**answer, "seconds": perf_counter() - started}


def _bounds(found: Fit, ask: Ask) -> Uncertainty:
    method = cast(Method, ask.intervals if ask.resamples or ask.intervals == "profile" else "delta")
    return uncertainty(found, method=method, n=ask.resamples, seed=ask.seed, level=ask.level)


def _intervals(bounds: Uncertainty | None, ask: Ask, failed: str) -> Document:
    """Which method, and why."""
    if bounds is None:
        return {"method": None, "level": ask.level, "why": failed}
    resampled = bounds.method in ("bootstrap", "wild")
    clusters = len(np.unique(bounds.fit.points.clusters))
    why = {
        "bootstrap": f"cases resampled by cluster; {clusters} clusters",
        "wild": f"residuals resampled by cluster; {clusters} clusters are too few to resample cases",
        "profile": "least squares: every value of a number that some curve through the data allows, by Student's t",
        "delta": "Student's t; exact where the law is linear in its parameters",
    }[bounds.method]
    return {
        "method": bounds.method,
        "level": bounds.level,
        "why": f"{'chosen' if ask.intervals == AUTO else 'asked for'}: {why}",
        "degrees_of_freedom": bounds.free,
        **({"resamples": len(bounds.draws), "seed": ask.seed} if resampled else {}),
    }


def _score(found: Fit, measured: Points) -> Document:
    usable = found.status.usable and len(measured) > 0
    document = documents.score(measured.y, found.predict(measured.x) if usable else np.full(len(measured), np.nan))
    return {**document, "n": len(measured)}
