"""Approaches to the frontier, their optima and how far they agree, as JSON has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.commands import documents
from analysis.commands.documents import Document, estimate, number
from analysis.optima.allocation import Approach, Optimum, Runs
from analysis.optima.isoflop import Minimum


def approach(found: Approach, rows: tuple[int, ...]) -> Document:
    return {
        "approach": found.number,
        "name": found.name,
        "status": found.status.key,
        "reason": found.reason,
        "warnings": list(found.warnings),
        "a": estimate(found.a) if found.a else dict(documents.NO_ESTIMATE),
        "b": estimate(found.b) if found.b else dict(documents.NO_ESTIMATE),
        "coefficient": number(found.coefficient),
        "optima": [optimum(one) for one in found.optima],
        **({"rows": [rows[i] for i in found.rows]} if found.number == 1 else {}),
        **({"minima": [_minimum(one, rows) for one in found.minima]} if found.number == 2 else {}),
        **({"parameters": {k: number(v) for k, v in found.fit.parameters.items()}} if found.fit else {}),
    }


def optimum(found: Optimum) -> Document:
    return {
        "budget": found.budget,
        "n_params": estimate(found.n_params),
        "n_images": estimate(found.n_images),
        "loss": estimate(found.y) if found.y else {**documents.NO_ESTIMATE, "reason": "this approach has no law"},
        "times_costliest_run": number(found.beyond),
        "notes": list(found.notes),
        **({"shares": {name: estimate(one) for name, one in found.shares.items()}} if found.shares else {}),
        **({"loss_over_best_run_mixture": estimate(found.gain)} if found.gain else {}),
        **({"unique_images": found.unique, "epochs": estimate(found.epochs)} if found.epochs else {}),
        **({"loss_over_unlimited_images": estimate(found.over_unlimited)} if found.over_unlimited else {}),
    }


def cost(runs: Runs) -> Document:
    """C = k N^power D; `largest`: of the costliest run."""
    largest = float(runs.flops.max()) if len(runs.flops) else None
    return {"k": number(runs.cost.k), "power_of_n": number(runs.cost.power), "largest": number(largest)}


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


def agreement(approaches: Sequence[Approach]) -> Document:
    """Whether the approaches' exponents could be one."""
    answered = [one for one in approaches if one.a]
    ends = [(one.a.low, one.a.high) for one in answered if one.a and np.isfinite((one.a.low, one.a.high)).all()]
    if len(ends) < 2:
        return {"status": "unknown", "reason": f"{len(ends)} approaches have an interval of a"}
    shared = max(low for low, _ in ends) <= min(high for _, high in ends)
    values = [one.a.value for one in answered if one.a]
    said = f"a from {min(values):.3f} to {max(values):.3f}"
    return {"status": "intervals_overlap" if shared else "intervals_differ", "reason": said}
