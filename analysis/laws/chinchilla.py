"""L(N, D) = E + A / N^alpha + B / D^beta: what a small model costs, what few images cost, and what neither removes."""

from __future__ import annotations

import itertools

import numpy as np

from analysis.laws.law import MAX_EXPONENT, VANISHING, Derived, Law, Parameter
from analysis.laws.linear import coefficients
from analysis.points import Matrix, Stack, Vector

EXPONENTS = np.geomspace(0.03, 3.0, 16)
"""Of the starts, on both axes: neighbours differ by a factor 1.36, within which the best A, B, E change smoothly."""
ONE_LINE = 0.02
"""Spread of (ln N, ln D) across their main direction over that along it below which D is a power of N: rounding of
sizes that were meant to have one ratio gives about 0.01, isoFLOP designs 0.3."""


def evaluate(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    """thetas (B, 5): ln A, ln B, ln E, alpha, beta. Log-sum-exp of three terms; their shares are the gradient.

    The fit's time goes here, so everything is computed in place in the one array that holds the gradient, whose
    parameters come first in memory (a third faster than last).
    """
    ln_x = np.log(x)
    ln_n, ln_d = ln_x[:, 0], ln_x[:, 1]
    gradient = np.empty((5, len(thetas), len(x)))
    model, data, floor, by_alpha, by_beta = gradient
    np.subtract(thetas[:, 0:1], np.multiply(thetas[:, 3:4], ln_n, out=model), out=model)
    np.subtract(thetas[:, 1:2], np.multiply(thetas[:, 4:5], ln_d, out=data), out=data)
    curves = np.maximum(model, data)
    np.maximum(curves, thetas[:, 2:3], out=curves)
    model -= curves
    data -= curves
    np.subtract(thetas[:, 2:3], curves, out=floor)
    shares = gradient[:3]
    np.exp(shares, out=shares)
    total = np.add(model, data, out=by_alpha)
    total += floor
    curves += np.log(total, out=by_beta)
    shares /= total
    np.multiply(model, -ln_n, out=by_alpha)
    np.multiply(data, -ln_d, out=by_beta)
    return curves, np.moveaxis(gradient, 0, -1)


def bounds(x: Matrix, y: Vector) -> tuple[Vector, Vector]:
    """A and B end where their terms vanish, or exceed all data, at every size and for every exponent."""
    ln_x, ln_y = np.log(x[:, :2]), np.log(y)
    low = ln_y.min() - VANISHING + MAX_EXPONENT * np.minimum(ln_x.min(axis=0), 0.0)
    high = ln_y.max() + VANISHING + MAX_EXPONENT * np.maximum(ln_x.max(axis=0), 0.0)
    return (
        np.array([*low, ln_y.min() - VANISHING, 0.0, 0.0]),
        np.array([*high, ln_y.max(), MAX_EXPONENT, MAX_EXPONENT]),
    )


def starts(x: Matrix, y: Vector) -> Matrix:
    """A grid of (alpha, beta); A, B and E given these are solved for (variable projection)."""
    return _starts(x, y, np.array(list(itertools.product(EXPONENTS, EXPONENTS))))


def _starts(x: Matrix, y: Vector, exponents: Matrix) -> Matrix:
    ln_x = np.log(x[:, :2])
    centre = ln_x.mean(axis=0)
    powers = np.exp(-exponents[:, None, :] * (ln_x - centre))
    solved = coefficients(np.concatenate([powers, np.ones_like(powers[..., :1])], axis=-1), y)
    logs = np.log(solved)
    logs[:, :2] += exponents * centre
    return np.concatenate([logs, exponents], axis=1)


def unidentified(x: Matrix) -> str:
    return few_sizes(x, 3, 3) or one_line(x)


def few_sizes(x: Matrix, n_params: int, n_images: int) -> str:
    """Why a column has too few distinct values for its term of the law: a power above a floor takes three."""
    for column, name, needed, letters in (
        (0, "model size", n_params, "A, alpha"),
        (1, "data size", n_images, "B, beta"),
    ):
        n_distinct = len(np.unique(x[:, column]))
        if n_distinct < needed:
            return (
                f"{n_distinct} distinct {name}{'s' if n_distinct > 1 else ''}: {letters} and E cannot be told apart; "
                f"{needed} are needed"
            )
    return ""


def one_line(x: Matrix) -> str:
    """Why data sizes tied to model sizes separate nothing: along one line of (ln N, ln D) both terms are powers of N.

    One compute budget, where D falls as N grows, is no such line: its terms rise at opposite ends.
    """
    ln_x = np.log(x[:, :2])
    centred = ln_x - ln_x.mean(axis=0)
    spread = np.linalg.svd(centred, compute_uv=False)
    if (centred[:, 0] @ centred[:, 1]) <= 0 or spread[1] > ONE_LINE * spread[0]:
        return ""
    ratio = ln_x[:, 1] - ln_x[:, 0]
    if np.ptp(ratio) < 0.1:
        return f"every run has the same D/N, about {np.exp(ratio.mean()):.3g}: alpha and beta cannot be told apart"
    return "D is a power of N in every run: alpha and beta cannot be told apart"


def frontier_exponent(thetas: Matrix) -> Vector:
    """a of N_opt = G (C/k)^a; NaN where both exponents are zero."""
    with np.errstate(invalid="ignore"):
        return thetas[:, 4] / (thetas[:, 3] + thetas[:, 4])


def data_exponent(thetas: Matrix) -> Vector:
    """b of D_opt = (C/k)^b / G."""
    return 1 - frontier_exponent(thetas)


def log_frontier_factor(thetas: Matrix) -> Vector:
    """ln G = ln(alpha A / (beta B)) / (alpha + beta): Hoffmann et al. 2022, eq. 4; not finite at an exponent of 0."""
    ln_a, ln_b, _, alpha, beta = thetas[:, :5].T
    with np.errstate(divide="ignore", invalid="ignore"):
        return (ln_a - ln_b + np.log(alpha) - np.log(beta)) / (alpha + beta)


def frontier_factor(thetas: Matrix) -> Vector:
    with np.errstate(over="ignore"):
        return np.exp(log_frontier_factor(thetas))


A = Parameter(name="A", meaning="loss that a model of one parameter adds", log=True)
B = Parameter(name="B", meaning="loss that a single image adds", log=True)
E = Parameter(name="E", meaning="floor: the loss that no scale removes", log=True)
FRONTIER = (
    Derived(name="a", meaning="exponent of the compute-optimal model size, N_opt ~ C^a", compute=frontier_exponent),
    Derived(name="b", meaning="exponent of the compute-optimal data size, D_opt ~ C^b", compute=data_exponent),
    Derived(name="G", meaning="N_opt at C = k FLOPs: N_opt = G (C/k)^a", compute=frontier_factor),
)
EXAMPLE_X = np.array(list(itertools.product(np.geomspace(1e6, 1e9, 5), np.geomspace(1e5, 1e9, 5))))

CHINCHILLA = Law(
    name="chinchilla",
    formula="E + A N^-alpha + B D^-beta",
    source="Hoffmann et al. 2022 (arXiv 2203.15556), equation 2; Besiroglu et al. 2024 (arXiv 2404.10102)",
    inputs=("n_params", "n_images"),
    parameters=(
        A,
        B,
        E,
        Parameter(name="alpha", meaning="exponent of the model size"),
        Parameter(name="beta", meaning="exponent of the data size"),
    ),
    evaluate=evaluate,
    bounds=bounds,
    starts=starts,
    unidentified=unidentified,
    derived=FRONTIER,
    example={"A": 480.0, "B": 2100.0, "E": 1.8, "alpha": 0.35, "beta": 0.37},
    example_x=EXAMPLE_X,
)


def untied(thetas: Matrix) -> Matrix:
    """(B, 4) thetas of the tied law -> (B, 5) of the free one."""
    return thetas[:, [0, 1, 2, 3, 3]]


def tied_evaluate(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    curves, gradient = evaluate(x, untied(thetas))
    gradient[..., 3] += gradient[..., 4]
    return curves, gradient[..., :4]


def tied_bounds(x: Matrix, y: Vector) -> tuple[Vector, Vector]:
    low, high = bounds(x, y)
    return low[:4], high[:4]


def tied_starts(x: Matrix, y: Vector) -> Matrix:
    exponents = np.geomspace(EXPONENTS[0], EXPONENTS[-1], 64)
    return _starts(x, y, np.column_stack([exponents, exponents]))[:, :4]


def tied_unidentified(x: Matrix) -> str:
    """One axis with three sizes finds the exponent for both; the other then needs two for its coefficient."""
    needed = (2, 3) if len(np.unique(x[:, 0])) < len(np.unique(x[:, 1])) else (3, 2)
    return few_sizes(x, *needed) or one_line(x).replace("alpha and beta", "A and B")


CHINCHILLA_TIED = Law(
    name="chinchilla_tied",
    formula="E + A N^-alpha + B D^-alpha",
    source="Muennighoff et al. 2023 (arXiv 2305.16264), section 3: alpha = beta, so that N_opt and D_opt grow alike",
    inputs=("n_params", "n_images"),
    parameters=(A, B, E, Parameter(name="alpha", meaning="exponent of both sizes")),
    evaluate=tied_evaluate,
    bounds=tied_bounds,
    starts=tied_starts,
    unidentified=tied_unidentified,
    derived=(
        Derived(
            name="G",
            meaning="N_opt at C = k FLOPs: N_opt = G (C/k)^0.5",
            compute=lambda thetas: frontier_factor(untied(thetas)),
        ),
    ),
    example={"A": 500.0, "B": 1500.0, "E": 1.9, "alpha": 0.35},
    example_x=EXAMPLE_X,
)
