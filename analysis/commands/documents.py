"""Answers as JSON has them: plain dicts, a missing number null, and beside it a status that says why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from analysis.commands.wanted import Wanted
from analysis.fit import Fit
from analysis.points import Index, Matrix, Points, Vector
from analysis.tables.columns import shares_of
from analysis.tables.sheet import Fate, Group
from analysis.uncertainty import Band, Estimate, Uncertainty

Document = dict[str, Any]
MOST_ROWS = 20
"""Numbers of excluded rows that are listed; all are counted."""


def number(value: float | None) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return None if value is None or not np.isfinite(value) else float(value)


def estimate(found: Estimate) -> Document:
    return {
        "value": number(found.value),
        "se": number(found.se),
        "low": number(found.low),
        "high": number(found.high),
        "status": _known(found),
    }


def _known(found: Estimate) -> str:
    """What a null beside it means."""
    if not np.isfinite(found.value):
        return "no_value"
    if np.isnan(found.low) or np.isnan(found.high):
        return "no_interval"
    if np.isinf(found.low) or np.isinf(found.high):
        return "open_interval"
    return "estimated"


NO_ESTIMATE: Document = {"value": None, "se": None, "low": None, "high": None, "status": "no_value"}


def parameters(found: Fit, bounds: Uncertainty | None) -> Document:
    """By name: the natural value with its interval, and its logarithm where that is fitted."""
    natural = bounds.parameters() if bounds else {}
    document = {}
    for i, parameter in enumerate(found.law.parameters):
        of = estimate(natural[parameter.name]) if bounds else dict(NO_ESTIMATE)
        if parameter.log:
            of["log"] = estimate(bounds.of(lambda thetas, i=i: thetas[:, i])) if bounds else dict(NO_ESTIMATE)  # type: ignore[misc]
        document[parameter.name] = {**of, "meaning": parameter.meaning}
    return document


def derived(found: Fit, bounds: Uncertainty | None) -> Document:
    return {
        one.name: {**(estimate(bounds.of(one.compute)) if bounds else NO_ESTIMATE), "meaning": one.meaning}
        for one in found.law.derived
    }


def objective(found: Fit) -> Document:
    """The sum is what was made small; the mean is for comparing fits to other numbers of rows."""
    rows = len(found.points)
    value = number(found.value)
    return {
        "name": found.objective.name,
        "delta": found.objective.delta,
        "sum": value,
        "mean": None if value is None or not rows else value / rows,
    }


def rows(groups: Iterable[Group]) -> Document:
    """Counts that add up: total = fitted + held_out + excluded."""
    groups = list(groups)
    reasons: dict[tuple[str, str], list[int]] = {}
    for fate in (fate for group in groups for fate in group.excluded):
        reasons.setdefault((fate.reason, fate.what), []).extend(fate.rows)
    return {
        "total": sum(group.total for group in groups),
        "used": sum(len(group.fitted) for group in groups),
        "held_out": sum(len(group.held_out) for group in groups),
        "excluded": sum(map(len, reasons.values())),
        "exclusions": [
            _exclusion(Fate(reason=reason, what=what, rows=tuple(sorted(numbers))))
            for (reason, what), numbers in reasons.items()
        ],
    }


def _exclusion(fate: Fate) -> Document:
    key = "expression" if fate.reason == "excluded" else "column"
    return {"reason": fate.reason, key: fate.what, "rows": len(fate.rows), "row_numbers": list(fate.rows[:MOST_ROWS])}


def score(measured: Vector, predicted: Vector | None) -> Document:
    """How near predictions come: root mean square of ln(predicted / measured), and |predicted / measured - 1|."""
    if not len(measured) or predicted is None:
        return {"n": len(measured), "rmsle": None, "mean_relative_error": None, "median_relative_error": None}
    with np.errstate(all="ignore"):
        logs, relative = np.log(predicted / measured), np.abs(predicted / measured - 1)
        return {
            "n": len(measured),
            "rmsle": number(float(np.sqrt(np.mean(logs**2)))),
            "mean_relative_error": number(float(np.mean(relative))),
            "median_relative_error": number(float(np.median(relative))),
        }


class Bands(Protocol):
    """What predicts with intervals: the uncertainty of one fit, or a choice among several."""

    def curve(self, x: Matrix) -> Band: ...

    def new_runs(self, x: Matrix) -> Band: ...


def predictions(bands: Bands | None, wanted: Wanted, fitted: Points, failed: str) -> list[Document]:
    """One for each row wanted, with nulls and a reason where there is none; `failed`: why there is none at all.

    low, high: of the curve there; `new_run`: where the result of one more run would lie.
    """
    x, y, sizes = wanted.x, wanted.y, _sizes(wanted)
    value, low, high, new_low, new_high = np.full((5, len(x)), np.nan)
    good = np.array([not reason for reason in wanted.unfit], bool) & (bands is not None)
    if bands and good.any():
        value[good], low[good], high[good] = bands.curve(x[good])
        _, new_low[good], new_high[good] = bands.new_runs(x[good])
    return [
        {
            "row": row,
            "inputs": {
                **{name: number(x[i, j]) for j, name in enumerate(wanted.inputs)},
                **({wanted.across: wanted.categories[i]} if wanted.across else {}),
            },
            "observed": number(y[i]),
            "value": number(value[i]),
            "low": number(low[i]),
            "high": number(high[i]),
            "new_run": {"low": number(new_low[i]), "high": number(new_high[i])},
            "times_largest_fitted": number(_times(x[i], fitted.x, sizes, wanted)) if good[i] else None,
            "status": _predicted(bool(good[i]), value[i], low[i], high[i]),
            "reason": wanted.unfit[i] or failed,
        }
        for i, row in enumerate(wanted.numbers)
    ]


def _sizes(wanted: Wanted) -> Index:
    """Places of the inputs that may be larger than what was fitted: all but shares."""
    shares = set(shares_of(wanted.inputs))
    return np.array([j for j in range(len(wanted.inputs)) if j not in shares], np.int64)


def _times(x: Vector, fitted: Matrix, sizes: Index, wanted: Wanted) -> float:
    """x over the largest fitted of its category."""
    alike = fitted[fitted[:, -1] == x[-1]] if wanted.across else fitted
    return float(np.max(x[sizes] / alike[:, sizes].max(axis=0)))


def _predicted(good: bool, value: float, low: float, high: float) -> str:
    if not good:
        return "not_predicted"
    if not np.isfinite(value):
        return "not_finite"
    return "predicted" if np.isfinite(low) and np.isfinite(high) else "no_interval"
