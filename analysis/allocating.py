"""`frontier TABLE.csv`: compute-optimal sizes of anybody's runs by every approach, as one document."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from analysis import documents
from analysis.allocation import Approach, Frontier, Optimum
from analysis.columns import Reader
from analysis.documents import Document, estimate, number
from analysis.flops import rate
from analysis.frontier import frontier
from analysis.how import How
from analysis.isoflop import Minimum
from analysis.laws import LAWS
from analysis.mapping import Source
from analysis.points import Index, Vector
from analysis.problems import InputError, unknown
from analysis.sheet import Group, Sheet, groups, sheet, text_of
from analysis.table import Question, Table, open_table

LAWS_OF_BOTH = ("chinchilla", "chinchilla_tied")
"""Whose optimum has a closed form."""
GPU_HOURS = "gpu_hours"
"""Name of the map: what a run held GPUs for, hours x GPUs."""


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What there is to spend."""

    flops: tuple[float, ...] = ()
    gpu_hours: tuple[float, ...] = ()
    flops_per_gpu_hour: float | None = None
    """None: what the costliest quarter of the runs reached, where the table says how long they took."""


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
    answers = [_answered(group, table, numbers, ask) for group in found if not group.left_out_by_user]
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
            "approaches": list(ask.approaches),
            "isoflop": ask.isoflop or None,
            "resamples": ask.how.resamples,
            "seed": ask.how.seed,
            "level": ask.how.level,
        },
        "rows": documents.rows(found),
        "notes": list(numbers.notes),
        "groups": answers,
        "seconds": perf_counter() - started,
    }


def _problems(ask: FrontierAsk) -> list[str]:
    found = list(ask.how.problems)
    if ask.law not in LAWS_OF_BOTH:
        found.append(f"--law: {unknown('law of N and D', ask.law, LAWS_OF_BOTH)}")
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
    if "images_seen" in mapped:
        mapped["n_images"] = mapped["images_seen"]
    has_flops = "train_flops" in mapped or "train_flops" in table.rows
    inputs = ("n_params", "n_images", *(("train_flops",) if has_flops else ()))
    plain = Table(**{**vars(table), "mapped": mapped})
    return sheet(plain, inputs, relative=ask.how.relative, law=ask.law)


def _answered(group: Group, table: Table, numbers: Sheet, ask: FrontierAsk) -> Document:
    """Numbers at the edge of what floats hold are no reason to warn: what comes of them is a status."""
    started = perf_counter()
    with np.errstate(all="ignore"):
        try:
            answer = _allocated(group, table, numbers, ask)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            if isinstance(error, InputError):
                raise
            # whatever odd numbers make of the linear algebra: the other groups have their answers
            answer = _broken(group, ask, f"{type(error).__name__}: {error}")
    return {**answer, "seconds": perf_counter() - started}


def _broken(group: Group, ask: FrontierAsk, reason: str) -> Document:
    """The shape of an answer without a number in it."""
    named = (("envelope", 1), ("parabola", 2), ("cubic", 2), (ask.law, 3))
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
    budgets, hours = _budgets(spent, rows, table, ask)
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
        "approaches": [_approach(one, group.fitted_rows) for one in found.approaches if one.number in ask.approaches],
        "agreement": _agreement(found),
    }


def _budgets(spent: Vector, rows: Index, table: Table, ask: FrontierAsk) -> tuple[list[float], Document]:
    """In FLOPs; and how GPU-hours became FLOPs, or why they could not."""
    asked = ask.budgets
    if not asked.gpu_hours:
        return list(asked.flops), {}
    per_hour, said = asked.flops_per_gpu_hour, "as given"
    if per_hour is None:
        source = table.mapped.get(GPU_HOURS) or (Source(column=GPU_HOURS) if GPU_HOURS in table.rows else None)
        if source is None:
            why = f"no column of GPU-hours: map {GPU_HOURS}=COLUMN, or give --flops-per-gpu-hour"
            return list(asked.flops), {"status": "unknown_rate", "reason": why, "flops_per_gpu_hour": None}
        reader = Reader(rows=table.rows, taken=~table.excluded, where=str(table.question.path))
        seconds = 3600 * reader.column(source)[rows]
        if reader.problems:
            raise InputError(reader.problems)
        measured = rate(spent, seconds)
        if measured is None:
            return list(asked.flops), {
                "status": "unknown_rate",
                "reason": "no run has both FLOPs and GPU-hours",
                "flops_per_gpu_hour": None,
            }
        per_hour = measured.flops_per_gpu_hour
        said = f"median of the costliest {measured.n_runs} runs, {measured.low:.3g} to {measured.high:.3g}"
    budgets = [hours * per_hour for hours in asked.gpu_hours]
    return [*asked.flops, *budgets], {
        "status": "known",
        "reason": said,
        "flops_per_gpu_hour": per_hour,
        "budgets": [{"gpu_hours": h, "flops": b} for h, b in zip(asked.gpu_hours, budgets, strict=True)],
    }


def _labels(table: Table, column: str, rows: Index) -> Index:
    texts = table.rows[column].iloc[rows].map(text_of)
    labels = {text: i for i, text in enumerate(dict.fromkeys(text for text in texts if text))}
    return np.array([labels.get(text, -1) for text in texts], np.int64)


def _approach(found: Approach, rows: tuple[int, ...]) -> Document:
    return {
        "approach": found.number,
        "name": found.name,
        "status": found.status.key,
        "reason": found.reason,
        "warnings": list(found.warnings),
        "a": estimate(found.a) if found.a else dict(documents.NO_ESTIMATE),
        "b": estimate(found.b) if found.b else dict(documents.NO_ESTIMATE),
        "coefficient": number(found.coefficient),
        "optima": [_optimum(one) for one in found.optima],
        **({"rows": [rows[i] for i in found.rows]} if found.number == 1 else {}),
        **({"minima": [_minimum(one, rows) for one in found.minima]} if found.number == 2 else {}),
        **({"parameters": {k: number(v) for k, v in found.fit.parameters.items()}} if found.fit else {}),
    }


def _optimum(found: Optimum) -> Document:
    return {
        "budget": found.budget,
        "n_params": estimate(found.n_params),
        "n_images": estimate(found.n_images),
        "loss": estimate(found.y) if found.y else {**documents.NO_ESTIMATE, "reason": "this approach has no law"},
        "times_costliest_run": number(found.beyond),
        "notes": list(found.notes),
    }


def _minimum(found: Minimum, rows: tuple[int, ...]) -> Document:
    return {
        "flops": number(found.flops),
        "rows": [rows[i] for i in found.rows],
        "smallest": number(found.sizes[0]),
        "largest": number(found.sizes[1]),
        "n_params": number(found.n_params),
        "log_se": number(found.log_se),
        "status": "found" if found.found else "no_minimum",
        "reason": found.reason,
    }


def _agreement(found: Frontier) -> Document:
    """Whether the approaches' exponents could be one."""
    answered = [one for one in found.approaches if one.a]
    ends = [(one.a.low, one.a.high) for one in answered if one.a and np.isfinite((one.a.low, one.a.high)).all()]
    if len(ends) < 2:
        return {"status": "unknown", "reason": f"{len(ends)} approaches have an interval of a"}
    shared = max(low for low, _ in ends) <= min(high for _, high in ends)
    values = [one.a.value for one in answered if one.a]
    said = f"a from {min(values):.3f} to {max(values):.3f}"
    return {"status": "intervals_overlap" if shared else "intervals_differ", "reason": said}
