"""`fit TABLE.csv`: a law fitted to each group of anybody's table, as one document. A failed group stops no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import cast

import numpy as np

from analysis.commands import categories, documents
from analysis.commands.categories import Across
from analysis.commands.documents import Bands, Document
from analysis.commands.how import How
from analysis.commands.wanted import Wanted, held_out, key_of, read_wanted, unmatched
from analysis.fit import Fit, Status, fit
from analysis.laws import ALIASES, FAMILIES, LAWS
from analysis.laws.across import across
from analysis.laws.law import Law
from analysis.points import Points, Vector
from analysis.select import LEFT_OUT, RIGID, Candidate, Selection, select, sizes_laws
from analysis.tables.problems import InputError, unknown
from analysis.tables.sheet import Group, Sheet, groups, sheet
from analysis.tables.table import INPUTS, SHARE, Question, Table, open_table, share_inputs
from analysis.uncertainty import Method, Uncertainty, uncertainty

AUTO = "auto"
JUDGED_WITHIN = "judged within the fitted rows alone: beyond them a single law of the candidates may foretell better"
"""What a choice cannot promise: on published curves it is not always the best (results/benchmarks.md)."""
OF_BOTH = ("chinchilla", "chinchilla_tied")
"""Laws to choose among where model and data sizes are there."""

ALL, CHOSEN = "all", "chosen"
SIZES = (AUTO, ALL, CHOSEN)
LEFT_OUT_ROWS = (
    "{n} rows of the smallest sizes are not in the fit: without them it foretells better; --sizes all fits them too"
)
SIZES_RULE = {
    ALL: "all sizes",
    CHOSEN: "the smallest 20 or 40 % of the sizes are left out where the larger fitted ones are then foretold twice as "
    "well from the smaller, judged within the fitted rows alone",
}

TOO_LARGE = "squares of the target leave the range of numbers; another unit in --map, or an objective of logarithms"


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What to fit to the table of a question, and how."""

    question: Question
    law: str
    """A name or alias of `LAWS`, or auto."""
    how: How
    sizes: str = AUTO
    """Which sizes a law is fitted to: all, or chosen by what foretells larger ones; auto is `sizes_of`."""
    predict: Path | None = None
    """A table with the same columns, or with our names, whose rows are to be predicted."""
    across: Across = field(default_factory=Across)
    """Its column is the question's."""


def fit_document(ask: Ask) -> Document:
    """Raises InputError with everything that is wrong with the question; what the data cannot answer is a status."""
    started = perf_counter()
    problems = [*ask.how.problems, *ask.across.problems, *_law_problems(ask), *_sizes_problems(ask)]
    try:
        table = open_table(ask.question, inputs=[name for law in LAWS.values() for name in law.inputs])
    except InputError as error:
        raise InputError([*problems, *error.problems]) from None
    if problems:
        raise InputError(problems)
    laws = _laws(ask, table)
    if ask.law in FAMILIES and (problems := ask.across.problems_with(laws[0])):
        raise InputError(problems)
    numbers = sheet(table, laws[0].inputs, relative=ask.how.relative, law=ask.law, may_be_zero=laws[0].may_be_zero)
    found = groups(table, numbers)
    wanted = read_wanted(ask.predict, table, numbers, laws[0]) if ask.predict else None
    by_group = wanted.by_group() if wanted and wanted.keys is not None else None
    answers = []
    for group in found:
        if group.left_out_by_user:
            continue  # counted, and no group of the answer
        mine = wanted if by_group is None else by_group.get(key_of(group))
        answers.append(_answered(group, laws, ask, mine))
    return {
        "command": "fit",
        "table": str(ask.question.path),
        "settings": _settings(ask, table, numbers, laws[0]),
        "rows": documents.rows(found),
        "notes": list(numbers.notes),
        "statuses": dict(Counter(answer["status"] for answer in answers)),
        "groups": answers,
        **({"predicted_by_no_group": unmatched(wanted, found)} if wanted else {}),
        "seconds": perf_counter() - started,
    }


def sizes_of(ask: Ask, law: Law) -> str:
    """ALL or CHOSEN: `auto` describes with all sizes and foretells with those that foretell.

    Chosen for `--law auto`; and, where rows are held out or to be predicted, for a law of one size with a limit, which
    early sizes of another regime bend most. Never for a power law that was named: its slope over all sizes is what
    studies publish.
    """
    if ask.sizes != AUTO:
        return ask.sizes
    if ask.law == AUTO:
        return CHOSEN
    foretells = bool(ask.question.train or ask.predict) and not ask.question.across
    return CHOSEN if foretells and len(law.inputs) == 1 and 2 < len(law.parameters) <= RIGID else ALL


def _sizes_problems(ask: Ask) -> list[str]:
    if ask.sizes not in SIZES:
        return [f"--sizes: {unknown('rule', ask.sizes, SIZES)}"]
    if ask.sizes != CHOSEN or ask.law == AUTO:
        return []
    able = [law.name for law in sizes_laws() if len(law.parameters) <= RIGID]
    if ALIASES.get(ask.law, ask.law) not in able or ask.question.across:
        laws = ", ".join(able)
        said = f"sizes are chosen for a law of one size that has no early part of its own ({laws}), without --across"
        return [f"--sizes: {said}; leave --sizes out, or --exclude rows"]
    return []


def _law_problems(ask: Ask) -> list[str]:
    """Of its name, and of parameters that it does not have."""
    said = ask.across.shared or ask.across.separate
    if ask.law == AUTO:
        return ["--shared, --separate: parameters of which law? name it with --law"] if said else []
    if ask.law in FAMILIES:
        return []  # its parameters are those of the table
    if ask.law not in LAWS and ask.law not in ALIASES:
        return [f"--law: {unknown('law', ask.law, (*LAWS, *ALIASES, *FAMILIES, AUTO))}"]
    return ask.across.problems_with(LAWS[ALIASES.get(ask.law, ask.law)])


def _laws(ask: Ask, table: Table) -> Sequence[Law]:
    """The law asked for, or all that the table's inputs allow: of both sizes where both are there, else of one."""
    if ask.law != AUTO:
        if ask.law in FAMILIES:
            law = FAMILIES[ask.law](tuple(name.removeprefix(SHARE) for name in share_inputs(table, ask.law)))
        else:
            law = LAWS[ALIASES.get(ask.law, ask.law)]
        if ask.question.x and "x" not in law.inputs:
            raise InputError(f"--x: the law {law.name} has the inputs {', '.join(law.inputs)}; map them with --map")
        return (law,)
    there = {*table.mapped, *(set(INPUTS) & set(table.rows.columns))}
    both = "x" not in table.mapped and "n_params" in there and there & {"n_images", "train_flops"}
    return [LAWS[name] for name in OF_BOTH] if both else sizes_laws()


def _settings(ask: Ask, table: Table, numbers: Sheet, law: Law) -> Document:
    """What was asked, as it was understood."""
    question = ask.question
    return {
        "law": ask.law,
        "inputs": {name: str(numbers.sources[name]) for name in numbers.sources},
        "target": {"name": table.target, "column": str(table.mapped[table.target])},
        "by": list(question.by),
        "across": question.across or None,
        "shared": list(ask.across.shared) or None,
        "separate": list(ask.across.separate) or None,
        "train": question.train or None,
        "exclude": question.exclude or None,
        "sizes": sizes_of(ask, law),
        "objective": ask.how.objective,
        "weights": question.weights or (f"1 / {question.se}^2" if question.se else None),
        "cluster": question.cluster,
        "intervals": ask.how.intervals,
        "resamples": ask.how.resamples,
        "seed": ask.how.seed,
        "level": ask.how.level,
        "predict": str(ask.predict) if ask.predict else None,
    }


def _answered(group: Group, laws: Sequence[Law], ask: Ask, wanted: Wanted | None) -> Document:
    """Numbers at the edge of what floats hold are no reason to warn: what comes of them is a status."""
    started = perf_counter()
    with np.errstate(all="ignore"):
        try:
            if not ask.how.relative and not np.isfinite((group.fitted.y**2).sum()):
                answer = _broken(group, laws[0], ask, wanted, TOO_LARGE) | {"status": Status.NOT_FINITE.key}
            else:
                answer = _fitted(group, laws, ask, wanted)
        except (ArithmeticError, ValueError, MemoryError, np.linalg.LinAlgError) as error:
            # whatever odd numbers make of the linear algebra: the other groups have their answers
            answer = _broken(group, laws[0], ask, wanted, f"{type(error).__name__}: {error}")
    return {**answer, "seconds": perf_counter() - started}


def _fitted(group: Group, laws: Sequence[Law], ask: Ask, wanted: Wanted | None) -> Document:
    chosen, base, given = None, laws[0], group.fitted
    sure, names = _once(ask), group.categories
    sizes = sizes_of(ask, base)
    parts = LEFT_OUT if sizes == CHOSEN else (0.0,)
    if ask.law == AUTO:
        whole = {law.name: law for law in laws}
        all_own = [across(law, names, law.names) for law in laws] if names else laws
        chosen = select(given, all_own, objective=ask.how.measure, scale=_scale(given, base), parts=parts, sure=sure)
        found = (chosen.winner or chosen.candidates[0]).fit
        base, given = whole[found.law.name], found.points
    if names:
        patterns = categories.tried(base, names, given, ask.across)
        law = across(base, names, ask.across.separated(base, patterns))
        found = fit(law, given, objective=ask.how.measure)
    elif not chosen:
        found = _named(base, given, ask, sizes)
    law = found.law
    bounds = sure(found) if found.status.usable else None
    choice = chosen if chosen and chosen.winner and not names else None
    bands: Bands | None = choice or bounds
    failed = "" if bounds else f"no fit: {found.reason}"
    others = held_out(group, base.inputs, ask.question.across)
    unseen = group.held_out.chosen(group.held_out.x[:, -1] > 0) if names else group.held_out
    wanted = wanted.placed(group) if wanted else None
    warnings = list(bounds.warnings) if bounds else []
    warnings += categories.doubts(ask.across, patterns, base) if names else []
    if left_out := len(group.fitted) - len(found.points):
        warnings.append(LEFT_OUT_ROWS.format(n=left_out))
    answer: Document = {
        "group": group.key,
        "law": law.name,
        "formula": law.formula,
        "source": law.source,
        "status": found.status.key,
        "reason": found.reason,
        "warnings": warnings,
        "rows": documents.rows([group]),
        "sizes": {"rule": SIZES_RULE[sizes], "rows_left_out": left_out},
        "objective": documents.objective(found),
        "intervals": _intervals(bounds, ask, failed),
        "parameters": documents.parameters(found, bounds),
        "derived": documents.derived(found, bounds),
        "fitted": _score(found, group.fitted),
        "held_out": {
            **_score(choice or found, unseen),
            "reason": failed or ("" if len(group.held_out) else "no rows are held out"),
            "predictions": documents.predictions(bands, others, group.fitted, failed),
        },
    }
    if ask.predict:
        answer["predictions"] = documents.predictions(bands, wanted, group.fitted, failed) if wanted else []
    if names:
        answer["across"] = categories.document(base, names, given, ask.across, patterns, level=ask.how.level)
    if chosen:
        answer["choice"] = {"reason": chosen.reason, "sizes_fitted": list(chosen.cuts), "note": JUDGED_WITHIN}
        answer["candidates"] = [_candidate(one, group, unseen) for one in chosen.candidates]
    return answer


def _named(law: Law, given: Points, ask: Ask, sizes: str) -> Fit:
    """The law asked for."""
    if sizes == CHOSEN:
        return select(given, [law], objective=ask.how.measure).candidates[0].fit
    return fit(law, given, objective=ask.how.measure)


def _once(ask: Ask) -> Callable[[Fit], Uncertainty]:
    """Each fit's uncertainty, computed when first wanted and once, as resamples take longer than the fit."""
    known: dict[int, Uncertainty] = {}

    def sure(of: Fit) -> Uncertainty:
        if id(of) not in known:
            known[id(of)] = _bounds(of, ask)
        return known[id(of)]

    return sure


def _scale(given: Points, law: Law) -> Vector:
    """(n,) by which rows are smaller or larger: the product of the sizes; neither categories nor shares are sizes."""
    sizes = [i for i, name in enumerate(law.inputs) if not name.startswith(SHARE)]
    return np.asarray(np.prod(given.x[:, sizes], axis=1))


def _candidate(one: Candidate, group: Group, unseen: Points) -> Document:
    """`score`: root mean squared log error of the larger sizes as foretold from the smaller; none of it held out."""
    return {
        "law": one.law.name,
        "formula": one.law.formula,
        "score": documents.number(one.score),
        "errors": [{"sizes_fitted": cut, "rmsle": documents.number(error)} for cut, error in one.errors.items()],
        "weight": one.weight,
        "rows_left_out": len(group.fitted) - len(one.fit.points),
        "status": one.fit.status.key,
        "reason": one.reason,
        "objective": documents.objective(one.fit),
        "parameters": {name: documents.number(value) for name, value in one.fit.parameters.items()},
        "held_out": _score(one.fit, unseen),
    }


def _broken(group: Group, law: Law, ask: Ask, wanted: Wanted | None, reason: str) -> Document:
    """The shape of an answer without a number in it."""
    nothing = {"sum": None, "mean": None}
    others = held_out(group, law.inputs, ask.question.across)
    wanted = wanted.placed(group) if wanted else None
    answer: Document = {
        "group": group.key,
        "law": law.name,
        "formula": law.formula,
        "source": law.source,
        "status": "not_computable",
        "reason": reason,
        "warnings": [],
        "rows": documents.rows([group]),
        "sizes": {"rule": SIZES_RULE[sizes_of(ask, law)], "rows_left_out": 0},
        "objective": {"name": ask.how.objective, "delta": ask.how.measure.delta, **nothing},
        "intervals": _intervals(None, ask, reason),
        "parameters": {p.name: {**documents.NO_ESTIMATE, "meaning": p.meaning} for p in law.parameters},
        "derived": {one.name: {**documents.NO_ESTIMATE, "meaning": one.meaning} for one in law.derived},
        "fitted": documents.score(group.fitted.y, None),
        "held_out": {
            **documents.score(group.held_out.y, None),
            "reason": reason,
            "predictions": documents.predictions(None, others, group.fitted, reason),
        },
    }
    if ask.predict:
        answer["predictions"] = documents.predictions(None, wanted, group.fitted, reason) if wanted else []
    return answer


def _bounds(found: Fit, ask: Ask) -> Uncertainty:
    method = cast(Method, ask.how.intervals if ask.how.resamples or ask.how.intervals == "profile" else "delta")
    return uncertainty(found, method=method, n=ask.how.resamples, seed=ask.how.seed, level=ask.how.level)


def _intervals(bounds: Uncertainty | None, ask: Ask, failed: str) -> Document:
    """Which method, and why."""
    if bounds is None:
        return {"method": None, "level": ask.how.level, "why": failed}
    resampled = bounds.method in ("bootstrap", "parametric", "wild")
    clusters = len(np.unique(bounds.fit.points.clusters))
    why = {
        "bootstrap": f"cases resampled by cluster; {clusters} clusters",
        "parametric": f"normal noise drawn anew; {clusters} clusters are too few to resample cases",
        "wild": f"residuals resampled by cluster; {clusters} clusters",
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


def _score(found: Fit | Selection, measured: Points) -> Document:
    usable = found.status.usable if isinstance(found, Fit) else found.winner is not None
    return documents.score(measured.y, found.predict(measured.x) if usable and len(measured) else None)
