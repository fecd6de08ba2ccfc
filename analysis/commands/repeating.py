"""`frontier TABLE.csv --law constrained`: how large a model and how many epochs, where images run out.

Muennighoff et al. 2023 (arXiv 2305.16264), section 5: with U unique images there are, C FLOPs go into parameters and
epochs. The optimum has no closed form; it is searched for on the line C = k N^power D of each draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from analysis.commands import approaches, documents
from analysis.commands.blending import no_optimum, resampled
from analysis.commands.documents import Document
from analysis.commands.how import How
from analysis.commands.spending import Budgets, in_flops
from analysis.fit import Fit, fit
from analysis.laws.constrained import CONSTRAINED, log_loss, log_suited
from analysis.optima.allocation import Approach, Optimum, Runs, natural, notes, runs_of
from analysis.optima.flops import Flops
from analysis.optima.frontier import cost_warnings, exponents, log_optimum
from analysis.points import Matrix, Vector
from analysis.tables.sheet import Group, Sheet
from analysis.tables.table import Table
from analysis.uncertainty import Uncertainty

INPUTS = CONSTRAINED.inputs
NOTE = (
    "approaches 1 and 2 know of no repeats: the law answers alone; n_images of an optimum is images seen, epochs times "
    "those there are"
)
GRID, ROUNDS = 201, 60
ROOM = 1.0
"""Beyond both ends of the line on which the optimum must lie, in ln N."""
SAME = 1e-3
"""Rise of the loss with half the budget up to which the other half is said to be wasted."""
GOLDEN = (np.sqrt(5) - 1) / 2


def repeated(
    group: Group,
    table: Table,
    numbers: Sheet,
    budgets: Budgets,
    unique: Sequence[float],
    flops_per: float | None,
    how: How,
) -> Document:
    """The group's answer."""
    x, n = group.fitted.x, len(INPUTS)
    flops = x[:, n] if len(numbers.inputs) > n else None
    runs = runs_of(x[:, 0], x[:, 2], flops, group.fitted.y, flops_per)
    asked, hours = in_flops(budgets, runs.flops, np.array(group.fitted_rows, np.int64) - 1, table)
    found = fit(CONSTRAINED, replace(group.fitted, x=x[:, :n]), objective=how.measure)
    one = _allocated(found, runs, asked, unique, how)
    return {
        "group": group.key,
        "rows": documents.rows([group]),
        "flops": approaches.cost(runs),
        **({"gpu_hours": hours} if budgets.gpu_hours else {}),
        "warnings": list(cost_warnings(runs.cost)),
        "approaches": [approaches.approach(one, group.fitted_rows)],
        "agreement": approaches.agreement([one]),
    }


def _allocated(found: Fit, runs: Runs, budgets: Sequence[float], unique: Sequence[float], how: How) -> Approach:
    status, reason = no_optimum(found)
    blank = Approach(name=CONSTRAINED.name, number=3, status=status, reason=reason, fit=found)
    if not blank.answered:
        return blank
    sure = resampled(found, how)
    ln_c = float(np.log(runs.flops.max()))
    a, b = (sure.of(partial(_exponent, which=which, cost=runs.cost)) for which in (0, 1))
    return Approach(
        name=CONSTRAINED.name,
        number=3,
        status=status,
        reason="",
        a=a,
        b=b,
        coefficient=float(np.exp(_unlimited(found.theta[None], ln_c, runs.cost)[0][0] - a.value * ln_c)),
        optima=tuple(_optimum(sure, runs, budget, u) for budget in budgets for u in unique),
        warnings=(*([found.reason] if found.reason else []), *sure.warnings),
        fit=found,
    )


def _exponent(thetas: Matrix, *, which: int, cost: Flops) -> Vector:
    """Of budgets that images do not limit."""
    return exponents(thetas[:, :5], cost)[which]


def best_size(thetas: Matrix, *, unique: float, log_flops: float, cost: Flops) -> tuple[Vector, Vector, Vector]:
    """ln N, ln D seen and ln L (B,) of the best use of C FLOPs with `unique` images, thetas (B, 7).

    Where images do not run out it is Chinchilla's optimum if C = k N D; another power of N moves it, as the law then
    counts parameters in excess of images. Else more parameters pay at least up to N_opt(U), and fewer epochs than one
    never do: a grid between, then a golden section about its best.
    """

    def at(ln_n: Matrix) -> Matrix:
        return log_loss(ln_n, unique, cost.log_n_images(log_flops, ln_n), thetas)

    plenty = log_optimum(thetas[:, :5], log_flops=log_flops, cost=cost)[0]
    suited = log_suited(np.full((len(thetas), 1), np.log(unique)), thetas)[:, 0]
    one_epoch = np.full(len(thetas), (log_flops - np.log(cost.k * unique)) / cost.power)
    ends = np.stack([plenty, suited, one_epoch])
    low, high = ends.min(axis=0) - ROOM, ends.max(axis=0) + ROOM
    grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, GRID)
    best = np.clip(at(grid).argmin(axis=1), 1, GRID - 2)
    rows = np.arange(len(thetas))
    low, high = grid[rows, best - 1], grid[rows, best + 1]
    for _ in range(ROUNDS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        lower = (at(left[:, None]) < at(right[:, None]))[:, 0]
        low, high = np.where(lower, low, left), np.where(lower, right, high)
    ln_n = (low + high) / 2
    return ln_n, np.asarray(cost.log_n_images(log_flops, ln_n)), at(ln_n[:, None])[:, 0]


def _unlimited(thetas: Matrix, log_flops: float, cost: Flops) -> tuple[Vector, Vector, Vector]:
    """With more images than the budget could show to a model of one parameter."""
    return best_size(thetas, unique=float(np.exp(log_flops)) / cost.k, log_flops=log_flops, cost=cost)


def _optimum(sure: Uncertainty, runs: Runs, budget: float, unique: float) -> Optimum:
    log_flops = float(np.log(budget))
    best = partial(best_size, unique=unique, log_flops=log_flops, cost=runs.cost)

    def limited(thetas: Matrix) -> Vector:
        return np.asarray(best(thetas)[2] - _unlimited(thetas, log_flops, runs.cost)[2])

    numbers: list[Callable[[Matrix], Vector]] = [
        lambda thetas: best(thetas)[0],
        lambda thetas: best(thetas)[1],
        lambda thetas: best(thetas)[2],
        lambda thetas: np.asarray(best(thetas)[1] - np.log(unique)),
        limited,
    ]
    n_params, seen, y, epochs, over = (natural(sure.of(one)) for one in numbers)
    said = list(notes(runs, budget, n_params, seen))
    x = sure.fit.points.x
    most = float((x[:, 2] / x[:, 1]).max())
    if epochs.value <= 1:
        said.append(f"{unique:.3g} images do not run out: {epochs.value:.3g} of them are seen, once")
    if epochs.value > most:
        said.append(f"{epochs.value / most:.3g} times the most epochs in the runs")
    half = best_size(sure.fit.theta[None], unique=unique, log_flops=log_flops - np.log(2), cost=runs.cost)
    if np.expm1(half[2][0] - np.log(y.value)) < SAME:
        said.append("half of this budget does as well within 0.1 %: sizes are flat about here")
    if unique > x[:, 1].max():
        said.append(f"{unique / x[:, 1].max():.3g} times the most unique images in the runs")
    return Optimum(
        budget=budget,
        n_params=n_params,
        n_images=seen,
        y=y,
        beyond=float(budget / runs.flops.max()),
        notes=tuple(said),
        unique=unique,
        epochs=epochs,
        over_unlimited=over,
    )
