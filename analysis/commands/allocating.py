"""`frontier TABLE.csv`: compute-optimal sizes of anybody's runs by every approach, as one document."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from analysis.commands import documents, mixing, repeating
from analysis.commands.approaches import agreement, approach
from analysis.commands.documents import Document, number
from analysis.commands.how import How
from analysis.commands.mixing import Mixed
from analysis.commands.spending import GPU_HOURS, Budgets, in_flops
from analysis.laws import LAWS
from analysis.optima.frontier import frontier
from analysis.points import Index
from analysis.tables.problems import InputError, unknown
from analysis.tables.sheet import Group, Sheet, groups, sheet, text_of
from analysis.tables.table import Question, Table, open_table, share_inputs

LAWS_OF_BOTH = ("chinchilla", "chinchilla_tied")
"""Whose optimum has a closed form."""
MIXTURE, CONSTRAINED = "mixture", "constrained"
ALONE = (MIXTURE, CONSTRAINED)
"""Laws that know of what approaches 1 and 2 do not."""

NOTES = {MIXTURE: [mixing.NOTE], CONSTRAINED: [repeating.NOTE]}


@dataclass(frozen=True, kw_only=True)
class FrontierAsk:
    """What to find of the runs of a table, and how."""

    question: Question
    budgets: Budgets
    how: How
    law: str = "chinchilla"
    approaches: tuple[int, ...] = (1, 2, 3)
    isoflop: str = ""
    """Column of budget labels; empty: runs of nearly equal FLOPs are found."""
    flops_per: float | None = None
    """C / (N D); None: measured where FLOPs are mapped, else 6."""
    unique: tuple[float, ...] = ()
    """Images there are, of the law of repeats."""


def frontier_document(ask: FrontierAsk) -> Document:
    """Raises InputError with everything that is wrong with the question; what the runs cannot answer is a status."""
    started = perf_counter()
    problems = _problems(ask)
    try:
        table = open_table(ask.question, inputs=(GPU_HOURS,))
        if ask.isoflop and ask.isoflop not in table.rows:
            problems.append(f"--isoflop: {unknown('column', ask.isoflop, table.rows.columns)}")
    except InputError as error:
        raise InputError([*problems, *error.problems]) from None
    if problems:
        raise InputError(problems)
    numbers = _numbers(table, ask)
    found = groups(table, numbers)
    asked = [group for group in found if not group.left_out_by_user]
    mixed: list[Mixed] = []
    answers = [_answered(group, table, numbers, ask, mixed) for group in asked]
    return {
        "command": "frontier",
        "table": str(ask.question.path),
        "settings": {
            "law": ask.law,
            "inputs": {name: str(source) for name, source in numbers.sources.items()},
            "target": {"name": table.target, "column": str(table.mapped[table.target])},
            "by": list(ask.question.by),
            "exclude": ask.question.exclude or None,
            "objective": ask.how.objective,
            "approaches": [3] if ask.law in ALONE else list(ask.approaches),
            "isoflop": ask.isoflop or None,
            "unique": list(ask.unique) or None,
            "resamples": ask.how.resamples,
            "seed": ask.how.seed,
            "level": ask.how.level,
        },
        "rows": documents.rows(found),
        "notes": [*numbers.notes, *NOTES.get(ask.law, [])],
        "groups": answers,
        **({"together": _together(mixed, table, ask)} if ask.law == MIXTURE and len(asked) > 1 else {}),
        "seconds": perf_counter() - started,
    }


def _problems(ask: FrontierAsk) -> list[str]:
    found = list(ask.how.problems)
    if ask.law not in (*LAWS_OF_BOTH, *ALONE):
        found.append(f"--law: {unknown('law of N and D', ask.law, (*LAWS_OF_BOTH, *ALONE))}")
    if ask.law in ALONE and 3 not in ask.approaches:
        found.append(f"--approach: --law {ask.law} is approach 3, and the others know no such law; add 3")
    if ask.law in ALONE and ask.isoflop:
        found.append(f"--isoflop: is of approach 2, which --law {ask.law} leaves out; leave it out too")
    if ask.law == CONSTRAINED and not ask.unique:
        found.append("--unique: how many images there are, which --law constrained needs; such as --unique 2e7")
    if ask.law != CONSTRAINED and ask.unique:
        found.append(f"--unique: is of --law constrained, and {ask.law} knows of no repeats; leave it out")
    found += [f"--unique: {value:g} is no number of images" for value in ask.unique if not 1 <= value < np.inf]
    for option, values in (("--budget", ask.budgets.flops), ("--gpu-hours", ask.budgets.gpu_hours)):
        found += [f"{option}: {value:g} is no budget; positive numbers" for value in values if not 0 < value < np.inf]
    for option, value in (("--flops-per", ask.flops_per), ("--flops-per-gpu-hour", ask.budgets.flops_per_gpu_hour)):
        if value is not None and not 0 < value < np.inf:
            found.append(f"{option}: {value:g}; a positive number")
    if bad := [n for n in ask.approaches if n not in (1, 2, 3)]:
        found.append(f"--approach: there is no approach {bad[0]}; 1, 2, 3 or several of them")
    return found


def _numbers(table: Table, ask: FrontierAsk) -> Sheet:
    """N, D and, where the table has it, C. What FLOPs grow with is images seen, where those are mapped."""
    mapped = dict(table.mapped)
    if "images_seen" in mapped and ask.law != CONSTRAINED:
        mapped["n_images"] = mapped["images_seen"]
    has_flops = "train_flops" in mapped or "train_flops" in table.rows
    shares = share_inputs(table, ask.law) if ask.law == MIXTURE else ()
    sizes = repeating.INPUTS if ask.law == CONSTRAINED else ("n_params", "n_images")
    inputs = (*sizes, *shares, *(("train_flops",) if has_flops else ()))
    plain = Table(**{**vars(table), "mapped": mapped})
    return sheet(plain, inputs, relative=ask.how.relative, law=ask.law, may_be_zero=shares)


def _answered(group: Group, table: Table, numbers: Sheet, ask: FrontierAsk, mixed: list[Mixed]) -> Document:
    """Numbers at the edge of what floats hold are no reason to warn: what comes of them is a status. What an answer
    for all groups together takes of a mixture is added to `mixed`."""
    started = perf_counter()
    with np.errstate(all="ignore"):
        try:
            if ask.law == MIXTURE:
                answer, part = mixing.mixed(group, table, numbers, ask.budgets, ask.flops_per, ask.how)
                mixed.append(part)
            elif ask.law == CONSTRAINED:
                answer = repeating.repeated(group, table, numbers, ask.budgets, ask.unique, ask.flops_per, ask.how)
            else:
                answer = _allocated(group, table, numbers, ask)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            if isinstance(error, InputError):
                raise
            # whatever odd numbers make of the linear algebra: the other groups have their answers
            answer = _broken(group, ask, f"{type(error).__name__}: {error}")
    return {**answer, "seconds": perf_counter() - started}


def _together(mixed: list[Mixed], table: Table, ask: FrontierAsk) -> Document:
    with np.errstate(all="ignore"):
        try:
            return mixing.for_all(mixed, table, ask.budgets, ask.flops_per, ask.how)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            if isinstance(error, InputError):
                raise
            return mixing.not_joined(f"{type(error).__name__}: {error}")


def _broken(group: Group, ask: FrontierAsk, reason: str) -> Document:
    """The shape of an answer without a number in it."""
    named = [("envelope", 1), ("parabola", 2), ("cubic", 2), (ask.law, 3)]
    named = named[3:] if ask.law in ALONE else named
    blank: Document = {"status": "not_computable", "reason": reason, "warnings": [], "coefficient": None, "optima": []}
    nothing = {"a": dict(documents.NO_ESTIMATE), "b": dict(documents.NO_ESTIMATE)}
    return {
        "group": group.key,
        "rows": documents.rows([group]),
        "flops": {"k": None, "power_of_n": None, "largest": None},
        "warnings": [],
        "approaches": [{"approach": n, "name": name, **blank, **nothing} for name, n in named if n in ask.approaches],
        "agreement": {"status": "unknown", "reason": reason},
    }


def _allocated(group: Group, table: Table, numbers: Sheet, ask: FrontierAsk) -> Document:
    points, rows = group.fitted, np.array(group.fitted_rows, np.int64) - 1
    flops = points.x[:, 2] if len(numbers.inputs) > 2 else None
    spent = flops if flops is not None else (ask.flops_per or 6.0) * points.x[:, 0] * points.x[:, 1]
    budgets, hours = in_flops(ask.budgets, spent, rows, table)
    found = frontier(
        points.x[:, 0],
        points.x[:, 1],
        points.y,
        flops=flops,
        flops_per=ask.flops_per,
        budgets=budgets,
        groups=_labels(table, ask.isoflop, rows) if ask.isoflop else None,
        weights=points.weights,
        clusters=points.clusters,
        law=LAWS[ask.law],
        objective=ask.how.measure,
        n_bootstrap=ask.how.resamples,
        seed=ask.how.seed,
        level=ask.how.level,
    )
    return {
        "group": group.key,
        "rows": documents.rows([group]),
        "flops": {
            "k": number(found.flops.k),
            "power_of_n": number(found.flops.power),
            "largest": number(found.largest),
        },
        **({"gpu_hours": hours} if ask.budgets.gpu_hours else {}),
        "warnings": list(found.warnings),
        "approaches": [approach(one, group.fitted_rows) for one in found.approaches if one.number in ask.approaches],
        "agreement": agreement(found.approaches),
    }


def _labels(table: Table, column: str, rows: Index) -> Index:
    texts = table.rows[column].iloc[rows].map(text_of)
    labels = {text: i for i, text in enumerate(dict.fromkeys(text for text in texts if text))}
    return np.array([labels.get(text, -1) for text in texts], np.int64)
