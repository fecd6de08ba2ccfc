"""`fit TABLE.csv`: a law fitted to each group of anybody's table, as one document. A failed group stops no other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import cast

import numpy as np

from analysis import documents
from analysis.documents import Document
from analysis.fit import Fit, fit
from analysis.how import How
from analysis.laws import ALIASES, LAWS
from analysis.laws.law import Law
from analysis.points import Points
from analysis.problems import InputError, unknown
from analysis.sheet import Group, Sheet, groups, sheet
from analysis.table import Question, Table, open_table
from analysis.uncertainty import Method, Uncertainty, uncertainty
from analysis.wanted import Wanted, held_out, key_of, read_wanted, unmatched

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What to fit to the table of a question, and how."""

    question: Question
    law: str
    """A name or alias of `LAWS`, or auto."""
    how: How
    predict: Path | None = None
    """A table with the same columns, or with our names, whose rows are to be predicted."""


def fit_document(ask: Ask) -> Document:
    """Raises InputError with everything that is wrong with the question; what the data cannot answer is a status."""
    started = perf_counter()
    problems = list(ask.how.problems)
    if ask.law != AUTO and ask.law not in LAWS and ask.law not in ALIASES:
        problems.append(f"--law: {unknown('law', ask.law, (*LAWS, *ALIASES, AUTO))}")
    try:
        table = open_table(ask.question, inputs=[name for law in LAWS.values() for name in law.inputs])
    except InputError as error:
        raise InputError([*problems, *error.problems]) from None
    if problems:
        raise InputError(problems)
    law = LAWS[ALIASES.get(ask.law, ask.law)]
    numbers = sheet(table, law.inputs, relative=ask.how.relative, law=law.name, may_be_zero=law.may_be_zero)
    found = groups(table, numbers)
    wanted = read_wanted(ask.predict, table, numbers, law) if ask.predict else None
    by_group = wanted.by_group() if wanted and wanted.keys is not None else None
    answers = []
    for group in found:
        mine = wanted if by_group is None else by_group.get(key_of(group))
        answers.append(_answered(group, law, ask, mine))
    return {
        "command": "fit",
        "table": str(ask.question.path),
        "settings": _settings(ask, table, numbers, law),
        "rows": documents.rows(found),
        "notes": list(numbers.notes),
        "statuses": dict(Counter(answer["status"] for answer in answers)),
        "groups": answers,
        **({"predicted_by_no_group": unmatched(wanted, found)} if wanted else {}),
        "seconds": perf_counter() - started,
    }


def _settings(ask: Ask, table: Table, numbers: Sheet, law: Law) -> Document:
    """What was asked, as it was understood."""
    question = ask.question
    return {
        "law": law.name,
        "inputs": {name: str(numbers.sources[name]) for name in numbers.sources},
        "target": {"name": table.target, "column": str(table.mapped[table.target])},
        "by": list(question.by),
        "train": question.train or None,
        "exclude": question.exclude or None,
        "objective": ask.how.objective,
        "weights": question.weights or (f"1 / {question.se}^2" if question.se else None),
        "cluster": question.cluster,
        "intervals": ask.how.intervals,
        "resamples": ask.how.resamples,
        "seed": ask.how.seed,
        "level": ask.how.level,
        "predict": str(ask.predict) if ask.predict else None,
    }


def _answered(group: Group, law: Law, ask: Ask, wanted: Wanted | None) -> Document:
    started = perf_counter()
    found = fit(law, group.fitted, objective=ask.how.measure)
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
    method = cast(Method, ask.how.intervals if ask.how.resamples or ask.how.intervals == "profile" else "delta")
    return uncertainty(found, method=method, n=ask.how.resamples, seed=ask.how.seed, level=ask.how.level)


def _intervals(bounds: Uncertainty | None, ask: Ask, failed: str) -> Document:
    """Which method, and why."""
    if bounds is None:
        return {"method": None, "level": ask.how.level, "why": failed}
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
        "why": f"{'chosen' if ask.how.intervals == AUTO else 'asked for'}: {why}",
        "degrees_of_freedom": bounds.free,
        **({"resamples": len(bounds.draws), "seed": ask.how.seed} if resampled else {}),
    }


def _score(found: Fit, measured: Points) -> Document:
    usable = found.status.usable and len(measured) > 0
    document = documents.score(measured.y, found.predict(measured.x) if usable else np.full(len(measured), np.nan))
    return {**document, "n": len(measured)}
