"""`frontier TABLE.csv --law mixture`: for each group the best sizes and mixture, and one for all groups together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.commands import approaches, documents
from analysis.commands.blending import Blend, Together, blend, together
from analysis.commands.documents import Document, estimate
from analysis.commands.how import How
from analysis.commands.spending import Budgets, in_flops
from analysis.optima.allocation import Answer, Approach, runs_of
from analysis.optima.frontier import cost_warnings
from analysis.points import Index, Matrix, Vector
from analysis.tables.sheet import Group, Sheet
from analysis.tables.table import SHARE, Table

NOTE = "approaches 1 and 2 read no mixtures: the law answers alone, with its optimum in N, D and shares at once"
NOT_JOINED = "not_joined"


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """A group's runs and what came of them."""

    key: Mapping[str, Any]
    points: Matrix
    """(n, 2 + k) N, D and shares."""
    flops: Vector | None
    """(n,) as the table has them."""
    rows: Index
    found: Blend


def mixed(
    group: Group, table: Table, numbers: Sheet, budgets: Budgets, flops_per: float | None, how: How
) -> tuple[Document, Mixed]:
    """The group's answer, and what an answer for all groups takes of it."""
    shares = [name for name in numbers.inputs if name.startswith(SHARE)]
    k, rows = len(shares), np.array(group.fitted_rows, np.int64) - 1
    x, flops = group.fitted.x[:, : 2 + k], group.fitted.x[:, 2 + k] if len(numbers.inputs) > 2 + k else None
    runs = runs_of(x[:, 0], x[:, 1], flops, group.fitted.y, flops_per)
    asked, hours = in_flops(budgets, runs.flops, rows, table)
    of_law = replace(group.fitted, x=x)
    try:
        found = blend(runs, of_law, [name.removeprefix(SHARE) for name in shares], asked, how)
    except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
        # whatever odd numbers make of the linear algebra: the group counts as one without an answer
        reason = f"{type(error).__name__}: {error}"
        found = Blend(approach=Approach(name="mixture", number=3, status=Answer.NO_FIT, reason=reason))
    document = {
        "group": group.key,
        "rows": documents.rows([group]),
        "flops": approaches.cost(runs),
        **({"gpu_hours": hours} if budgets.gpu_hours else {}),
        "warnings": list(cost_warnings(runs.cost)),
        "modalities": list(found.modalities),
        "absent_modalities": list(found.absent),
        "gamma": estimate(found.gamma) if found.gamma else dict(documents.NO_ESTIMATE),
        "approaches": [approaches.approach(found.approach, group.fitted_rows)],
        "agreement": approaches.agreement([found.approach]),
    }
    return document, Mixed(key=group.key, points=x, flops=flops, rows=rows, found=found)


def for_all(parts: Sequence[Mixed], table: Table, budgets: Budgets, flops_per: float | None, how: How) -> Document:
    """The mixture, model and data size that make the mean over groups of the log error least."""
    x = np.concatenate([part.points for part in parts])
    given = [part.flops for part in parts if part.flops is not None]
    runs = runs_of(x[:, 0], x[:, 1], np.concatenate(given) if given else None, np.empty(0), flops_per)
    asked, hours = in_flops(budgets, runs.flops, np.concatenate([part.rows for part in parts]), table)
    names = [", ".join(f"{name} {value}" for name, value in part.key.items()) for part in parts]
    found = together([part.found for part in parts], names, runs, asked, how)
    drawn = found.draws
    return {
        "status": found.status.key if found.status else NOT_JOINED,
        "reason": found.reason,
        "warnings": list(found.warnings),
        "groups": [dict(parts[i].key) for i in found.members],
        "modalities": list(found.modalities),
        "flops": approaches.cost(runs),
        **({"gpu_hours": hours} if budgets.gpu_hours else {}),
        "intervals": {
            "method": drawn.method if drawn else None,
            "level": how.level,
            "luck": None if drawn is None else "of the same runs, in common" if drawn.together else "independent",
        },
        "optima": _optima(found, [dict(parts[i].key) for i in found.members]),
    }


def _optima(found: Together, keys: Sequence[Document]) -> list[Document]:
    """`loss` is the geometric mean over groups; `loss_over_own` what a group pays for sharing, 1 for nothing."""
    return [
        {
            **approaches.optimum(best),
            "groups": [
                {"group": key, "loss": estimate(one.y), "loss_over_own": estimate(one.over_own)}
                for key, one in zip(keys, losses, strict=True)
            ],
        }
        for best, losses in zip(found.optima, found.losses, strict=True)
    ]


def not_joined(reason: str) -> Document:
    """The shape of a common answer without a number in it."""
    return {"status": NOT_JOINED, "reason": reason, "warnings": [], "groups": [], "modalities": [], "optima": []}
