"""One law across categories (SSL algorithms, mixtures): parameters that all share, and parameters of each their own.

Where algorithms differ in how far above the curve they start but not in how they scale, sharing the exponent makes it
known from all their runs; where they do not, `analysis.compare.sharing` says so.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis.laws.law import Derived, Law
from analysis.points import Index, Matrix, Stack, Vector

GROUP = "group"
"""Last input: 1, 2, ... in the order of the categories."""
JOINT, TOGETHER = 48, 16
"""Starts kept: of the law on all points, and of each category on its own, combined by rank."""


def across(base: Law, groups: tuple[str, ...], separate: tuple[str, ...]) -> Law:
    """`base` with one more input, the category; those named in `separate` come once per category, as name[category].

    Raises ValueError for a parameter that `base` does not have.
    """
    if unknown := sorted(set(separate) - set(base.names)):
        raise ValueError(f"law {base.name} has no parameter {', '.join(unknown)}; it has {', '.join(base.names)}")
    own = {name: name in separate for name in base.names}
    columns = _columns(base, own, len(groups))
    parameters, example = [], {}
    for parameter in base.parameters:
        for group in groups if own[parameter.name] else groups[:1]:
            one = replace(parameter, name=f"{parameter.name}[{group}]", meaning=f"{parameter.meaning}, {group}")
            parameters.append(one if own[parameter.name] else parameter)
            example[parameters[-1].name] = base.example[parameter.name]
    example_x = np.concatenate(
        [np.column_stack([base.example_x, np.full(len(base.example_x), i + 1.0)]) for i in range(len(groups))]
    )
    return Law(
        name=base.name,
        formula=f"{base.formula}; of each category its own: {', '.join(separate) or 'nothing'}",
        source=base.source,
        inputs=(*base.inputs, GROUP),
        parameters=tuple(parameters),
        evaluate=lambda x, thetas: _evaluate(base, columns, x, thetas),
        bounds=lambda x, y: _bounds(base, columns, x, y),
        starts=lambda x, y: _starts(base, columns, x, y),
        unidentified=lambda x: _unidentified(base, groups, bool(separate), x),
        derived=_derived(base, groups, columns),
        may_be_zero=base.may_be_zero,
        example=example,
        example_x=example_x,
    )


def _columns(base: Law, own: dict[str, bool], n_groups: int) -> Index:
    """(n_groups, p) where in theta each category finds the parameters of `base`."""
    columns, at = np.empty((n_groups, len(base.parameters)), np.int64), 0
    for j, name in enumerate(base.names):
        n = n_groups if own[name] else 1
        columns[:, j] = at + np.arange(n)
        at += n
    return columns


def _parts(x: Matrix, columns: Index) -> list[tuple[Index, Matrix, Index]]:
    """Of each category that has points: their places, their inputs without the category, its columns of theta."""
    which = x[:, -1].astype(np.int64) - 1
    places = [(np.flatnonzero(which == g), own) for g, own in enumerate(columns)]
    return [(rows, x[rows, :-1], own) for rows, own in places if len(rows)]


def _evaluate(base: Law, columns: Index, x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    curves = np.empty((len(thetas), len(x)))
    jacobians = np.zeros((len(thetas), len(x), thetas.shape[1]))
    for rows, inputs, own in _parts(x, columns):
        curves[:, rows], jacobian = base.evaluate(inputs, thetas[:, own])
        for j, column in enumerate(own):
            jacobians[:, rows, column] = jacobian[..., j]
    return curves, jacobians


def _bounds(base: Law, columns: Index, x: Matrix, y: Vector) -> tuple[Vector, Vector]:
    """A shared parameter may go wherever it may in any category."""
    p = int(columns.max()) + 1
    low, high = np.full(p, np.inf), np.full(p, -np.inf)
    for rows, inputs, own in _parts(x, columns):
        bottom, top = base.bounds(inputs, y[rows])
        low[own], high[own] = np.minimum(low[own], bottom), np.maximum(high[own], top)
    return np.where(np.isinf(low) & (low > 0), -np.inf, low), np.where(np.isinf(high) & (high < 0), np.inf, high)


def _starts(base: Law, columns: Index, x: Matrix, y: Vector) -> Matrix:
    """All categories alike, from all points; and each from its own points, shared parameters at their median."""
    p = int(columns.max()) + 1
    joint = _ranked(base, x[:, :-1], y)[:JOINT]
    alike = np.empty((len(joint), p))
    alike[:, columns.ravel()] = np.tile(joint, len(columns))
    alone = [(own, _ranked(base, inputs, y[rows])[:TOGETHER]) for rows, inputs, own in _parts(x, columns)]
    n = min(len(ranked) for _, ranked in alone)
    proposals = np.full((len(alone), n, p), np.nan)
    for g, (own, ranked) in enumerate(alone):
        proposals[g][:, own] = ranked[:n]
    combined = np.where(np.isnan(proposals).all(axis=0), alike[0], np.nan)
    seen = ~np.isnan(proposals).all(axis=(0, 1))
    combined[:, seen] = np.nanmedian(proposals[:, :, seen], axis=0)
    return np.concatenate([alike, combined])


def _ranked(base: Law, x: Matrix, y: Vector) -> Matrix:
    """The law's starts within its bounds, those nearest to the points first."""
    if len(np.unique(x, axis=0)) < 2:  # one size: no line to start from
        middle = base.theta(base.example)
        middle[0] = np.log(y).mean() if base.parameters[0].log else middle[0]
        return middle[None]
    low, high = base.bounds(x, y)
    starts = np.clip(base.starts(x, y), low, high)
    with np.errstate(over="ignore", under="ignore"):
        misses = np.abs(base.evaluate(x, starts)[0] - np.log(y)).mean(axis=1)
    return starts[np.argsort(misses, kind="stable")]


def _unidentified(base: Law, groups: tuple[str, ...], any_own: bool, x: Matrix) -> str:
    if why := base.unidentified(x[:, :-1]):
        return why
    n = [int((x[:, -1] == g + 1).sum()) for g in range(len(groups))]
    missing = [group for group, count in zip(groups, n, strict=True) if any_own and count == 0]
    return f"no point of {', '.join(missing)}" if missing else ""


def _derived(base: Law, groups: tuple[str, ...], columns: Index) -> tuple[Derived, ...]:
    def of_group(derived: Derived, own: Index) -> Derived:
        return replace(derived, compute=lambda thetas: derived.compute(thetas[:, own]))

    return tuple(
        replace(of_group(derived, own), name=f"{derived.name}[{group}]")
        for derived in base.derived
        for group, own in zip(groups, columns, strict=True)
    )
